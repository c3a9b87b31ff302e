// MoEShard (papers.md section 1): exact bytes, and equal work at any skew.
#include <doctest/doctest.h>

#include "models/arch/zoo.hpp"
#include "models/load/synthetic.hpp"
#include "tests/common/cases.hpp"

using namespace moesim;
using namespace moesim::testing;

namespace {

// Switch-Base with 128 experts, 4 GPUs, 250 sequences of 120 tokens on each, float32.
Plan moeshard_plan(const std::string& kernel) {
  static const Model model = arch::load("switch-base-128");
  Workload w = prefill(1000, 120);
  w.phase = Workload::Phase::encode;
  load::SyntheticSpec spec;
  spec.shape.moe_layers = model.moe_layers();
  spec.shape.experts = 128;
  spec.shape.tokens = 120000;
  spec.law.name = "moeshard";
  spec.sampling = load::Sampling::expected;
  const auto routing = load::make_synthetic(spec);
  return make_plan("expert_sharding", {{"kernel", kernel}}, model, round_cluster(1, 4), w, *routing);
}

Traffic layer_traffic(const Plan& plan, Layer layer, Rank rank) {
  Traffic sum;
  for (const Op& op : plan.ops)
    if (const auto* c = std::get_if<Collective>(&op.work); c != nullptr && op.layer == layer) {
      const Traffic t = traffic(plan, *c, rank);
      sum.sent += t.sent;
      sum.received += t.received;
    }
  return sum;
}

Flops expert_flops(const Plan& plan, Rank rank) {
  Flops sum;
  for (const Op& op : plan.ops)
    if (const auto* g = std::get_if<GroupedGemm>(&op.work))
      sum += Flops(2 * plan.table(g->rows).row_sum(rank.value()) * g->n * g->k);
  return sum;
}

}  // namespace

TEST_CASE("MoEShard's bytes are the paper's, for every kernel") {
  // A token is 768 float32 = 3072 B, a GPU has 30,000: S = 92,160,000 B; counts are 128 int32 = 512 B.
  //   sent     = 3 S (all-gather) + 3 S (reduce-scatter) + 3 * 512 = 552,961,536
  //   received = 3 S (all-gather) + 1 S (own sums)       + 3 * 512 = 368,641,536
  for (const char* kernel : {"per_source", "fused", "block_sparse"}) {
    const Plan plan = moeshard_plan(kernel);
    int moe_layers = 0;
    for (const Op& op : plan.ops) {
      if (!op.name.ends_with(".moe.all_gather")) continue;
      ++moe_layers;
      for (int r = 0; r < 4; ++r) {
        const Traffic t = layer_traffic(plan, op.layer, Rank(r));
        CHECK(t.sent == Bytes(552'961'536));
        CHECK(t.received == Bytes(368'641'536));
      }
    }
    CHECK(moe_layers == 6);
  }
}

TEST_CASE("every rank of an expert-sharded group does the same FLOPs at any skew") {
  const Plan plan = moeshard_plan("block_sparse");
  // 120,000 rows x (768 x 768 + 768 x 768) x 2 flops, in each of 6 layers: d_ff / 4 = 768 columns a rank.
  const Flops expected(std::int64_t{6} * 2 * 2 * 120'000 * 768 * 768);
  for (int r = 0; r < 4; ++r) CHECK(expert_flops(plan, Rank(r)) == expected);
}

TEST_CASE("the unfused variant launches per expert and source") {
  const Plan plan = moeshard_plan("per_source");
  const auto& up = std::get<GroupedGemm>(op_named(plan, "l1.moe.up").work);
  CHECK(plan.table(up.rows).cols() == 4 * 128);
  CHECK(up.matrices == 128);
  CHECK(up.launch.per_group);
  const Plan fused = moeshard_plan("fused");
  CHECK_FALSE(std::get<GroupedGemm>(op_named(fused, "l1.moe.up").work).launch.per_group);
}

TEST_CASE("with top_k above 1 a token travels once") {
  const Model model = small_model(8, 2);
  const FunctionRouting routing = balanced(model, 64);
  const Plan plan = make_plan("expert_sharding", {}, model, round_cluster(1, 4), prefill(8, 8), routing);
  const auto& gather = std::get<Collective>(op_named(plan, "l0.moe.all_gather").work);
  // 16 tokens a rank to each of 3 others, 64 float32 each.
  CHECK(traffic(plan, gather, Rank(0)).sent == Bytes(3 * 16 * 64 * 4));
  const auto& up = std::get<GroupedGemm>(op_named(plan, "l0.moe.up").work);
  CHECK(plan.table(up.rows).row_sum(0) == 64 * 2);
}

TEST_CASE("columns that do not divide are refused with both numbers") {
  const Model model = small_model(8, 2);  // 32 columns
  const FunctionRouting routing = balanced(model, 60);
  CHECK_THROWS_WITH_AS(make_plan("expert_sharding", {}, model, round_cluster(1, 5), prefill(10, 6), routing),
                       "32 expert columns do not divide over 5 ranks", strategies::Infeasible);
}
