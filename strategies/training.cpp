#include "strategies/training.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace moesim::strategies {
namespace {

// Ranks at one position of the groups: they hold the same experts.
Groups across(const Groups& groups) {
  Groups out(groups.front().size());
  for (const std::vector<Rank>& g : groups)
    for (std::size_t j = 0; j < g.size(); ++j) out[j].push_back(g[j]);
  return out;
}

bool replicates(const ExpertPlacement& p) {
  std::vector<LogicalExpert> experts = p.expert_of_slot;
  std::ranges::sort(experts);
  return std::ranges::adjacent_find(experts) != experts.end();
}

class Reduction {
 public:
  Reduction(Transformer& t, std::string name, Layer layer)
      : t_(t), b_(t.plan()), name_(std::move(name)), layer_(layer) {}

  void add(BufferId weight, BufferId gradient) {
    const Shard& s = b_.plan().buffer(weight).shard;
    if (s.placement.valid()) return expert(weight, gradient);
    // Training slices no dense weight by tensor parallelism: one that is sliced is fully sharded, and its sum has come
    // by a reduce-scatter.
    if (s.groups.valid() || t_.ranks() == 1) return;
    Groups all(1);
    for (int r = 0; r < t_.ranks(); ++r) all.front().emplace_back(r);
    buckets_[{b_.groups(all), b_.plan().buffer(weight).dtype}].push_back(gradient);
  }

  void finish() {
    for (const auto& [key, gradients] : buckets_) all_reduce(key.first, key.second, gradients);
  }

 private:
  using Key = std::pair<GroupsId, DType>;

  // Copies that were gathered gave their gradients to all owners already.
  [[nodiscard]] bool summed(BufferId gradient) const {
    return std::ranges::any_of(b_.plan().ops, [&](const Op& op) {
      const auto* c = std::get_if<Collective>(&op.work);
      return c != nullptr && c->kind == Collective::Kind::sparse_reduce_scatter && op.writes.front() == gradient;
    });
  }

  void expert(BufferId weight, BufferId gradient) {
    const Buffer w = b_.plan().buffer(weight);
    const Groups groups = b_.plan().groups[w.shard.expert_groups.index()];
    if (replicates(b_.plan().placements[w.shard.placement.index()]) && !summed(gradient)) {
      Collective sum;
      sum.kind = Collective::Kind::sparse_reduce_scatter;
      sum.groups = w.shard.expert_groups;
      sum.cols = detail::checked_mul(w.shard.matrix_rows, w.cols);
      sum.dtype = w.dtype;
      sum.from = sum.to = w.shard.placement;
      op(fmt::format("{}.replicas{}", name_, ++parts_), {gradient}, sum);
    }
    if (groups.size() > 1) buckets_[{b_.groups(across(groups)), w.dtype}].push_back(gradient);
  }

  void all_reduce(GroupsId groups, DType dtype, const std::vector<BufferId>& gradients) {
    Table rows(t_.ranks(), 1);
    for (int r = 0; r < t_.ranks(); ++r) {
      std::int64_t elements = 0;
      for (const BufferId g : gradients)
        elements += detail::checked_mul(b_.plan().rows(b_.plan().buffer(g).rows, Rank(r)), b_.plan().buffer(g).cols);
      rows.at(r, 0) = to_count(elements);
    }
    Collective sum;
    sum.kind = Collective::Kind::all_reduce;
    sum.groups = groups;
    sum.counts = b_.table(std::move(rows));
    sum.cols = 1;
    sum.dtype = dtype;
    op(fmt::format("{}.all_reduce{}", name_, ++parts_), gradients, sum);
  }

  void op(std::string name, const std::vector<BufferId>& gradients, const Collective& work) {
    b_.add({"grad." + std::move(name),
            Category::parameters,
            Pass::backward,
            layer_,
            parameter_stream,
            {},
            gradients,
            gradients,
            work});
  }

  Transformer& t_;
  PlanBuilder& b_;
  std::string name_;
  Layer layer_;
  int parts_ = 0;
  std::map<Key, std::vector<BufferId>> buckets_;
};

// One multi-tensor Adam step (Kingma and Ba, arXiv 1412.6980). Per parameter it reads gradient, moments and master
// weight and writes all but the gradient: 28 bytes in either precision.
void add_optimizer(Transformer& t, const std::vector<BufferId>& weights, const std::vector<BufferId>& gradients) {
  PlanBuilder& b = t.plan();
  std::map<DType, std::vector<std::size_t>> by_type;
  for (std::size_t i = 0; i < weights.size(); ++i) by_type[b.plan().buffer(weights[i]).dtype].push_back(i);
  for (const auto& [dtype, members] : by_type) {
    std::vector<BufferId> reads;
    std::vector<BufferId> writes;
    std::vector<BufferId> states;
    Table elements(t.ranks(), 1);
    const bool master = dtype != DType::f32;
    for (const std::size_t i : members) {
      const Buffer weight = b.plan().buffer(weights[i]);
      for (int r = 0; r < t.ranks(); ++r)
        elements.at(r, 0) =
            to_count(elements.at(r, 0) + detail::checked_mul(b.plan().rows(weight.rows, Rank(r)), weight.cols));
      reads.push_back(gradients[i]);
      writes.push_back(weights[i]);
      states.push_back(t.optimizer_state(weights[i]));
    }
    writes.insert(writes.end(), states.begin(), states.end());
    const Rows rows{0, b.table(std::move(elements))};
    const std::int64_t cols = 14 * 8 / bits(dtype);  // 14 bytes in, 14 out
    constexpr std::int64_t flops = 12;
    b.add({fmt::format("update.adam.{}", to_string(dtype)),
           Category::optimizer,
           Pass::update,
           {},
           compute_stream,
           {},
           std::move(reads),
           std::move(writes),
           Elementwise{Elementwise::Fn::adam, rows, master ? cols : 4, master ? cols : 3, dtype, flops, {}}});
  }
}

}  // namespace

void check_trainable(const Transformer& t) {
  const Model& model = t.input().model;
  const auto refuse = [&](std::string_view what) {
    throw Infeasible(fmt::format("{}: {} has no backward pass here", model.name, what));
  };
  if (model.has_encoder() && model.has_decoder()) refuse("an encoder-decoder");
  if (t.tp() > 1) throw Infeasible("training slices no dense weights: use a strategy without tensor parallelism");
  for (const TransformerLayer& layer : model.layers)
    if (layer.attention && layer.attention->kind != Attention::Kind::grouped_query)
      refuse("latent or linear attention");
  if (bits(model.weights) < 16 || bits(model.expert_weights) < 16)
    throw Infeasible("training needs weights of 16 or 32 bits: set model.weights");
}

void reduce_gradients(Transformer& t, const std::string& name, Layer layer, const std::vector<BufferId>& weights,
                      const std::vector<BufferId>& gradients) {
  Reduction reduction(t, name, layer);
  for (std::size_t i = 0; i < weights.size(); ++i) reduction.add(weights[i], gradients[i]);
  reduction.finish();
}

void add_training_step(Transformer& t, const std::vector<OpId>& again) {
  const std::vector<BufferId> gradient = add_backward(t, again);
  std::vector<BufferId> weights;
  std::vector<BufferId> gradients;
  for (std::size_t i = 0; i < gradient.size(); ++i)
    if (gradient[i].valid() && t.plan().plan().buffers[i].role == BufferRole::weight) {
      weights.emplace_back(i);
      gradients.push_back(gradient[i]);
    }
  add_optimizer(t, weights, gradients);
}

}  // namespace moesim::strategies
