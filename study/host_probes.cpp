#include "study/host_probes.hpp"

#include <fmt/format.h>

#include <random>

#include "models/load/synthetic.hpp"
#include "strategies/strategy.hpp"

namespace moesim::study {
namespace {

class Draw {
 public:
  Draw(std::uint64_t seed, int index) : random_(seed * 1'000'003 + static_cast<std::uint64_t>(index)) {}
  // Not std::uniform_int_distribution, which differs between libraries.
  template <std::size_t N>
  std::int64_t of(const std::int64_t (&choices)[N]) {
    return choices[random_() % N];
  }
  bool coin() { return random_() % 2 == 0; }

 private:
  std::mt19937_64 random_;
};

struct Shape {
  std::int64_t heads, kv_heads, head_dim, inter, experts, top_k, sequences, length, kv_length;
  [[nodiscard]] std::int64_t hidden() const { return heads * head_dim; }
  [[nodiscard]] std::int64_t weights(bool gated) const { return experts * hidden() * inter * (gated ? 3 : 2); }
};

constexpr std::int64_t most_weights = 32'000'000;

Shape draw_shape(Draw& draw, bool decode, bool gated) {
  Shape s{};
  do {
    s.heads = draw.of({4, 8, 12});
    s.head_dim = draw.of({32, 48, 64});
    s.kv_heads = draw.coin() ? s.heads : 4;
    s.inter = draw.of({128, 256, 384, 512, 1024, 1536});
    s.experts = draw.of({8, 16, 32});
    s.top_k = draw.of({1, 2, 4});
    s.sequences = draw.of({4, 8, 16});
    s.length = draw.of({8, 16, 32, 64, 128});
    s.kv_length = decode ? draw.of({32, 64, 128, 256}) : 0;
  } while (s.weights(gated) > most_weights);
  return s;
}

Model make_model(const Shape& s, DType format, bool gated, Activation activation) {
  Model m;
  m.name = "probe";
  m.hidden = s.hidden();
  m.vocabulary = 1024;
  m.weights = m.expert_weights = format;
  TransformerLayer layer;
  layer.attention = Attention{};
  layer.attention->heads = s.heads;
  layer.attention->kv_heads = s.kv_heads;
  layer.attention->qk_head_dim = layer.attention->v_head_dim = s.head_dim;
  layer.moe = MoeBlock{};
  layer.moe->experts = s.experts;
  layer.moe->top_k = s.top_k;
  layer.moe->expert = {s.inter, gated, false, activation};
  m.layers.push_back(layer);
  return m;
}

struct Choice {
  const char* strategy;
  std::map<std::string, strategies::OptionValue> options;
};

const std::vector<Choice>& choices() {
  static const std::vector<Choice> all{{"expert_parallel", {}},
                                       {"tensor_parallel", {}},
                                       {"expert_sharding", {}},
                                       {"expert_parallel", {{"capacity_factor", 1.5}}},
                                       {"expert_tensor_parallel", {{"tensor_parallel", std::int64_t{2}}}},
                                       {"expert_sharding", {{"kernel", std::string("fused")}}}};
  return all;
}

}  // namespace

Probe make_probe(const Cluster& cluster, DType format, std::uint64_t seed, int index) {
  Draw draw(seed, index);
  const bool decode = index % 4 == 3;
  const bool gated = draw.coin();
  const Activation activation = draw.coin() ? Activation::silu : Activation::relu;
  const Shape s = draw_shape(draw, decode, gated);
  const Model model = make_model(s, format, gated, activation);
  Workload w;
  w.phase = decode ? Workload::Phase::decode : Workload::Phase::prefill;
  w.sequences = s.sequences * (decode ? 4 : 1);
  w.sequence_length = decode ? 0 : s.length;
  w.kv_length = s.kv_length;
  w.activations = w.kv_cache = format;

  load::SyntheticSpec spec;
  spec.shape.moe_layers = 1;
  spec.shape.experts = static_cast<int>(s.experts);
  spec.shape.top_k = static_cast<int>(s.top_k);
  spec.shape.tokens = w.sequences * w.new_tokens();
  spec.law = {"zipf", {{"exponent", 0.25 * static_cast<double>(draw.of({0, 2, 4}))}}};
  spec.seed = seed;
  const Choice& choice = choices()[static_cast<std::size_t>(index) % choices().size()];
  const strategies::Strategy& strategy = *strategies::find(choice.strategy);
  Probe probe;
  probe.name = fmt::format("{}: {} heads of {}, {} experts of {}, top {}, {} x {}{}", choice.strategy, s.heads,
                           s.head_dim, s.experts, s.inter, s.top_k, w.sequences, w.new_tokens(),
                           decode ? fmt::format(" after {}", s.kv_length) : std::string());
  probe.routing = load::make_synthetic(spec);
  const strategies::Options options(strategy.options, choice.options);
  probe.plan = strategy.plan({model, cluster, w, *probe.routing, options, choice.strategy});
  return probe;
}

}  // namespace moesim::study
