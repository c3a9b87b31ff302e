// Whole small models, attention included: every strategy gives the same answer.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "tests/backend/reference.hpp"

using namespace moesim;
using namespace moesim::test;

namespace {

// A dense layer, then two MoE layers.
Case with_attention(const Attention& attention, Workload::Phase phase, int ranks) {
  MoeBlock block;
  block.experts = 8;
  block.top_k = 2;
  block.expert = {24, true, false, Activation::silu};
  block.shared = {16, true, false, Activation::silu};
  Case c = moe_only(16, block, ranks, 9, 5, DType::f32);
  c.model.layers.insert(c.model.layers.begin(), TransformerLayer{});
  c.model.layers[0].dense = FeedForward{32, true, false, Activation::gelu};
  c.model.layers.push_back(c.model.layers[1]);
  for (TransformerLayer& l : c.model.layers) {
    l.attention = attention;
    l.decoder = phase != Workload::Phase::encode;
  }
  c.workload.phase = phase;
  if (phase == Workload::Phase::decode) c.workload.kv_length = 7;
  return c;
}

// Logits of every sequence (final hidden states of an encoder), in the order of the sequences.
std::vector<double> answer(const Case& c, const Plan& plan, const backend::Programs& programs) {
  const bool encode = c.workload.phase == Workload::Phase::encode;
  if (encode) return global_rows(plan, programs, backend::buffer_named(plan, "final_norm"));
  const auto vocabulary = static_cast<std::size_t>(c.model.vocabulary);
  const bool sliced =
      std::any_of(plan.ops.begin(), plan.ops.end(), [](const Op& op) { return op.name == "head.all_gather"; });
  std::vector<double> out;
  for (std::size_t owner = 0; owner < plan.tokens.owners(); ++owner) {
    const auto tp = static_cast<std::size_t>(
        std::count(plan.owner_of_rank.begin(), plan.owner_of_rank.end(), static_cast<int>(owner)));
    const auto r = static_cast<std::size_t>(
        std::find(plan.owner_of_rank.begin(), plan.owner_of_rank.end(), static_cast<int>(owner)) -
        plan.owner_of_rank.begin());
    const std::vector<float> v =
        backend::values(*programs[r], backend::buffer_named(plan, sliced ? "head.all_gather" : "head"));
    const std::size_t slice = (vocabulary + tp - 1) / tp;
    const std::size_t sequences = v.size() / (slice * tp);
    // Gathered member by member: [member, sequence, columns of its slice].
    for (std::size_t s = 0; s < sequences; ++s)
      for (std::size_t j = 0; j < vocabulary; ++j)
        out.push_back(static_cast<double>(v[(j / slice * sequences + s) * slice + j % slice]));
  }
  return out;
}

double worst_difference(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return 1e300;
  double scale = 0;
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    scale = std::max(scale, std::abs(a[i]));
    worst = std::max(worst, std::abs(a[i] - b[i]));
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return 1e300;
  }
  return scale > 0 ? worst / scale : 1e300;
}

// Compares all variants that drop nothing with one rank's answer; returns how many ran.
int compare_all(const Case& c, double tolerance) {
  std::mt19937 random(31);
  const std::int64_t tokens = c.workload.sequences * c.workload.new_tokens();
  int moe_layers = 0;
  for (const TransformerLayer& l : c.model.layers) moe_layers += l.moe ? 1 : 0;
  const TableRouting routing = random_routing(moe_layers, tokens, 8, 2, 1, 1, random);
  const backend::Inputs inputs{routing, 77};
  Case alone = c;
  alone.ranks = 1;
  const auto reference = plan_of(alone, routing, "tensor_parallel", {});
  REQUIRE(reference);
  const std::vector<double> expected = answer(alone, *reference, backend::compute(*reference, inputs));
  CHECK(std::count(expected.begin(), expected.end(), expected.front()) == 1);
  int ran = 0;
  for (const Variant& v : variants()) {
    const auto plan = plan_of(c, routing, v.strategy, v.options);
    if (!plan || plan->dropped_copies > 0) continue;
    CAPTURE(v.name);
    ++ran;
    const auto how = ran % 2 == 0 ? backend::Run::one_at_a_time : backend::Run::threads;
    CHECK(worst_difference(expected, answer(c, *plan, backend::compute(*plan, inputs, how))) <= tolerance);
  }
  return ran;
}

}  // namespace

TEST_CASE("grouped-query attention: prefill, decode, encode") {
  for (const auto phase : {Workload::Phase::prefill, Workload::Phase::decode, Workload::Phase::encode})
    for (const std::int64_t kv_heads : {1, 2, 4, 8}) {
      CAPTURE(kv_heads);
      CHECK(compare_all(with_attention(grouped_query(8, kv_heads), phase, 4), 1e-5) > 15);
    }
}

TEST_CASE("rotary positions, windows, output gates, cached prefixes") {
  for (const auto phase : {Workload::Phase::prefill, Workload::Phase::decode}) {
    Attention a = grouped_query(8, 2);
    a.window = 3;
    Case c = with_attention(a, phase, 4);
    c.model.positions = 0;  // rotary
    CHECK(compare_all(c, 1e-5) > 15);
    a.window = 0;
    a.output_gate = true;
    c = with_attention(a, phase, 4);
    c.model.positions = 0;
    if (phase == Workload::Phase::prefill) c.workload.kv_length = 5 + 4;  // four tokens of each sequence are cached
    CHECK(compare_all(c, 1e-5) > 15);
  }
}

TEST_CASE("latent attention: prefill expands, decode absorbs") {
  for (const auto phase : {Workload::Phase::prefill, Workload::Phase::decode})
    for (const std::int64_t q_rank : {0, 7}) {
      Case c = with_attention(latent(q_rank), phase, 4);
      c.model.positions = 0;
      CHECK(compare_all(c, 1e-5) > 15);
    }
}

TEST_CASE("tied embeddings, a vocabulary that does not divide, cross attention") {
  Case c = with_attention(grouped_query(8, 4), Workload::Phase::prefill, 4);
  c.model.tied_embeddings = true;  // 37 words over 4 ranks
  CHECK(compare_all(c, 1e-5) > 15);
  c = with_attention(grouped_query(8, 4), Workload::Phase::decode, 4);
  c.model.layers[0].cross_attention = grouped_query(8, 8);
  TransformerLayer encoder;
  encoder.decoder = false;
  encoder.attention = grouped_query(8, 8);
  encoder.dense = FeedForward{32, true, false, Activation::gelu};
  c.model.layers.insert(c.model.layers.begin(), encoder);
  CHECK(compare_all(c, 1e-5) > 15);
}

TEST_CASE("more ranks than sequences") {
  Case c = with_attention(grouped_query(8, 4), Workload::Phase::prefill, 8);
  c.workload.sequences = 3;
  CHECK(compare_all(c, 1e-5) > 10);
}

TEST_CASE("the host says what it cannot compute: linear attention") {
  Attention a;
  a.kind = Attention::Kind::linear;
  a.heads = 8;
  a.linear_key_heads = 4;
  a.qk_head_dim = a.v_head_dim = 4;
  a.linear_conv_width = 4;
  const Case c = with_attention(a, Workload::Phase::prefill, 2);
  std::mt19937 random(1);
  const TableRouting routing = random_routing(2, 45, 8, 2, 1, 1, random);
  const auto plan = plan_of(c, routing, "expert_parallel", {});
  REQUIRE(plan);
  CHECK_THROWS_WITH_AS(static_cast<void>(backend::compute(*plan, {routing, 1})),
                       "op 'l0.attention.delta_rule' (delta_rule) does not run on the host: the simulator knows it, "
                       "executors with data do not compute it yet",
                       backend::Refused);
}
