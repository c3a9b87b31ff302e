// A training step: what it computes, moves and keeps, counted on paper.
#include <doctest/doctest.h>

#include <map>
#include <random>

#include "models/arch/zoo.hpp"
#include "tests/common/cases.hpp"

using namespace moesim;
using namespace moesim::testing;

namespace {

Workload train(std::int64_t sequences, std::int64_t length, DType activations = DType::f32) {
  Workload w = prefill(sequences, length, activations);
  w.phase = Workload::Phase::train;
  return w;
}

Plan plan_of(const Model& model, int ranks, const Workload& work,
             std::map<std::string, strategies::OptionValue> options = {}) {
  const FunctionRouting routing = balanced(model, work.sequences * work.sequence_length);
  return make_plan("expert_parallel", std::move(options), model, round_cluster(1, ranks), work, routing);
}

// Flops of matrix products by pass, all ranks together.
std::map<Pass, std::int64_t> product_flops(const Plan& plan) {
  std::map<Pass, std::int64_t> out;
  for (const Op& op : plan.ops)
    for (int r = 0; r < plan.ranks; ++r) {
      if (const auto* g = std::get_if<Gemm>(&op.work)) out[op.pass] += 2 * plan.rows(g->m, Rank(r)) * g->n * g->k;
      if (const auto* g = std::get_if<GroupedGemm>(&op.work))
        out[op.pass] += 2 * plan.table(g->rows).row_sum(r) * g->n * g->k;
    }
  return out;
}

Bytes of_role(const Plan& plan, BufferRole role, Rank rank) {
  Bytes sum;
  for (const Buffer& b : plan.buffers)
    if (b.role == role) sum += plan.bytes(b, rank);
  return sum;
}

}  // namespace

TEST_CASE("L 4 d^2 (E + 1): the published parameter counts of Hecate's four models") {
  struct Published {
    const char* name;
    std::int64_t d, layers;
    double billions;
  };
  for (const Published& p : {Published{"hecate-gpt-s", 768, 12, 1.84}, Published{"hecate-gpt-l", 1536, 12, 7.36},
                             Published{"hecate-bert", 1024, 12, 3.27}, Published{"hecate-bert-deep", 1024, 24, 6.54}}) {
    const Model m = arch::load(p.name);
    std::int64_t count = 0;
    for (const TransformerLayer& layer : m.layers)
      count += parameters(*layer.attention, m.hidden) + layer.moe->experts * parameters(layer.moe->expert, m.hidden);
    CHECK(count == p.layers * 4 * p.d * p.d * (64 + 1));
    CHECK(static_cast<double>(count) / 1e9 == doctest::Approx(p.billions).epsilon(0.003));
  }
}

TEST_CASE("the backward pass multiplies twice what the forward pass does, and once more with recomputation") {
  std::mt19937 random(3);
  for (int trial = 0; trial < 20; ++trial) {
    const int ranks = 1 << (random() % 4);
    const int layers = static_cast<int>(1 + random() % 3);
    const Model model = small_model(8, 1 + random() % 3, layers);
    Workload work = train(static_cast<std::int64_t>(1 + random() % 9), 6);
    const auto flops = product_flops(plan_of(model, ranks, work));
    CHECK(flops.at(Pass::backward) == 2 * flops.at(Pass::forward));
    work.recompute = true;
    const auto again = product_flops(plan_of(model, ranks, work));
    const std::int64_t head = 2 * work.sequences * 6 * 100 * 64;  // outside the layers: kept
    CHECK(again.at(Pass::forward) == flops.at(Pass::forward));
    CHECK(again.at(Pass::backward) == 3 * flops.at(Pass::forward) - head);
  }
}

TEST_CASE("every parameter has a gradient and an optimizer state: 2 + 2 + 12 bytes, float32 4 + 4 + 8") {
  for (const DType format : {DType::f16, DType::f32}) {
    Model model = small_model(8, 2, 2);
    model.weights = model.expert_weights = format;
    const Plan plan = plan_of(model, 4, train(8, 5, format));
    const std::int64_t each = bits(format) / 8;
    for (int r = 0; r < 4; ++r) {
      const Bytes weights = of_role(plan, BufferRole::weight, Rank(r));
      CHECK(of_role(plan, BufferRole::gradient, Rank(r)) == weights);
      CHECK(of_role(plan, BufferRole::optimizer, Rank(r)) == weights / each * (format == DType::f16 ? 12 : 8));
      const MemoryPeak peak = memory_peak(plan, Rank(r));
      CHECK(peak.by_role.at(BufferRole::weight) == weights);
    }
    // Experts, two of eight on a rank: 3 x 64 x 32 parameters each. Dense: attention 4 x 64^2, router 64 x 8, two norms
    // in each of two layers; embedding, head, last norm.
    const std::int64_t expert = 3 * 64 * 32;
    const std::int64_t dense = 2 * (4 * 64 * 64 + 64 * 8 + 2 * 64) + 2 * 100 * 64 + 64;
    CHECK(of_role(plan, BufferRole::weight, Rank(0)) == Bytes((2 * 2 * expert + dense) * each));
    // Only dense gradients are replicated, on four ranks: each is reduced once.
    std::int64_t reduced = 0;
    for (const Op& op : plan.ops)
      if (const auto* c = std::get_if<Collective>(&op.work); c && c->kind == Collective::Kind::all_reduce)
        reduced += plan.table(c->counts).row_sum(0) * c->cols;
    CHECK(reduced == dense);
  }
}

TEST_CASE("what is dispatched forward comes back backward") {
  const Model model = small_model(8, 2);
  const Plan plan = plan_of(model, 4, train(8, 5));
  const auto traffic_of = [&](const char* name, Rank r) {
    return traffic(plan, std::get<Collective>(op_named(plan, name).work), r);
  };
  for (int r = 0; r < 4; ++r) {
    const Rank rank(r);
    CHECK(traffic_of("grad.l0.moe.combine", rank).sent == traffic_of("l0.moe.dispatch", rank).sent);
    CHECK(traffic_of("grad.l0.moe.dispatch", rank).sent == traffic_of("l0.moe.combine", rank).sent);
    CHECK(traffic_of("grad.l0.moe.dispatch", rank).received == traffic_of("l0.moe.dispatch", rank).sent);
  }
}

TEST_CASE("groups of ranks that share experts add their gradients") {
  const Model model = small_model(8, 2);
  const Plan plan = plan_of(model, 4, train(8, 5), {{"size", std::int64_t{2}}});
  int replicated = 0;
  for (const Op& op : plan.ops)
    if (const auto* c = std::get_if<Collective>(&op.work);
        c && c->kind == Collective::Kind::all_reduce && plan.groups[c->groups.index()].size() == 2) {
      ++replicated;
      CHECK(plan.groups[c->groups.index()][0] == std::vector{Rank(0), Rank(2)});
      CHECK(plan.table(c->counts).row_sum(0) * c->cols == 4 * 3 * 64 * 32);  // four experts on a rank
    }
  CHECK(replicated == 1);
}

TEST_CASE("recomputation trades activations for time") {
  const Model model = small_model(8, 2, 6);
  Workload work = train(8, 50);
  const Plan kept = plan_of(model, 2, work);
  work.recompute = true;
  const Plan again = plan_of(model, 2, work);
  const auto activations = [](const Plan& p) { return memory_peak(p, Rank(0)).by_role.at(BufferRole::activation); };
  CHECK(activations(again) < activations(kept) / 2);
}

TEST_CASE("what cannot be trained says why") {
  Model model = small_model(8, 2);
  const auto why = [&](std::string_view strategy) -> std::string {
    const FunctionRouting routing = balanced(model, 40);
    try {
      make_plan(strategy, {}, model, round_cluster(1, 4), train(8, 5), routing);
    } catch (const strategies::Infeasible& e) {
      return e.what();
    }
    return {};
  };
  CHECK(why("tensor_parallel").find("tensor parallelism") != std::string::npos);
  model.layers.front().attention->kind = Attention::Kind::latent;
  CHECK(why("expert_parallel").find("latent") != std::string::npos);
  model = small_model(8, 2);
  model.expert_weights = DType::fp8;
  CHECK(why("expert_parallel").find("16 or 32 bits") != std::string::npos);
}
