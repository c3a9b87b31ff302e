#include "strategies/sliced_experts.hpp"

namespace moesim::strategies {

SlicedExperts::SlicedExperts(Transformer& t, const MoeLayer& moe, GroupsId groups, TableId rows, Kernel kernel)
    : t_(t),
      moe_(moe),
      groups_(groups),
      slices_(static_cast<int>(t.plan().plan().groups[groups.index()].front().size())),
      columns_(divide(moe.block->expert.intermediate, slices_, "expert columns")),
      rows_(rows),
      kernel_(kernel) {}

BufferId SlicedExperts::gemm(const char* name, BufferId x, std::int64_t n, std::int64_t k, Shard shard) const {
  const DType weight = t_.input().model.expert_weights;
  const Math math = t_.math_for(weight);
  const DType in = math == Math::fp8 || math == Math::int8 ? weight : t_.act();
  const std::int64_t experts = moe_.block->experts;
  shard.groups = groups_;
  shard.matrix_rows = k;
  const BufferId w = t_.weight(moe_.prefix + name + ".weight", Rows{experts * k, {}}, n, weight, std::move(shard));
  return t_.op(moe_.prefix + name, Category::experts, moe_.layer, {x, w}, Rows{0, rows_}, n, t_.act(),
               GroupedGemm{GroupedGemm::Form::forward, rows_, experts, n, k, in, weight, t_.act(), math,
                           Launch{kernel_ == Kernel::per_group, 1}, kernel_ == Kernel::block_sparse});
}

BufferId SlicedExperts::compute(BufferId x) const {
  const FeedForward& expert = moe_.block->expert;
  const std::int64_t up_cols = expert.gated ? 2 * columns_ : columns_;
  const std::int64_t h = t_.input().model.hidden;
  const Rows rows{0, rows_};
  Shard up;
  up.sections.assign(expert.gated ? 2 : 1, {columns_, slices_});
  Shard down;
  down.by_rows = true;
  BufferId y = gemm(".up", x, up_cols, h, up);
  const auto fn = expert.gated ? Elementwise::Fn::gated : Elementwise::Fn::activation;
  y = t_.op(moe_.prefix + ".activation", Category::experts, moe_.layer, {y}, rows, columns_, t_.act(),
            Elementwise{fn, rows, up_cols, columns_, t_.act(), 0, expert.activation});
  return gemm(".down", y, h, columns_, down);
}

}  // namespace moesim::strategies
