#include "strategies/gathered_experts.hpp"

#include <fmt/format.h>

#include <set>

#include "strategies/exchange.hpp"
#include "strategies/materialization/materialization.hpp"

namespace moesim::strategies {
namespace {

class Builder {
 public:
  Builder(const Input& in, const std::vector<LayerPlacement>& layers, const GatherOptions& options)
      : in_(in), layers_(layers), options_(options), t_(in, 1), b_(t_.plan()) {
    Groups all(1);
    for (int r = 0; r < t_.ranks(); ++r) all.front().emplace_back(r);
    all_ = all;
    group_ = b_.groups(all);
    // To the rank's own copy, else to the same node's, else to all: section 4 of the paper.
    maps_.dispatch = placement::Dispatch::local_first;
    for (int r = 0; r < t_.ranks(); ++r) maps_.node_of_member.push_back(r / in.cluster.gpus_per_node);
    for (const LayerPlacement& p : layers) maps_.layers.push_back(p.used());
  }

  Plan build() && {
    t_.before_each_layer([this](const MoeLayer& moe) { before(moe); });
    return t_.build([this](const MoeLayer& moe) { return layer(moe); });
  }

 private:
  static constexpr const char* parts[] = {".up", ".down"};
  struct Part {
    std::int64_t n, k;
  };
  [[nodiscard]] Part shape(const MoeBlock& block, std::size_t part) const {
    const std::int64_t h = in_.model.hidden;
    const std::int64_t f = block.expert.intermediate;
    return part == 0 ? Part{block.expert.gated ? 2 * f : f, h} : Part{h, f};
  }
  [[nodiscard]] Rows rows_of(const ExpertPlacement& placement, std::int64_t k) {
    Table rows(t_.ranks(), 1);
    for (int r = 0; r < t_.ranks(); ++r) rows.at(r, 0) = to_count(placement.slots_on(Rank(r)) * k);
    return {0, b_.table(std::move(rows))};
  }
  [[nodiscard]] Shard shard_of(const ExpertPlacement& placement, std::int64_t k) {
    Shard shard;
    shard.matrix_rows = k;
    shard.expert_groups = group_;
    shard.placement = b_.placement(placement);
    return shard;
  }

  // Owners' weights, what moves to them, and the copies that are gathered ahead.
  void before(const MoeLayer& moe) {
    const LayerPlacement& p = layers_[static_cast<std::size_t>(moe.index)];
    owned_.clear();
    for (std::size_t i = 0; i < 2; ++i) {
      const Part s = shape(*moe.block, i);
      owned_.push_back(t_.weight(moe.prefix + parts[i] + ".weight", rows_of(p.owners, s.k), s.n,
                                 in_.model.expert_weights, shard_of(p.owners, s.k)));
    }
    if (p.moved_from) move(moe, p);
    held_ = owned_;
    if (p.before == p.owners) return;
    const OpId begun(b_.plan().ops.size() - 1);  // all before this layer
    for (std::size_t i = 0; i < 2; ++i)
      held_[i] = gather(moe, fmt::format("{}.gather{}", moe.prefix, parts[i]), i, p.owners, p.before, {owned_[i]},
                        options_.beside_attention ? std::vector{begun} : std::vector<OpId>{});
  }

  // On the compute stream: nothing of the iteration runs before its experts have arrived.
  void move(const MoeLayer& moe, const LayerPlacement& p) {
    const std::int64_t state = in_.model.expert_weights == DType::f32 ? 3 : 7;  // parameters, master weights, moments
    Collective c;
    c.kind = Collective::Kind::send_recv;
    c.groups = group_;
    c.counts = b_.table(materialization::moves(*p.moved_from, p.owners));
    c.from = b_.placement(*p.moved_from);
    c.to = b_.placement(p.owners);
    c.cols = detail::checked_mul(
        shape(*moe.block, 0).n * shape(*moe.block, 0).k + shape(*moe.block, 1).n * shape(*moe.block, 1).k, state);
    c.dtype = in_.model.expert_weights;
    std::vector<BufferId> writes = owned_;
    for (const BufferId w : owned_) writes.push_back(t_.optimizer_state(w));
    b_.add({moe.prefix + ".move",
            Category::parameters,
            Pass::update,
            moe.layer,
            compute_stream,
            {},
            {},
            std::move(writes),
            c});
  }

  BufferId gather(const MoeLayer& moe, const std::string& name, std::size_t part, const ExpertPlacement& from,
                  const ExpertPlacement& to, std::vector<BufferId> reads, std::vector<OpId> after = {}) {
    const Part s = shape(*moe.block, part);
    Collective c;
    c.kind = Collective::Kind::sparse_all_gather;
    c.groups = group_;
    c.cols = s.n * s.k;
    c.dtype = in_.model.expert_weights;
    c.from = b_.placement(from);
    c.to = b_.placement(to);
    const BufferId out = b_.buffer({name, BufferRole::gathered, Location::device, in_.model.expert_weights,
                                    rows_of(to, s.k), s.n, shard_of(to, s.k)});
    const OpId op = b_.add({name,
                            Category::parameters,
                            Pass::forward,
                            moe.layer,
                            parameter_stream,
                            std::move(after),
                            std::move(reads),
                            {out},
                            c});
    if (options_.gather_again) t_.run_again(op);
    return out;
  }

  BufferId layer(const MoeLayer& moe) {
    const LayerPlacement& p = layers_[static_cast<std::size_t>(moe.index)];
    ExchangeOptions options;
    options.dispatch = in_.workload.activations;
    ExpertSource source;
    source.local = options_.local;
    source.after_gate = [&](BufferId choice) {
      if (!p.after || *p.after == p.before) return;
      for (std::size_t i = 0; i < 2; ++i) {
        std::vector<BufferId> reads{owned_[i], choice};
        if (held_[i] != owned_[i]) reads.insert(reads.begin() + 1, held_[i]);
        held_[i] = gather(moe, fmt::format("{}.correct{}", moe.prefix, parts[i]), i, p.before, *p.after, reads);
      }
    };
    source.weights = [&](std::size_t part) { return held_[part]; };
    return exchange(t_, moe, all_, maps_, 1, options, source);
  }

  const Input& in_;
  const std::vector<LayerPlacement>& layers_;
  const GatherOptions& options_;
  Transformer t_;
  PlanBuilder& b_;
  Groups all_;
  GroupsId group_;
  ExpertMaps maps_;
  std::vector<BufferId> owned_;  // of the layer at hand, by part
  std::vector<BufferId> held_;
};

}  // namespace

Bytes expert_bytes(const Input& in, const MoeBlock& block) {
  return storage(parameters(block.expert, in.model.hidden), in.model.expert_weights);
}

Plan plan_gathered(const Input& in, const std::vector<LayerPlacement>& layers, const GatherOptions& options) {
  std::size_t l = 0;
  for (const TransformerLayer& layer : in.model.layers) {
    if (!layer.moe) continue;
    std::set<LogicalExpert> owned(layers.at(l).owners.expert_of_slot.begin(), layers[l].owners.expert_of_slot.end());
    for (std::int64_t e = 0; e < layer.moe->experts; ++e)
      if (owned.count(LogicalExpert(static_cast<std::size_t>(e))) == 0)
        throw Infeasible(fmt::format("MoE layer {}: expert {} of {} has no owner", l, e, layer.moe->experts));
    ++l;
  }
  return Builder(in, layers, options).build();
}

void check_gathered(const Input& in) {
  if (in.workload.phase != Workload::Phase::train) throw Infeasible("it is a way to train: use phase = \"train\"");
  const int ranks = in.cluster.ranks();
  if (ranks < 2) throw Infeasible("one GPU holds every expert: there is nothing to gather");
  for (const TransformerLayer& layer : in.model.layers)
    if (layer.moe) divide(layer.moe->experts, ranks, "experts");
}

Table current_counts(const Input& in, int moe_layer) {
  TokenRanges ranges = TokenRanges::even(in.workload.sequences, static_cast<std::size_t>(in.cluster.ranks()));
  for (std::int64_t& begin : ranges.begin) begin *= in.workload.new_tokens();
  return expert_counts(in.routing, moe_layer, ranges);
}

}  // namespace moesim::strategies
