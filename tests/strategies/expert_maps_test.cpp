// Expert parallelism under solver's maps and map files: copies conserved, replicas share, tokens counted once.
#include "strategies/expert_maps.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>

#include "moesim/error.hpp"
#include "strategies/placement/map_file.hpp"
#include "support/files.hpp"
#include "tests/common/cases.hpp"
#include "tests/scratch.hpp"

using namespace moesim;
using namespace moesim::testing;

namespace {

using OptionMap = std::map<std::string, strategies::OptionValue>;

// Half of all tokens use expert 0, the others the rest in turn; the other choices follow on the first.
FunctionRouting skewed(int layers, int experts, int top_k, std::int64_t tokens) {
  return {layers, experts, top_k, tokens, [experts](int layer, std::int64_t t, std::span<ExpertIndex> out) {
            const auto first = t % 2 == 0 ? 0 : 1 + (t / 2 + layer) % (experts - 1);
            for (std::size_t j = 0; j < out.size(); ++j)
              out[j] = static_cast<ExpertIndex>((first + static_cast<std::int64_t>(j)) % experts);
          }};
}

std::int64_t most_rows(const Plan& plan, std::string_view op) {
  const auto& gemm = std::get<GroupedGemm>(op_named(plan, op).work);
  std::int64_t most = 0;
  for (int r = 0; r < plan.ranks; ++r) most = std::max(most, plan.table(gemm.rows).row_sum(r));
  return most;
}

// Tokens that each rank has to send to each member, by following every copy as docs/plan_format.md says: the first
// routed[rank, first replica] copies of an expert go to its first replica, and so on.
Table follow(const Plan& plan, const Permute& work, const Routing& routing) {
  const ExpertPlacement& map = plan.placements[work.placement.index()];
  Table out(plan.ranks, map.ranks());
  for (int r = 0; r < plan.ranks; ++r) {
    const auto owner = static_cast<std::size_t>(plan.owner_of_rank[static_cast<std::size_t>(r)]);
    std::vector<std::int32_t> taken(static_cast<std::size_t>(map.slots()));
    for (std::int64_t t = plan.tokens.begin[owner]; t < plan.tokens.begin[owner + 1]; ++t) {
      std::vector<ExpertIndex> ids(static_cast<std::size_t>(routing.top_k()));
      routing.assign(work.moe_layer, t, ids);
      std::vector<int> members;
      for (const ExpertIndex e : ids)
        for (int s = 0; s < map.slots(); ++s)
          if (map.expert_of_slot[static_cast<std::size_t>(s)].value() == e &&
              taken[static_cast<std::size_t>(s)] < plan.table(work.routed).at(r, s)) {
            ++taken[static_cast<std::size_t>(s)];
            members.push_back(static_cast<int>(std::ranges::upper_bound(map.slot_begin, s) - map.slot_begin.begin()) -
                              1);
            break;
          }
      REQUIRE(members.size() == ids.size());
      std::ranges::sort(members);
      members.erase(std::unique(members.begin(), members.end()), members.end());
      for (const int m : members) ++out.at(r, m);
    }
  }
  return out;
}

}  // namespace

TEST_CASE("every method, dispatch and way of sending: copies are conserved and sent tokens follow the copies") {
  std::mt19937 random(3);
  for (int trial = 0; trial < 60; ++trial) {
    const int nodes = 1 << (random() % 2);
    const int per_node = 1 << (1 + random() % 2);
    const int gpus = nodes * per_node;
    const int experts = gpus * static_cast<int>(1 + random() % 3);
    const int top_k = static_cast<int>(1 + random() % 2);
    const int layers = 2;
    const char* methods[] = {"contiguous", "round_robin", "lpt", "eplb", "local_search", "moetuner"};
    const std::string method = methods[random() % 6];
    // A GPU holds every expert at most once.
    const std::int64_t replicas = method == "moetuner" || experts / gpus + 1 > experts ? 0 : gpus;
    const bool once = random() % 2 == 0;
    const OptionMap options{{"placement", method},
                            {"replicas", replicas},
                            {"replica_choice", std::string(random() % 2 == 0 ? "even" : "local_first")},
                            {"once_per_rank", once}};
    const Model model = small_model(experts, top_k, layers);
    const std::int64_t sequences = gpus * static_cast<std::int64_t>(1 + random() % 3) + random() % 3;
    const FunctionRouting routing = skewed(layers, experts, top_k, sequences * 5);
    CAPTURE(method);
    CAPTURE(gpus);
    CAPTURE(experts);
    const Plan plan =
        make_plan("expert_parallel", options, model, round_cluster(nodes, per_node), prefill(sequences, 5), routing);
    for (int l = 0; l < layers; ++l) {
      const std::string moe = "l" + std::to_string(l) + ".moe.";
      const auto& up = std::get<GroupedGemm>(op_named(plan, moe + "up").work);
      std::int64_t computed = 0;
      for (int r = 0; r < gpus; ++r) computed += plan.table(up.rows).row_sum(r);
      CHECK(computed == sequences * 5 * top_k);
      const auto& permute = std::get<Permute>(op_named(plan, moe + "permute").work);
      CHECK(plan.placements[permute.placement.index()].slots() == experts + replicas);
      if (!once || gpus == 1) continue;
      const auto& dispatch = std::get<Collective>(op_named(plan, moe + "dispatch").work);
      CHECK(plan.table(dispatch.counts) == follow(plan, permute, routing));
    }
  }
}

TEST_CASE("replicas share their load: on paper") {
  // 4 ranks, experts 0 to 3; of 64 tokens expert 0 has 32, experts 1, 2, 3 have 11, 11, 10. Contiguous: a rank has 32.
  // With 4 replicas, 8 slots of 2: the mean is 16; expert 0 on 4 ranks gives 8 each, and then each rank has one more
  // slot: 8 + 11 is the best.
  const Model model = small_model(4, 1);
  const FunctionRouting routing = skewed(1, 4, 1, 64);
  const auto plan = [&](OptionMap options) {
    return make_plan("expert_parallel", std::move(options), model, round_cluster(1, 4), prefill(8, 8), routing);
  };
  CHECK(most_rows(plan({}), "l0.moe.up") == 32);
  const OptionMap search{{"placement", std::string("local_search")}, {"replicas", std::int64_t{4}}};
  CHECK(most_rows(plan(search), "l0.moe.up") <= 19);
  CHECK(most_rows(plan(search), "l0.moe.up") >= 16);
  CHECK(plan(search).options.at("planned_on") == "the 64 tokens of the workload itself");
  // Two slots on a rank instead of one: twice the weights of experts.
  const auto& w = [](const Plan& p) {
    for (const Buffer& b : p.buffers)
      if (b.name == "l0.moe.up.weight") return p.bytes(b, Rank(0));
    return Bytes(0);
  };
  CHECK(w(plan(search)) == w(plan({})) * 2);
}

TEST_CASE("local_first keeps a copy on its own rank where that holds the expert, else on its node") {
  // Experts 0 to 3 on 4 ranks of 2 nodes; slots (0 1)(2 3)(0 2)(1 3).
  const std::string map = test::scratch("local_first.map.json");
  write_file(map, "{\"physical_to_logical_map\": [[0, 1, 2, 3, 0, 2, 1, 3]]}");
  const Model model = small_model(4, 1);
  const FunctionRouting routing = balanced(model, 64);
  const Plan plan = make_plan("expert_parallel", {{"map", map}, {"replica_choice", std::string("local_first")}}, model,
                              round_cluster(2, 2), prefill(8, 8), routing);
  const auto& permute = std::get<Permute>(op_named(plan, "l0.moe.permute").work);
  // 16 tokens a rank, 4 of each expert.
  const std::vector<std::vector<std::int32_t>> expected{
      {4, 4, 4, 4, 0, 0, 0, 0}, {4, 4, 4, 4, 0, 0, 0, 0}, {0, 0, 0, 0, 4, 4, 4, 4}, {0, 0, 0, 0, 4, 4, 4, 4}};
  for (int r = 0; r < 4; ++r)
    for (int s = 0; s < 8; ++s)
      CHECK(plan.table(permute.routed).at(r, s) == expected[static_cast<std::size_t>(r)][static_cast<std::size_t>(s)]);
}

TEST_CASE("plans are made on the history where there is one") {
  // The history likes expert 3, the workload expert 0: the map replicates the wrong one.
  const Model model = small_model(4, 1);
  const FunctionRouting routing = skewed(1, 4, 1, 64);
  const FunctionRouting history(1, 4, 1, 64, [](int, std::int64_t t, std::span<ExpertIndex> out) {
    out[0] = static_cast<ExpertIndex>(t % 2 == 0 ? 3 : t / 2 % 3);
  });
  const strategies::Strategy& s = *strategies::find("expert_parallel");
  const strategies::Options options(s.options, {{"placement", std::string("eplb")}, {"replicas", std::int64_t{4}}});
  const Cluster cluster = round_cluster(1, 4);
  const Workload w = prefill(8, 8);
  const Plan plan = s.plan({model, cluster, w, routing, options, "eplb", &history});
  int replicas_of_3 = 0;
  for (const LogicalExpert e : plan.placements.front().expert_of_slot) replicas_of_3 += e == LogicalExpert(3) ? 1 : 0;
  CHECK(replicas_of_3 > 1);
  CHECK(plan.options.at("planned_on") == "64 other tokens: test");
}

TEST_CASE("expert_tensor_parallel places over the members of its groups") {
  const Model model = small_model(4, 1);
  const FunctionRouting routing = skewed(1, 4, 1, 64);
  const Plan plan = make_plan(
      "expert_tensor_parallel",
      {{"tensor_parallel", std::int64_t{2}}, {"placement", std::string("lpt")}, {"replicas", std::int64_t{2}}}, model,
      round_cluster(1, 4), prefill(8, 8), routing);
  CHECK(plan.placements.front().ranks() == 2);
  CHECK(plan.placements.front().slots() == 6);
  CHECK(plan.routed_copies == 64);
  CHECK(most_rows(plan, "l0.moe.up") == 32);  // expert 0 on both members, 16 each, and 16 of the others
}

TEST_CASE("the shape that solvers see of a group: even numbers on nodes, rates of shared links") {
  const Cluster cluster = round_cluster(2, 4);
  const auto shape = [&](std::vector<int> members) {
    std::vector<Rank> ranks;
    for (const int m : members) ranks.emplace_back(m);
    return placement::shape_of(cluster, ranks);
  };
  CHECK(shape({0, 1, 2, 3, 4, 5, 6, 7}).nodes == 2);
  CHECK(shape({0, 1, 2, 3, 4, 5, 6, 7}).intra == BytesPerSecond(100e9));
  CHECK(shape({0, 1, 2, 3, 4, 5, 6, 7}).inter == BytesPerSecond(10e9));
  CHECK(shape({0, 2, 4, 6}).nodes == 2);
  CHECK(shape({0, 4}).gpus_per_node() == 1);
  CHECK(shape({0, 1, 4}).nodes == 1);     // two and one: no even nodes
  CHECK(shape({0, 4, 1, 5}).nodes == 1);  // out of order
  CHECK(shape({3}).gpus == 1);
}

TEST_CASE("what does not go together is refused with its reason; faults of a map file are the file's") {
  const Model model = small_model(8, 1);
  const FunctionRouting routing = balanced(model, 64);
  const auto plan = [&](OptionMap options) {
    return make_plan("expert_parallel", std::move(options), model, round_cluster(1, 4), prefill(8, 8), routing);
  };
  CHECK_THROWS_WITH_AS(plan({{"placement", std::string("eplb")}, {"replicas", std::int64_t{3}}}),
                       "8 experts and 3 replicas do not divide by 4 GPUs (0 or 4 replicas do)", strategies::Infeasible);
  CHECK_THROWS_WITH_AS(plan({{"placement", std::string("moetuner")}, {"replicas", std::int64_t{4}}}),
                       "moetuner makes no replicas", strategies::Infeasible);
  const std::string bad = test::scratch("bad.map.json");
  write_file(bad, "[[0, 1, 2, 3, 4, 5, 6, 8]]");
  CHECK_THROWS_WITH_AS(plan({{"map", bad}, {"placement", std::string("lpt")}}),
                       "a map file says itself where experts and replicas are: leave out placement and replicas",
                       strategies::Infeasible);
  try {
    plan({{"map", bad}});
    FAIL("a map with expert 8 of 8 was taken");
  } catch (const InputError& e) {
    CHECK(e.diagnostics().front().place.line == 1);
    CHECK(e.diagnostics().front().place.column == 24);
    CHECK(e.diagnostics().front().message == "slot 7 holds 8; experts are numbered 0 to 7");
  }
}
