// Tensor parallelism alone (Megatron-LM, arXiv 1909.08053): every rank of a group holds a slice of everything, all
// experts included, and works on the same tokens; one all-reduce after attention and one after the experts.
#include "strategies/sliced_experts.hpp"

namespace moesim::strategies {

static Plan plan_tensor_parallel(const Input& in) {
  const auto size = static_cast<int>(consecutive_groups(in.cluster.ranks(), in.options.integer("size")).front().size());
  Transformer t(in, size);
  return t.build([&](const MoeLayer& moe) {
    PlanBuilder& b = t.plan();
    const BufferId choice = t.gate(moe);
    const Table counts = expert_counts(in.routing, moe.index, t.tokens());
    const TableId routed = b.table(by_rank(counts, b.plan()));
    const SlicedExperts experts(t, moe, t.tp_groups(), routed, SlicedExperts::Kernel::fused);
    b.count_copies(counts.sum(), 0);
    const Rows copies{0, routed};
    Groups alone;
    for (int r = 0; r < t.ranks(); ++r) alone.push_back({Rank(r)});
    const auto permute = [&](RowOrder from, RowOrder to, Rows in_rows, Rows out_rows) {
      return Permute{from, to,      moe.index, routed,          b.groups(alone), {},
                     0,    in_rows, out_rows,  in.model.hidden, t.act(),         Launch{}};
    };
    const std::int64_t h = in.model.hidden;
    const BufferId x = t.op(moe.prefix + ".permute", Category::dispatch, moe.layer, {moe.x, choice}, copies, h, t.act(),
                            permute(RowOrder::token, RowOrder::by_slot, t.token_rows(), copies));
    const BufferId y = experts.compute(x);
    return t.op(moe.prefix + ".unpermute", Category::combine, moe.layer, {y, choice}, t.token_rows(), h, t.act(),
                permute(RowOrder::by_slot, RowOrder::token, copies, t.token_rows()));
  });
}

Strategy tensor_parallel() {
  return {"tensor_parallel",
          "a slice of everything on every rank; all-reduce after attention and experts",
          {{"size", std::int64_t{0}, "ranks of a group; 0 = all", 0, 1e6, {}}},
          plan_tensor_parallel};
}

}  // namespace moesim::strategies
