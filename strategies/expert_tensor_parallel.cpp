// Expert parallelism over groups of tensor-parallel ranks (DeepSpeed-TED, arXiv 2303.06318): `tensor_parallel`
// consecutive ranks slice attention, dense parts and every expert, and replicate their tokens; ranks of the same
// position in their group exchange token copies, each of its share of the group's tokens. What arrives is gathered in
// the group, computed in slices, reduced to shares, and returned. Without drop_duplicates all ranks exchange all
// copies, partial sums return, and they are reduced after the combine: tp times the bytes between groups.
#include "strategies/exchange.hpp"

namespace moesim::strategies {

static Plan plan_expert_tensor_parallel(const Input& in) {
  const int ranks = in.cluster.ranks();
  const int tp = static_cast<int>(in.options.integer("tensor_parallel"));
  ExchangeOptions options = exchange_options(in);
  options.drop_duplicates = in.options.flag("drop_duplicates");
  Transformer t(in, tp);
  Groups groups(static_cast<std::size_t>(tp));
  for (int r = 0; r < ranks; ++r) groups[static_cast<std::size_t>(r % tp)].emplace_back(r);
  const ExpertMaps maps = expert_maps(in, groups);
  t.plan().describe(maps.origin);
  return t.build([&](const MoeLayer& moe) { return exchange(t, moe, groups, maps, tp, options); });
}

Strategy expert_tensor_parallel() {
  std::vector<OptionSpec> options = exchange_option_specs();
  options.insert(
      options.begin(),
      {{"tensor_parallel", std::int64_t{2}, "consecutive ranks that slice attention and experts", 1, 1e6, {}},
       {"drop_duplicates",
        true,
        "each rank of a tensor-parallel group sends a share of its tokens; the group gathers what arrives and "
        "reduces before the way back",
        0,
        0,
        {}}});
  return {"expert_tensor_parallel", "expert parallelism between tensor-parallel groups", std::move(options),
          plan_expert_tensor_parallel};
}

}  // namespace moesim::strategies
