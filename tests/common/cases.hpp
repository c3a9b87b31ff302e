// Small inputs that tests share. Numbers are round, so that results can be worked out on paper.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "models/hardware/topology_spec.hpp"
#include "moesim/machine.hpp"
#include "moesim/model.hpp"
#include "moesim/routing.hpp"
#include "moesim/workload.hpp"
#include "strategies/strategy.hpp"

namespace moesim::testing {

// A GPU of 100 TFLOPS and 1000 GB/s with no launch cost and perfect efficiency; nodes on a switch of 100 GB/s a GPU and
// direction, one NIC of 10 GB/s per GPU between nodes; no latency anywhere.
inline Cluster round_cluster(int nodes, int gpus_per_node) {
  Cluster c;
  c.name = "round";
  c.nodes = nodes;
  c.gpus_per_node = gpus_per_node;
  c.gpu.name = "round";
  c.gpu.sms = 100;
  for (const Math m : all_maths) c.gpu.peak[static_cast<std::size_t>(m)] = FlopsPerSecond(100e12);
  c.gpu.memory_bandwidth = BytesPerSecond(1000e9);
  c.gpu.memory = Bytes(std::int64_t{80} << 30);
  c.host_link = BytesPerSecond(10e9);
  hardware::TopologySpec spec;
  spec.nodes = nodes;
  spec.gpus_per_node = gpus_per_node;
  spec.node.kind = gpus_per_node == 1 ? hardware::NodeFabric::Kind::single : hardware::NodeFabric::Kind::nvswitch;
  spec.node.gpu_link = {BytesPerSecond(100e9), 1.0, Picoseconds(0)};
  if (nodes > 1) {
    spec.network.kind = hardware::NetworkFabric::Kind::single;
    spec.network.nic = {BytesPerSecond(10e9), 1.0, Picoseconds(0)};
    spec.network.nics_per_node = gpus_per_node;
  }
  c.topology = hardware::make_topology(spec);
  return c;
}

// One MoE layer behind one attention block; h = 64, 4 heads of 16, experts of 32 columns.
inline Model small_model(std::int64_t experts, std::int64_t top_k, int layers = 1) {
  Model m;
  m.name = "small";
  m.hidden = 64;
  m.vocabulary = 100;
  m.weights = m.expert_weights = DType::f32;
  for (int i = 0; i < layers; ++i) {
    TransformerLayer layer;
    layer.attention = Attention{};
    layer.attention->heads = layer.attention->kv_heads = 4;
    layer.attention->qk_head_dim = layer.attention->v_head_dim = 16;
    MoeBlock moe;
    moe.experts = experts;
    moe.top_k = top_k;
    moe.expert.intermediate = 32;
    layer.moe = moe;
    m.layers.push_back(layer);
  }
  return m;
}

inline Workload prefill(std::int64_t sequences, std::int64_t length, DType activations = DType::f32) {
  Workload w;
  w.sequences = sequences;
  w.sequence_length = length;
  w.activations = w.kv_cache = activations;
  return w;
}

// Routing by a function of (MoE layer, token) that writes the token's experts.
class FunctionRouting final : public Routing {
 public:
  using Choose = std::function<void(int layer, std::int64_t token, std::span<ExpertIndex> out)>;
  FunctionRouting(int layers, int experts, int top_k, std::int64_t tokens, Choose choose)
      : layers_(layers), experts_(experts), top_k_(top_k), tokens_(tokens), choose_(std::move(choose)) {}
  [[nodiscard]] int moe_layers() const override { return layers_; }
  [[nodiscard]] int experts() const override { return experts_; }
  [[nodiscard]] int top_k() const override { return top_k_; }
  [[nodiscard]] std::int64_t tokens() const override { return tokens_; }
  [[nodiscard]] bool synthetic() const override { return true; }
  [[nodiscard]] std::string description() const override { return "test"; }
  void assign(int layer, std::int64_t first, std::span<ExpertIndex> out) const override {
    const auto k = static_cast<std::size_t>(top_k_);
    for (std::size_t i = 0; i * k < out.size(); ++i)
      choose_(layer, first + static_cast<std::int64_t>(i), out.subspan(i * k, k));
  }

 private:
  int layers_, experts_, top_k_;
  std::int64_t tokens_;
  Choose choose_;
};

// Token t uses experts (t * top_k + j) mod E: every expert gets the same.
inline FunctionRouting balanced(const Model& model, std::int64_t tokens) {
  const MoeBlock& moe = *model.layers.front().moe;
  return {model.moe_layers(), static_cast<int>(moe.experts), static_cast<int>(moe.top_k), tokens,
          [e = moe.experts, k = moe.top_k](int, std::int64_t t, std::span<ExpertIndex> out) {
            for (std::size_t j = 0; j < out.size(); ++j)
              out[j] = static_cast<ExpertIndex>((t * k + static_cast<std::int64_t>(j)) % e);
          }};
}

inline Plan make_plan(std::string_view strategy, std::map<std::string, strategies::OptionValue> options,
                      const Model& model, const Cluster& cluster, const Workload& workload, const Routing& routing) {
  const strategies::Strategy* s = strategies::find(strategy);
  const strategies::Options resolved(s->options, std::move(options));
  return s->plan({model, cluster, workload, routing, resolved, std::string(strategy)});
}

inline const Op& op_named(const Plan& plan, std::string_view name) {
  for (const Op& op : plan.ops)
    if (op.name == name) return op;
  throw std::out_of_range("no op " + std::string(name));
}

}  // namespace moesim::testing
