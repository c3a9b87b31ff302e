#include "tests/backend/small_models.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moesim::test {

void TableRouting::assign(int moe_layer, std::int64_t first, std::span<ExpertIndex> out) const {
  const auto from = chosen_.at(static_cast<std::size_t>(moe_layer)).begin() + first * top_k_;
  std::copy(from, from + static_cast<std::ptrdiff_t>(out.size()), out.begin());
}

TableRouting random_routing(int layers, std::int64_t tokens, int experts, int top_k, double skew, int empty,
                            std::mt19937& random) {
  std::vector<std::vector<ExpertIndex>> chosen(static_cast<std::size_t>(layers));
  const int usable = std::max(top_k, experts - empty);
  for (auto& layer : chosen) {
    std::vector<int> order(static_cast<std::size_t>(experts));  // who is popular differs by layer
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    for (std::int64_t t = 0; t < tokens; ++t) {
      std::vector<double> weight;
      for (int i = 0; i < usable; ++i) weight.push_back(std::pow(i + 1.0, -skew));
      for (int k = 0; k < top_k; ++k) {
        const int i = std::discrete_distribution<int>(weight.begin(), weight.end())(random);
        layer.push_back(static_cast<ExpertIndex>(order[static_cast<std::size_t>(i)]));
        weight[static_cast<std::size_t>(i)] = 0;
      }
    }
  }
  return {experts, top_k, std::move(chosen)};
}

Cluster host_cluster(int ranks) {
  Cluster c;
  c.name = "host";
  c.gpus_per_node = ranks;
  for (const Math m : {Math::f32, Math::bf16, Math::f16})
    c.gpu.peak[static_cast<std::size_t>(m)] = FlopsPerSecond(1e11);
  return c;
}

Case moe_only(std::int64_t hidden, MoeBlock block, int ranks, std::int64_t sequences, std::int64_t length,
              DType dtype) {
  Case c;
  c.ranks = ranks;
  c.model.name = "small";
  c.model.hidden = hidden;
  c.model.vocabulary = 37;
  c.model.positions = 64;  // learned, so that nothing rotates
  c.model.weights = c.model.expert_weights = dtype;
  TransformerLayer layer;
  layer.moe = block;
  c.model.layers.push_back(layer);
  c.workload.phase = Workload::Phase::prefill;
  c.workload.sequences = sequences;
  c.workload.sequence_length = length;
  c.workload.activations = c.workload.kv_cache = dtype;
  return c;
}

Attention grouped_query(std::int64_t heads, std::int64_t kv_heads) {
  Attention a;
  a.heads = heads;
  a.kv_heads = kv_heads;
  a.qk_head_dim = a.v_head_dim = 6;
  return a;
}

Attention latent(std::int64_t q_rank) {
  Attention a;
  a.kind = Attention::Kind::latent;
  a.heads = a.kv_heads = 8;
  a.qk_head_dim = 6;
  a.v_head_dim = 5;
  a.q_lora_rank = q_rank;
  a.kv_lora_rank = 10;
  a.qk_rope_head_dim = 2;
  return a;
}

std::optional<Plan> plan_of(const Case& c, const Routing& routing, const std::string& strategy, const Given& options) {
  const strategies::Strategy* s = strategies::find(strategy);
  if (s == nullptr) throw std::logic_error("no strategy " + strategy);
  const Cluster cluster = host_cluster(c.ranks);
  const strategies::Options resolved(s->options, options);
  try {
    return s->plan({c.model, cluster, c.workload, routing, resolved, strategy});
  } catch (const strategies::Infeasible&) {
    return std::nullopt;
  }
}

const std::vector<Variant>& variants() {
  using std::string;
  static const std::vector<Variant> all{
      {"tensor_parallel", {}, "tensor parallel"},
      {"tensor_parallel", {{"size", std::int64_t{2}}}, "tensor parallel in pairs"},
      {"tensor_parallel", {{"size", std::int64_t{1}}}, "data parallel"},
      {"expert_parallel", {}, "dropless"},
      {"expert_parallel", {{"host_sync", false}, {"permute_kernels", std::int64_t{3}}}, "dropless without host sync"},
      {"expert_parallel", {{"expert_launch", string("per_expert")}}, "dropless, a launch per expert"},
      {"expert_parallel", {{"placement", string("round_robin")}}, "dropless, round robin"},
      {"expert_parallel", {{"once_per_rank", true}}, "once per rank"},
      {"expert_parallel",
       {{"once_per_rank", true}, {"placement", string("round_robin")}},
       "once per rank, round robin"},
      {"expert_parallel", {{"size", std::int64_t{2}}}, "dropless in pairs"},
      {"expert_parallel", {{"capacity_factor", 1.0}, {"min_capacity", std::int64_t{1}}}, "padded, drops"},
      {"expert_parallel", {{"capacity_factor", 0.4}, {"min_capacity", std::int64_t{0}}}, "padded, drops much"},
      {"expert_parallel", {{"capacity_factor", 50.0}, {"min_capacity", std::int64_t{4}}}, "padded, no drops"},
      {"expert_parallel",
       {{"capacity_factor", 1.0}, {"min_capacity", std::int64_t{2}}, {"placement", string("round_robin")}},
       "padded, round robin"},
      {"expert_sharding", {{"kernel", string("per_source")}}, "sharding per source"},
      {"expert_sharding", {{"kernel", string("fused")}}, "sharding fused"},
      {"expert_sharding", {{"kernel", string("block_sparse")}}, "sharding block sparse"},
      {"expert_sharding", {{"size", std::int64_t{2}}, {"kernel", string("per_source")}}, "sharding in pairs"},
      {"expert_tensor_parallel", {{"tensor_parallel", std::int64_t{2}}}, "experts and tensors"},
      {"expert_tensor_parallel",
       {{"tensor_parallel", std::int64_t{2}}, {"once_per_rank", true}},
       "experts and tensors, once per rank"},
      {"expert_tensor_parallel",
       {{"tensor_parallel", std::int64_t{2}}, {"capacity_factor", 1.0}, {"min_capacity", std::int64_t{1}}},
       "experts and tensors, padded"},
      {"expert_tensor_parallel", {{"tensor_parallel", std::int64_t{4}}}, "experts and tensors by four"},
      {"expert_tensor_parallel",
       {{"tensor_parallel", std::int64_t{2}}, {"drop_duplicates", false}},
       "experts and tensors, all copies from all ranks"},
      // Placements. Numbers of replicas that divide many of the drawn ranks and experts.
      {"expert_parallel", {{"placement", string("moetuner")}}, "moetuner's clusters"},
      {"expert_parallel", {{"placement", string("lpt")}}, "longest first"},
      {"expert_parallel", {{"placement", string("eplb")}, {"replicas", std::int64_t{4}}}, "EPLB with replicas"},
      {"expert_parallel",
       {{"placement", string("eplb")}, {"replicas", std::int64_t{4}}, {"once_per_rank", true}},
       "EPLB with replicas, once per rank"},
      {"expert_parallel",
       {{"placement", string("local_search")},
        {"replicas", std::int64_t{4}},
        {"replica_choice", string("local_first")},
        {"once_per_rank", true}},
       "search, nearest replica, once per rank"},
      {"expert_tensor_parallel",
       {{"tensor_parallel", std::int64_t{2}}, {"placement", string("local_search")}, {"replicas", std::int64_t{2}}},
       "experts and tensors, search with replicas"},
      {"expert_tensor_parallel",
       {{"tensor_parallel", std::int64_t{2}},
        {"placement", string("eplb")},
        {"replicas", std::int64_t{2}},
        {"replica_choice", string("local_first")},
        {"once_per_rank", true}},
       "experts and tensors, EPLB with replicas, nearest, once per rank"},
  };
  return all;
}

}  // namespace moesim::test
