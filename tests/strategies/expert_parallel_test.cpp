// Expert parallelism: counts conserved, DeepSpeed's capacity, the published straggler factors.
#include <doctest/doctest.h>

#include <random>

#include "models/arch/zoo.hpp"
#include "models/load/synthetic.hpp"
#include "tests/common/cases.hpp"

using namespace moesim;
using namespace moesim::testing;

namespace {

// Expert e of token t: 0 for three tokens of four, else 1 + t / 4 mod (E - 1).
FunctionRouting skewed(int layers, int experts, std::int64_t tokens) {
  return {layers, experts, 1, tokens, [experts](int, std::int64_t t, std::span<ExpertIndex> out) {
            out[0] = static_cast<ExpertIndex>(t % 4 != 3 ? 0 : 1 + (t / 4) % (experts - 1));
          }};
}

}  // namespace

TEST_CASE("dropless: copies are conserved through dispatch, experts and combine") {
  std::mt19937 random(7);
  for (int trial = 0; trial < 40; ++trial) {
    const int ranks = 1 << (random() % 4);
    const int experts = static_cast<int>(1 + random() % 24);
    const int top_k = static_cast<int>(1 + random() % static_cast<unsigned>(std::min(experts, 4)));
    const auto sequences = static_cast<std::int64_t>(1 + random() % 12);
    const Model model = small_model(experts, top_k);
    const FunctionRouting routing(
        1, experts, top_k, sequences * 3, [&](int, std::int64_t t, std::span<ExpertIndex> out) {
          for (std::size_t j = 0; j < out.size(); ++j)  // distinct, and skewed towards low ids
            out[j] =
                static_cast<ExpertIndex>((static_cast<std::size_t>(t * t % 5) + j) % static_cast<std::size_t>(experts));
        });
    const Plan plan = make_plan("expert_parallel", {}, model, round_cluster(1, ranks), prefill(sequences, 3), routing);
    const auto& up = std::get<GroupedGemm>(op_named(plan, "l0.moe.up").work);
    std::int64_t computed = 0;
    for (int r = 0; r < ranks; ++r) computed += plan.table(up.rows).row_sum(r);
    CHECK(computed == sequences * 3 * top_k);
    CHECK(plan.routed_copies == sequences * 3 * top_k);
    CHECK(plan.dropped_copies == 0);
    if (ranks == 1) continue;
    Bytes sent;
    Bytes received;
    const auto& dispatch = std::get<Collective>(op_named(plan, "l0.moe.dispatch").work);
    const auto& combine = std::get<Collective>(op_named(plan, "l0.moe.combine").work);
    for (int r = 0; r < ranks; ++r) {
      sent += traffic(plan, dispatch, Rank(r)).sent;
      received += traffic(plan, dispatch, Rank(r)).received;
      // What goes out comes back.
      CHECK(traffic(plan, dispatch, Rank(r)).sent == traffic(plan, combine, Rank(r)).received);
      CHECK(traffic(plan, dispatch, Rank(r)).received == traffic(plan, combine, Rank(r)).sent);
    }
    CHECK(sent == received);
  }
}

TEST_CASE("padded: capacity, dropped copies and bytes on paper") {
  // 4 ranks of 40 tokens, 8 experts, factor 1.5: C = ceil(40 / 8 * 1.5) = 8. Expert 0 gets 30 of 40 tokens of each
  // rank: 22 dropped; the other 10 spread over 7 experts, at most 2 each: none dropped.
  const Model model = small_model(8, 1);
  const FunctionRouting routing = skewed(1, 8, 160);
  const Plan plan =
      make_plan("expert_parallel", {{"capacity_factor", 1.5}}, model, round_cluster(1, 4), prefill(16, 10), routing);
  CHECK(plan.dropped_copies == 4 * 22);
  CHECK(plan.routed_copies == 160);
  const auto& up = std::get<GroupedGemm>(op_named(plan, "l0.moe.up").work);
  // Two experts on a rank, 8 rows from each of 4 sources.
  for (int r = 0; r < 4; ++r) CHECK(plan.table(up.rows).row_sum(r) == 2 * 4 * 8);
  const auto& dispatch = std::get<Collective>(op_named(plan, "l0.moe.dispatch").work);
  // To each of three others: 2 experts x 8 rows x 64 float32.
  CHECK(traffic(plan, dispatch, Rank(1)).sent == Bytes(3 * 2 * 8 * 64 * 4));
}

TEST_CASE("capacity keeps DeepSpeed's minimum") {
  // ceil(2 / 8 * 1) = 1 is below min_capacity 4.
  const Model model = small_model(8, 1);
  const FunctionRouting routing = skewed(1, 8, 8);
  const Plan plan =
      make_plan("expert_parallel", {{"capacity_factor", 1.0}}, model, round_cluster(1, 4), prefill(4, 2), routing);
  const auto& up = std::get<GroupedGemm>(op_named(plan, "l0.moe.up").work);
  CHECK(plan.table(up.rows).row_sum(0) == 2 * 4 * 4);
}

TEST_CASE("straggler factors of dropless expert parallelism under MoEShard's skew") {
  // papers.md section 1, derived from p_i ~ 1/E + 0.6 for the first ceil(0.1 E) experts; 4 GPUs, contiguous:
  // E = 8: rank 0 has 2 of 8 experts, (1/8 + 0.6 + 1/8) / (1 + 0.6) * 4 = 2.125.
  const std::pair<int, double> published[] = {{8, 2.12}, {16, 2.64}, {32, 3.12}, {64, 3.42}, {128, 3.66}, {256, 3.82}};
  for (const auto& [experts, factor] : published) {
    const Model model = arch::load("switch-base-" + std::to_string(experts));
    Workload w = prefill(1000, 120);
    w.phase = Workload::Phase::encode;
    load::SyntheticSpec spec;
    spec.shape.moe_layers = model.moe_layers();
    spec.shape.experts = experts;
    spec.shape.tokens = 120000;
    spec.law.name = "moeshard";
    spec.sampling = load::Sampling::expected;
    const Plan plan = make_plan("expert_parallel", {}, model, round_cluster(1, 4), w, *load::make_synthetic(spec));
    const auto& up = std::get<GroupedGemm>(op_named(plan, "l1.moe.up").work);
    double most = 0;
    for (int r = 0; r < 4; ++r) most = std::max(most, static_cast<double>(plan.table(up.rows).row_sum(r)));
    CAPTURE(experts);
    CHECK(most / 30000.0 == doctest::Approx(factor).epsilon(0.005 / factor));
  }
}

TEST_CASE("once_per_rank sends a token once, and computes the same rows") {
  // top_k = 2, experts (2t, 2t + 1) mod 8 on 4 ranks of 2: both are on one rank, so a token goes to one rank.
  const Model model = small_model(8, 2);
  const FunctionRouting routing = balanced(model, 32);
  const Cluster cluster = round_cluster(1, 4);
  const Plan copies = make_plan("expert_parallel", {}, model, cluster, prefill(4, 8), routing);
  const Plan once = make_plan("expert_parallel", {{"once_per_rank", true}}, model, cluster, prefill(4, 8), routing);
  const auto sent = [](const Plan& plan) {
    return traffic(plan, std::get<Collective>(op_named(plan, "l0.moe.dispatch").work), Rank(0)).sent;
  };
  CHECK(sent(copies) == sent(once) * 2);
  const auto rows = [](const Plan& plan) {
    return plan.table(std::get<GroupedGemm>(op_named(plan, "l0.moe.up").work).rows);
  };
  CHECK(rows(copies) == rows(once));
}

TEST_CASE("a token crosses once to a node, however many of its GPUs it uses there") {
  // 8 experts on 2 nodes of 2 GPUs, 16 tokens, 4 on each GPU; every token uses experts 0 and 2, which are on GPUs 0
  // and 1.
  Model model = small_model(8, 2);
  const FunctionRouting routing(1, 8, 2, 16, [](int, std::int64_t, std::span<ExpertIndex> out) {
    out[0] = 0;
    out[1] = 2;
  });
  const auto islands = [&](const std::string& per_node) {
    const Plan plan = make_plan("expert_parallel", {{"once_per_rank", true}, {"once_per_node", per_node}}, model,
                                round_cluster(2, 2), prefill(4, 4), routing);
    const auto& dispatch = std::get<Collective>(op_named(plan, "l0.moe.dispatch").work);
    const auto& combine = std::get<Collective>(op_named(plan, "l0.moe.combine").work);
    CHECK(faults(plan).empty());
    CHECK(dispatch.island_rows == combine.island_rows);
    CHECK(combine.returns);
    CHECK_FALSE(dispatch.returns);
    // GPU 3 has 4 tokens for each of GPUs 0 and 1 whatever the wires do.
    CHECK(plan.table(dispatch.counts).at(3, 0) == 4);
    CHECK(plan.table(dispatch.counts).at(3, 1) == 4);
    return dispatch.island_rows.valid() ? plan.table(dispatch.island_rows) : Table();
  };
  const Table once = islands("yes");
  REQUIRE(once.cols() == 2);
  for (int r = 0; r < 4; ++r) {
    CHECK(once.at(r, 0) == 4);
    CHECK(once.at(r, 1) == 0);
  }
  CHECK(islands("no") == Table());
  CHECK(islands("automatic") == Table());
  // Routing that lets a token use one of two groups of experts was made for it.
  model.layers[0].moe->expert_groups = 2;
  model.layers[0].moe->groups_per_token = 1;
  CHECK(islands("automatic") == once);
  CHECK_THROWS_AS(make_plan("expert_parallel", {{"once_per_node", std::string("yes")}}, model, round_cluster(2, 2),
                            prefill(4, 4), routing),
                  strategies::Infeasible);
}

TEST_CASE("a wire format of 8 bits carries its scales") {
  // 64 fp8 elements and one float32 scale: 68 B instead of 256.
  const Model model = small_model(4, 1);
  const FunctionRouting routing = balanced(model, 16);
  const Plan plan = make_plan("expert_parallel", {{"dispatch_dtype", std::string("fp8")}}, model, round_cluster(1, 4),
                              prefill(4, 4), routing);
  const auto& dispatch = std::get<Collective>(op_named(plan, "l0.moe.dispatch").work);
  CHECK(traffic(plan, dispatch, Rank(0)).sent == Bytes(3 * 68));
}

TEST_CASE("expert and tensor parallelism together slice experts and keep copies") {
  const Model model = small_model(8, 2);
  const FunctionRouting routing = balanced(model, 32);
  const Plan plan = make_plan("expert_tensor_parallel", {{"tensor_parallel", std::int64_t{2}}}, model,
                              round_cluster(1, 4), prefill(4, 8), routing);
  const auto& up = std::get<GroupedGemm>(op_named(plan, "l0.moe.up").work);
  CHECK(up.n == 2 * 32 / 2);
  std::int64_t rows = 0;
  for (int r = 0; r < 4; ++r) rows += plan.table(up.rows).row_sum(r);
  CHECK(rows == 2 * 32 * 2);  // both halves of every copy
  CHECK(plan.routed_copies == 32 * 2);
  CHECK(plan.tokens.owners() == 2);
}

TEST_CASE("duplicate token dropping: a rank sends its share of the tokens that its group replicates") {
  // 2 groups of 2 ranks, 16 tokens of 2 copies for each group: a rank's share is 8 tokens, 16 copies, 8 of them for the
  // other group: 8 rows x 64 float32. It then holds 8 + 8 rows, and gathers as many from its neighbour.
  const Model model = small_model(8, 2);
  const FunctionRouting routing = balanced(model, 32);
  const auto bytes = [&](const char* op, bool drop) {
    const Plan plan =
        make_plan("expert_tensor_parallel", {{"tensor_parallel", std::int64_t{2}}, {"drop_duplicates", drop}}, model,
                  round_cluster(1, 4), prefill(4, 8), routing);
    const Traffic t = traffic(plan, std::get<Collective>(op_named(plan, op).work), Rank(1));
    CHECK(t.sent == t.received);
    return t.sent;
  };
  CHECK(bytes("l0.moe.dispatch", true) == Bytes(8 * 64 * 4));
  CHECK(bytes("l0.moe.gather", true) == Bytes(16 * 64 * 4));
  CHECK(bytes("l0.moe.scatter", true) == Bytes(16 * 64 * 4));
  CHECK(bytes("l0.moe.combine", true) == Bytes(8 * 64 * 4));
  CHECK(bytes("l0.moe.dispatch", false) == Bytes(16 * 64 * 4));
}

TEST_CASE("tensor parallelism moves two all-reduces a layer and nothing else inside layers") {
  const Model model = small_model(8, 2);
  const FunctionRouting routing = balanced(model, 32);
  const Plan plan = make_plan("tensor_parallel", {}, model, round_cluster(1, 4), prefill(4, 8), routing);
  int inside = 0;
  for (const Op& op : plan.ops)
    if (const auto* c = std::get_if<Collective>(&op.work); c != nullptr && op.layer.valid()) {
      CHECK(c->kind == Collective::Kind::all_reduce);
      ++inside;
    }
  CHECK(inside == 2);
}

TEST_CASE("what does not divide is refused, naming the numbers") {
  const Model model = small_model(8, 2);  // 4 heads
  const FunctionRouting routing = balanced(model, 64);
  const auto plan = [&](const char* strategy, std::map<std::string, strategies::OptionValue> options, int gpus) {
    return make_plan(strategy, std::move(options), model, round_cluster(1, gpus), prefill(8, 8), routing);
  };
  CHECK_THROWS_WITH_AS(plan("tensor_parallel", {}, 8), "4 attention heads do not divide over 8 ranks",
                       strategies::Infeasible);
  CHECK_THROWS_WITH_AS(plan("expert_parallel", {{"size", std::int64_t{3}}}, 8),
                       "8 ranks do not divide into groups of 3", strategies::Infeasible);
  CHECK_THROWS_WITH_AS(plan("expert_tensor_parallel", {{"tensor_parallel", std::int64_t{3}}}, 8),
                       "8 ranks do not divide into groups of 3", strategies::Infeasible);
}

TEST_CASE("fewer tokens than ranks leave ranks without tokens, not without experts") {
  const Model model = small_model(8, 1);
  const FunctionRouting routing = balanced(model, 1);
  const Plan plan = make_plan("expert_parallel", {}, model, round_cluster(1, 4), prefill(1, 1), routing);
  CHECK(plan.tokens.count(0) == 1);
  CHECK(plan.tokens.count(3) == 0);
  for (int r = 0; r < 4; ++r) CHECK(memory_peak(plan, Rank(r)).by_role.at(BufferRole::weight) > Bytes(0));
}

TEST_CASE("more token copies than a table can count are refused, not wrapped") {
  // 2^21 tokens on each of 2 ranks, every expert padded to all of them: 2^21 x 2048 experts = 2^32 copies to the other.
  const Model model = small_model(4096, 1);
  const FunctionRouting routing(1, 4096, 1, std::int64_t{1} << 22,
                                [](int, std::int64_t, std::span<ExpertIndex> out) { out[0] = 0; });
  CHECK_THROWS_AS(make_plan("expert_parallel", {{"capacity_factor", 1e6}}, model, round_cluster(1, 2),
                            prefill(2, std::int64_t{1} << 21), routing),
                  strategies::Infeasible);
}

TEST_CASE("once_per_rank with nobody to send to is the plan without it") {
  const Model model = small_model(8, 2);
  const FunctionRouting routing = balanced(model, 32);
  const std::map<std::string, strategies::OptionValue> alone{{"size", std::int64_t{1}}};
  auto once = alone;
  once["once_per_rank"] = true;
  const Plan with = make_plan("expert_parallel", once, model, round_cluster(1, 2), prefill(4, 8), routing);
  const Plan without = make_plan("expert_parallel", alone, model, round_cluster(1, 2), prefill(4, 8), routing);
  CHECK(with.ops == without.ops);
}
