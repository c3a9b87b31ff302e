// Parameter counts that can be solved on paper: small odd widths, so that two swapped letters give another number.
#include <doctest/doctest.h>

#include <random>
#include <stdexcept>

#include "moesim/model.hpp"

using namespace moesim;

namespace {

// A part that must be there.
template <class Optional>
auto& the(Optional& part) {
  if (!part) throw std::logic_error("the layer has no such part");
  return *part;
}

constexpr std::int64_t h = 10;

Attention grouped_query() {
  Attention a;
  a.heads = 6;
  a.kv_heads = 2;
  a.qk_head_dim = 5;
  a.v_head_dim = 7;
  return a;
}

// A model of two layers, dense and sparse.
Model small() {
  Model m;
  m.hidden = h;
  m.vocabulary = 100;
  m.layers.resize(2);
  for (TransformerLayer& layer : m.layers) layer.attention = grouped_query();
  m.layers[0].dense = FeedForward{.intermediate = 30};
  MoeBlock moe;
  moe.experts = 8;
  moe.top_k = 3;
  moe.expert.intermediate = 4;
  m.layers[1].moe = moe;
  return m;
}

constexpr int attention_of_small = 10 * 30 + 10 * 10 + 10 * 14 + 42 * 10;
constexpr std::int64_t expert_of_small = 3 * h * 4;

}  // namespace

TEST_CASE("grouped-query attention: q, k, v and o, then each option on its own") {
  // q: h x 6*5, k: h x 2*5, v: h x 2*7, o: 6*7 x h
  const int plain = 10 * 30 + 10 * 10 + 10 * 14 + 42 * 10;
  CHECK(parameters(grouped_query(), h) == plain);

  Attention a = grouped_query();
  a.bias = true;
  CHECK(parameters(a, h) == plain + 30 + 10 + 14);
  a = grouped_query();
  a.output_bias = true;
  CHECK(parameters(a, h) == plain + 10);
  a = grouped_query();
  a.qk_norm = true;  // one scale per number of a head, for queries and for keys
  CHECK(parameters(a, h) == plain + 5 + 5);
  a.qk_norm_joint = true;  // over all heads
  CHECK(parameters(a, h) == plain + 30 + 10);
  a = grouped_query();
  a.sinks = true;
  CHECK(parameters(a, h) == plain + 6);
  a = grouped_query();
  a.relative_buckets = 32;
  CHECK(parameters(a, h) == plain + 32 * 6);
  a = grouped_query();
  a.output_gate = true;  // gates the 6 * 7 outputs
  CHECK(parameters(a, h) == plain + 10 * 42);
  a = grouped_query();
  a.window = 128;  // a mask has no weights
  CHECK(parameters(a, h) == plain);
}

TEST_CASE("latent attention, with and without a query latent") {
  Attention a;
  a.kind = Attention::Kind::latent;
  a.heads = a.kv_heads = 4;
  a.qk_head_dim = 5;  // 3 without position and 2 with
  a.qk_rope_head_dim = 2;
  a.v_head_dim = 7;
  a.kv_lora_rank = 6;
  // h to latent and shared rope key, its norm, latent to 4 heads of 3 + 7, o
  const int keys_values = 10 * (6 + 2) + 6 + 6 * 4 * (3 + 7) + 4 * 7 * 10;
  CHECK(parameters(a, h) == keys_values + 10 * 4 * 5);
  a.q_lora_rank = 9;
  const int whole = keys_values + 10 * 9 + 9 + 9 * 4 * 5;
  CHECK(parameters(a, h) == whole);
  a.index_heads = 3;
  a.index_head_dim = 11;
  a.index_top_k = 64;
  // queries from the query latent, one key head and its LayerNorm, a weight per head
  CHECK(parameters(a, h) == whole + 9 * 3 * 11 + 10 * 11 + 2 * 11 + 10 * 3);
  a.bias = a.output_bias = true;
  CHECK(parameters(a, h) == whole + 9 * 3 * 11 + 10 * 11 + 2 * 11 + 10 * 3 + 9 + (6 + 2) + 10);
}

TEST_CASE("linear attention") {
  Attention a;
  a.kind = Attention::Kind::linear;
  a.heads = 6;
  a.linear_key_heads = 3;
  a.qk_head_dim = 5;
  a.v_head_dim = 7;
  a.linear_conv_width = 4;
  // q and k: 2 * 15, v: 42, decay and strength: 2 * 6; convolution over 72 channels; A, dt: 2 * 6; norm 7; o
  const int plain = 10 * (30 + 42 + 12) + 72 * 4 + 12 + 7 + 42 * 10;
  CHECK(parameters(a, h) == plain);
  a.output_gate = true;
  CHECK(parameters(a, h) == plain + 10 * 42);
}

TEST_CASE("feed-forward blocks") {
  CHECK(parameters(FeedForward{.intermediate = 7, .gated = false}, h) == 2 * 70);
  CHECK(parameters(FeedForward{.intermediate = 7, .gated = true}, h) == 3 * 70);
  CHECK(parameters(FeedForward{.intermediate = 7, .gated = false, .bias = true}, h) == 2 * 70 + 7 + 10);
  CHECK(parameters(FeedForward{.intermediate = 7, .gated = true, .bias = true}, h) == 3 * 70 + 14 + 10);
  CHECK(parameters(FeedForward{.intermediate = 0, .bias = true}, h) == 0);  // no shared expert
}

TEST_CASE("a layer: norms, router, shared expert, gate, zero experts") {
  Model m = small();
  TransformerLayer layer = m.layers[1];
  const std::int64_t always = attention_of_small + 2 * h;
  CHECK(parameters(layer, m).total == always + 8 * h + 8 * expert_of_small);
  CHECK(parameters(layer, m).active == always + 8 * h + 3 * expert_of_small);
  m.norm_bias = true;
  CHECK(parameters(layer, m).total == always + 2 * h + 8 * h + 8 * expert_of_small);
  m.norm_bias = false;
  the(layer.moe).router_bias = true;
  CHECK(parameters(layer, m).total == always + 8 * h + 8 + 8 * expert_of_small);
  the(layer.moe).shared = FeedForward{.intermediate = 6};
  the(layer.moe).shared_gate = true;
  const std::int64_t shared = 3 * h * 6 + h;
  CHECK(parameters(layer, m).active == always + 8 * h + 8 + shared + 3 * expert_of_small);
  the(layer.moe).zero_experts = 5;
  CHECK(parameters(layer, m).active == always + 13 * h + 13 + shared + 3 * expert_of_small);
}

TEST_CASE("a model: embeddings, tied or not, positions, and one last norm per stack") {
  Model m = small();
  const ParameterCount dense = parameters(m.layers[0], m);
  const ParameterCount sparse = parameters(m.layers[1], m);
  CHECK(dense.total == attention_of_small + 2 * h + 3 * h * 30);
  CHECK(dense.active == dense.total);
  CHECK(parameters(m).total == 200 * h + h + dense.total + sparse.total);
  CHECK(parameters(m).active == 200 * h + h + dense.active + sparse.active);
  m.tied_embeddings = true;
  m.positions = 50;
  CHECK(parameters(m).total == 100 * h + 50 * h + h + dense.total + sparse.total);

  m.layers[0].decoder = false;
  CHECK(m.has_encoder());
  CHECK(m.has_decoder());
  CHECK(m.moe_layers() == 1);
  CHECK(parameters(m).total == 100 * h + 50 * h + 2 * h + dense.total + sparse.total);
  m.layers[1].cross_attention = grouped_query();
  m.layers[1].norms = 3;
  CHECK(parameters(m).total == 100 * h + 50 * h + 2 * h + dense.total + sparse.total + attention_of_small + h);
}

TEST_CASE(
    "properties: active <= total, equal when all experts are used; one more expert costs one expert and its score") {
  std::mt19937_64 random(7);
  const auto draw = [&](std::int64_t most) { return 1 + static_cast<std::int64_t>(random() % std::uint64_t(most)); };
  for (int i = 0; i < 500; ++i) {
    Model m = small();
    m.hidden = draw(4096);
    m.vocabulary = draw(200'000);
    MoeBlock& moe = the(m.layers[1].moe);
    moe.experts = draw(512);
    moe.top_k = std::min(draw(16), moe.experts);
    moe.expert = {.intermediate = draw(8192), .gated = draw(2) == 1, .bias = draw(2) == 1};
    moe.router_bias = draw(2) == 1;
    const ParameterCount before = parameters(m);
    CHECK(before.active <= before.total);
    const std::int64_t expert = parameters(moe.expert, m.hidden);
    CHECK(before.total - before.active == (moe.experts - moe.top_k) * expert);
    ++moe.experts;
    const std::int64_t score = m.hidden + (moe.router_bias ? 1 : 0);
    CHECK(parameters(m).total - before.total == expert + score);
    CHECK(parameters(m).active - before.active == score);
    moe.top_k = moe.experts;
    CHECK(parameters(m).active == parameters(m).total);
  }
}

TEST_CASE("counts past 63 bits throw instead of wrapping") {
  Model m = small();
  m.hidden = std::int64_t{1} << 31;
  the(m.layers[1].moe).expert.intermediate = std::int64_t{1} << 31;
  CHECK_THROWS_AS(parameters(m), std::overflow_error);
}
