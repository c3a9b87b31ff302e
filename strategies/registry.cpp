// Every strategy, by name. Adding one: write its file, declare it here, add a line to the list.
#include <algorithm>

#include "strategies/strategy.hpp"

namespace moesim::strategies {

Strategy expert_parallel();
Strategy expert_sharding();
Strategy expert_tensor_parallel();
Strategy tensor_parallel();
Strategy fastermoe();
Strategy flexmoe();
Strategy fsdp();
Strategy hecate();
Strategy hecate_materialization();
Strategy hecate_sharding();
Strategy smartmoe();

const std::vector<Strategy>& all() {
  static const std::vector<Strategy> list{
      expert_parallel(),
      expert_sharding(),
      expert_tensor_parallel(),
      tensor_parallel(),
      hecate(),
      hecate_sharding(),
      hecate_materialization(),
      fsdp(),
      fastermoe(),
      smartmoe(),
      flexmoe(),
  };
  return list;
}

const Strategy* find(std::string_view name) {
  const auto found = std::ranges::find(all(), name, &Strategy::name);
  return found == all().end() ? nullptr : &*found;
}

}  // namespace moesim::strategies
