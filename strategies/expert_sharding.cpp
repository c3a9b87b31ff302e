// MoEShard, expert tensor sharding (arXiv 2503.08467): every rank holds a slice of EVERY expert, so every rank does the
// same work whatever the skew, and no token is dropped. Tokens are data-parallel outside the experts; inside a group
//   1. route, and tell each other how many tokens each expert gets;
//   2. all-gather the tokens (uneven);
//   3. compute a partial sum of every expert for every token;
//   4. reduce-scatter the partial sums to the tokens' homes (uneven).
// With top_k = 1 tokens travel sorted by expert, as in the paper. With top_k > 1 that would move a token top_k times,
// so tokens travel once and are copied, and their partial sums weighted and added, where the experts are.
#include <algorithm>

#include "strategies/sliced_experts.hpp"

namespace moesim::strategies {
namespace {

using Kernel = SlicedExperts::Kernel;

// Rows of each (source, expert) that every member of a group computes: [ranks, sources x experts], or summed over the
// sources: [ranks, experts].
Table gathered_rows(const Table& routed, const Groups& groups, int ranks, bool keep_sources) {
  const auto sources = static_cast<int>(groups.front().size());
  const int experts = routed.cols();
  const bool same_everywhere = groups.size() == 1;
  Table out(same_everywhere ? 1 : ranks, keep_sources ? sources * experts : experts);
  for (const std::vector<Rank>& g : groups)
    for (const Rank r : g) {
      if (same_everywhere && r != g.front()) continue;
      for (int i = 0; i < sources; ++i)
        for (int e = 0; e < experts; ++e) {
          std::int32_t& cell = out.at(r.value(), keep_sources ? i * experts + e : e);
          cell = to_count(std::int64_t{cell} + routed.at(g[static_cast<std::size_t>(i)].value(), e));
        }
    }
  return out;
}

Table summed(const Table& t) {
  Table out(t.rows(), 1);
  for (int r = 0; r < t.rows(); ++r) out.at(r, 0) = to_count(t.row_sum(r));
  return out;
}

class Block {
 public:
  Block(Transformer& t, const MoeLayer& moe, const Groups& groups, const Options& options)
      : t_(t), moe_(moe), groups_(groups), options_(options), by_expert_(moe.block->top_k == 1) {
    const std::string& kernel = options.text("kernel");
    per_source_ = kernel == "per_source";
    algorithm_ =
        options.flag("per_root_collectives") ? Collective::Algorithm::per_root : Collective::Algorithm::automatic;
    kernel_ = kernel == "block_sparse" ? Kernel::block_sparse : kernel == "fused" ? Kernel::fused : Kernel::per_group;
  }

  BufferId add() {
    PlanBuilder& b = t_.plan();
    const BufferId choice = t_.gate(moe_);
    const Table counts = expert_counts(t_.input().routing, moe_.index, t_.tokens());
    b.count_copies(counts.sum(), 0);
    const Table routed = by_rank(counts, b.plan());
    routed_ = b.table(routed);
    groups_id_ = b.groups(groups_);
    const TableId compute_rows = b.table(gathered_rows(routed, groups_, t_.ranks(), per_source_));
    const Rows copies{0, compute_rows};
    // Rows on the wire: the group's tokens (top_k = 1: their only copies).
    const Rows gathered = by_expert_ ? Rows{0, b.table(summed(b.plan().table(compute_rows)))} : tokens_of_group();

    exchange_counts(choice);
    const BufferId own = by_expert_ ? permute(".permute", Category::dispatch, moe_.x, choice, RowOrder::token,
                                              RowOrder::by_slot, t_.token_rows(), t_.token_rows(), "permute_kernels")
                                    : moe_.x;
    BufferId x = collective(".all_gather", Category::dispatch, Collective::Kind::all_gather_v, own, gathered);
    moe_.add_shared_expert();
    const RowOrder wire = by_expert_ ? RowOrder::by_source : RowOrder::unique_by_source;
    const RowOrder grouped = per_source_ ? RowOrder::by_source : RowOrder::by_slot;
    const bool regroup = wire != grouped;
    if (regroup) x = permute(".group", Category::dispatch, x, choice, wire, grouped, gathered, copies, "group_kernels");
    BufferId y = SlicedExperts(t_, moe_, groups_id_, compute_rows, kernel_).compute(x);
    if (regroup)
      y = permute(".ungroup", Category::combine, y, choice, grouped, wire, copies, gathered, "group_kernels");
    y = collective(".reduce_scatter", Category::combine, Collective::Kind::reduce_scatter_v, y, t_.token_rows());
    if (!by_expert_) return y;
    return permute(".unpermute", Category::combine, y, choice, RowOrder::by_slot, RowOrder::token, t_.token_rows(),
                   t_.token_rows(), "permute_kernels");
  }

 private:
  // |experts| int32 counts from every rank to every other; with top_k > 1 also each token's experts and weights. The
  // host reads them before it can size what follows.
  void exchange_counts(BufferId choice) {
    PlanBuilder& b = t_.plan();
    const auto members = static_cast<std::int64_t>(groups_.front().size());
    Table one(1, 1);
    one.at(0, 0) = 1;
    const std::int64_t experts = moe_.block->experts;
    const BufferId counts =
        t_.op(moe_.prefix + ".counts", Category::dispatch, moe_.layer, {choice}, Rows{members, {}}, experts, DType::i32,
              Collective{Collective::Kind::all_gather_v,
                         Collective::Algorithm::automatic,
                         groups_id_,
                         b.table(one),
                         experts,
                         DType::i32,
                         0,
                         {},
                         {}},
              communication_stream, BufferRole::communication);
    if (!by_expert_)
      collective(".choices", Category::dispatch, Collective::Kind::all_gather_v, choice, tokens_of_group(),
                 2 * moe_.block->top_k, DType::f32);
    b.add({moe_.prefix + ".counts_to_host",
           Category::dispatch,
           Pass::forward,
           moe_.layer,
           communication_stream,
           {},
           {counts},
           {},
           HostSync{}});
  }

  Rows tokens_of_group() {
    const Plan& plan = t_.plan().plan();
    Table out(plan.ranks, 1);
    for (const std::vector<Rank>& g : groups_) {
      std::int64_t sum = 0;
      for (const Rank r : g) sum += plan.rows(t_.token_rows(), r);
      for (const Rank r : g) out.at(r.value(), 0) = to_count(sum);
    }
    return Rows{0, t_.plan().table(std::move(out))};
  }

  BufferId collective(const char* name, Category category, Collective::Kind kind, BufferId x, Rows out) {
    return collective(name, category, kind, x, out, t_.input().model.hidden, t_.act());
  }
  BufferId collective(const char* name, Category category, Collective::Kind kind, BufferId x, Rows out,
                      std::int64_t cols, DType dtype) {
    return t_.op(moe_.prefix + name, category, moe_.layer, {x}, out, cols, dtype,
                 Collective{kind, algorithm_, groups_id_, t_.token_rows().table, cols, dtype, 0, {}, {}},
                 communication_stream, BufferRole::communication);
  }

  BufferId permute(const char* name, Category category, BufferId x, BufferId choice, RowOrder from, RowOrder to,
                   Rows in, Rows out, std::string_view kernels) {
    const auto per_expert = static_cast<int>(options_.integer(kernels));
    const std::int64_t h = t_.input().model.hidden;
    return t_.op(moe_.prefix + name, category, moe_.layer, {x, choice}, out, h, t_.act(),
                 Permute{from,
                         to,
                         moe_.index,
                         routed_,
                         groups_id_,
                         {},
                         0,
                         in,
                         out,
                         h,
                         t_.act(),
                         Launch{per_expert > 0, std::max(per_expert, 1),
                                static_cast<int>(options_.integer("permute_passes")), options_.flag("host_indexing")}});
  }

  Transformer& t_;
  const MoeLayer& moe_;
  const Groups& groups_;
  const Options& options_;
  bool by_expert_;  // tokens travel sorted by expert; otherwise in token order
  bool per_source_ = false;
  Collective::Algorithm algorithm_;
  Kernel kernel_ = Kernel::fused;
  TableId routed_;
  GroupsId groups_id_;
};

Plan plan_expert_sharding(const Input& in) {
  const Groups groups = consecutive_groups(in.cluster.ranks(), in.options.integer("size"));
  Transformer t(in, 1);
  return t.build([&](const MoeLayer& moe) { return Block(t, moe, groups, in.options).add(); });
}

}  // namespace

Strategy expert_sharding() {
  return {"expert_sharding",
          "a slice of every expert on every rank: all-gather, partial sums, reduce-scatter (MoEShard)",
          {{"size", std::int64_t{0}, "ranks that share the experts; 0 = all", 0, 1e6, {}},
           {"kernel",
            std::string("block_sparse"),
            "a GEMM per expert and source rank, one grouped GEMM over fused sources, or one block-sparse launch",
            0,
            0,
            {"per_source", "fused", "block_sparse"}},
           {"per_root_collectives",
            false,
            "uneven gathers and scatters are a broadcast or reduce per rank, in turn, as PyTorch issues them",
            0,
            0,
            {}},
           {"permute_passes", std::int64_t{1}, "times that a permutation streams its rows through memory", 1, 100, {}},
           {"host_indexing",
            false,
            "the host picks each expert's rows by a mask: it waits for each expert's before it issues the next",
            0,
            0,
            {}},
           {"permute_kernels",
            std::int64_t{0},
            "framework operations per expert to sort tokens by expert and back; 0 = one operation for all",
            0,
            1000,
            {}},
           {"group_kernels",
            std::int64_t{0},
            "framework operations per expert to fuse its tokens from all sources; 0 = one operation for all",
            0,
            1000,
            {}}},
          plan_expert_sharding};
}

}  // namespace moesim::strategies
