// SmartMoE (ATC'23): expert parallelism whose experts change places every so many iterations, by past loads, with their
// optimizer states.
#include "strategies/gathered_experts.hpp"
#include "strategies/materialization/materialization.hpp"

namespace moesim::strategies {
namespace {

struct SmartState final : StrategyState {
  std::vector<ExpertPlacement> owners;
};

Plan plan_smartmoe(const Input& in) {
  check_gathered(in);
  LoadHistory none;
  LoadHistory& past = in.past != nullptr ? *in.past : none;
  const auto load = past.estimate(in.routing);
  if (past.state == nullptr) {
    auto fresh = std::make_unique<SmartState>();
    for (const std::vector<double>& l : load)
      fresh->owners.push_back(contiguous_placement(static_cast<int>(l.size()), in.cluster.ranks()));
    past.state = std::move(fresh);
  }
  auto& owners = dynamic_cast<SmartState&>(*past.state).owners;
  const bool due = past.iterations() > 0 && (past.iterations() - 1) % in.options.integer("exchange_every") == 0;
  std::vector<LayerPlacement> layers;
  for (std::size_t l = 0; l < load.size(); ++l) {
    LayerPlacement p;
    if (due) {
      ExpertPlacement next = materialization::exchange_experts(owners[l], load[l]);
      if (next != owners[l]) p.moved_from = owners[l];
      owners[l] = std::move(next);
    }
    p.owners = p.before = owners[l];
    layers.push_back(std::move(p));
  }
  return plan_gathered(in, layers, {});
}

}  // namespace

Strategy smartmoe() {
  return {"smartmoe",
          "experts change places every so many iterations (SmartMoE)",
          {{"exchange_every", std::int64_t{25}, "iterations between two exchanges", 1, 1e9, {}}},
          plan_smartmoe};
}

}  // namespace moesim::strategies
