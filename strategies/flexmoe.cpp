// FlexMoE (SIGMOD'23): hot experts have replicas, with optimizer states, in slots that every GPU keeps for them; every
// so many iterations replicas of cold experts make room for more of hot ones, by past loads.
#include "strategies/gathered_experts.hpp"
#include "strategies/materialization/materialization.hpp"

namespace moesim::strategies {
namespace {

struct FlexState final : StrategyState {
  std::vector<ExpertPlacement> placements;
};

Plan plan_flexmoe(const Input& in) {
  check_gathered(in);
  LoadHistory none;
  LoadHistory& past = in.past != nullptr ? *in.past : none;
  const auto load = past.estimate(in.routing);
  if (past.state == nullptr) {
    auto fresh = std::make_unique<FlexState>();
    const auto spare = static_cast<int>(in.options.integer("spare_slots"));
    for (const std::vector<double>& l : load)
      fresh->placements.push_back(
          materialization::with_spare_slots(static_cast<int>(l.size()), in.cluster.ranks(), spare));
    past.state = std::move(fresh);
  }
  auto& placements = dynamic_cast<FlexState&>(*past.state).placements;
  const bool due = past.iterations() > 0 && (past.iterations() - 1) % in.options.integer("adjust_every") == 0;
  std::vector<LayerPlacement> layers;
  for (std::size_t l = 0; l < load.size(); ++l) {
    LayerPlacement p;
    if (due) {
      ExpertPlacement next = materialization::replicate_and_shrink(placements[l], load[l],
                                                                   static_cast<int>(in.options.integer("changes")));
      if (next != placements[l]) p.moved_from = placements[l];
      placements[l] = std::move(next);
    }
    p.owners = p.before = placements[l];
    layers.push_back(std::move(p));
  }
  return plan_gathered(in, layers, {});
}

}  // namespace

Strategy flexmoe() {
  return {"flexmoe",
          "replicas of hot experts with their optimizer states, adjusted step by step (FlexMoE)",
          {{"spare_slots", std::int64_t{2}, "slots of a GPU and layer beside its share of the experts", 1, 1024, {}},
           {"adjust_every", std::int64_t{10}, "iterations between two adjustments", 1, 1e9, {}},
           {"changes", std::int64_t{4}, "replicas that one adjustment of a layer may add", 1, 65535, {}}},
          plan_flexmoe};
}

}  // namespace moesim::strategies
