// Expert parallelism over data-parallel ranks: each rank holds whole experts and its own tokens; attention and dense
// parts are replicated. Padded to a capacity factor it is what DeepSpeed-MoE does (arXiv 2201.05596); with capacity
// factor 0 no copy is dropped and no row is padding.
#include "strategies/exchange.hpp"

namespace moesim::strategies {

static Plan plan_expert_parallel(const Input& in) {
  const ExchangeOptions options = exchange_options(in);
  // Groups repeat with replicated experts.
  const Groups groups = consecutive_groups(in.cluster.ranks(), in.options.integer("size"));
  const ExpertMaps maps = expert_maps(in, groups);
  Transformer t(in, 1);
  t.plan().describe(maps.origin);
  return t.build([&](const MoeLayer& moe) { return exchange(t, moe, groups, maps, 1, options); });
}

Strategy expert_parallel() {
  std::vector<OptionSpec> options = exchange_option_specs();
  options.insert(options.begin(),
                 {"size", std::int64_t{0}, "ranks that share one set of experts; 0 = all", 0, 1e6, {}});
  return {"expert_parallel", "whole experts on ranks, tokens exchanged (DeepSpeed-MoE padded, or dropless)",
          std::move(options), plan_expert_parallel};
}

}  // namespace moesim::strategies
