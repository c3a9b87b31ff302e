// Strategies that gather experts: what moves is lambda S, gradients come home, and what cannot be done says why.
#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "strategies/gathered_experts.hpp"
#include "strategies/hecate.hpp"
#include "strategies/load_history.hpp"
#include "strategies/materialization/holders.hpp"
#include "strategies/materialization/materialization.hpp"
#include "tests/common/cases.hpp"

using namespace moesim;
using namespace moesim::testing;

namespace {

Workload train(std::int64_t sequences, std::int64_t length) {
  Workload w = prefill(sequences, length);
  w.phase = Workload::Phase::train;
  return w;
}

// Half of all tokens want expert 0, the others the rest in turn.
FunctionRouting skewed(const Model& model, std::int64_t tokens) {
  const auto experts = static_cast<int>(model.layers.front().moe->experts);
  return {model.moe_layers(), experts, 1, tokens, [experts](int, std::int64_t t, std::span<ExpertIndex> out) {
            out[0] = static_cast<ExpertIndex>(t % 2 == 0 ? 0 : 1 + (t / 2) % (experts - 1));
          }};
}

std::int64_t collectives(const Plan& plan, Collective::Kind kind) {
  std::int64_t n = 0;
  for (const Op& op : plan.ops)
    if (const auto* c = std::get_if<Collective>(&op.work)) n += c->kind == kind ? 1 : 0;
  return n;
}

Bytes sent(const Plan& plan, Collective::Kind kind) {
  Bytes sum;
  for (const Op& op : plan.ops)
    if (const auto* c = std::get_if<Collective>(&op.work); c && c->kind == kind)
      for (int r = 0; r < plan.ranks; ++r) sum += traffic(plan, *c, Rank(r)).sent;
  return sum;
}

std::string why_not(std::string_view strategy, const Model& model, const Cluster& cluster, const Workload& work,
                    std::map<std::string, strategies::OptionValue> options = {}) {
  const FunctionRouting routing = balanced(model, 1000);
  try {
    make_plan(strategy, std::move(options), model, cluster, work, routing);
  } catch (const strategies::Infeasible& e) {
    return e.what();
  }
  return {};
}

constexpr Bytes expert(3 * 64 * 32 * 4);  // of small_model, float32

}  // namespace

TEST_CASE("sparse collectives move lambda S, exactly; keeping replicas equal moves twice that") {
  std::mt19937 random(41);
  for (int trial = 0; trial < 50; ++trial) {
    const int ranks = static_cast<int>(2 + random() % 7);
    const int experts = ranks * static_cast<int>(1 + random() % 3);
    const ExpertPlacement owners = contiguous_placement(experts, ranks);
    materialization::Holders held(owners, experts);
    for (int e = 0; e < experts; ++e)
      for (int d = 0; d < ranks; ++d)
        if (random() % 3 == 0) held.set(e, d, true);
    const ExpertPlacement all = held.placement();
    Plan plan;
    plan.ranks = ranks;
    plan.groups.emplace_back(1);
    for (int r = 0; r < ranks; ++r) plan.groups[0][0].emplace_back(r);
    plan.placements = {owners, all};
    const auto volume = [&](Collective::Kind kind, int from, int to) {
      Collective c;
      c.kind = kind;
      c.groups = GroupsId(0);
      c.cols = 10;
      c.dtype = DType::f32;
      c.from = PlacementId(from);
      c.to = PlacementId(to);
      Bytes out;
      Bytes in;
      for (int r = 0; r < ranks; ++r) {
        out += traffic(plan, c, Rank(r)).sent;
        in += traffic(plan, c, Rank(r)).received;
      }
      CHECK(out == in);
      return out;
    };
    // lambda = gathered / experts, S = experts * 40 bytes.
    const Bytes lambda_s(40 * materialization::gathered(owners, all));
    CHECK(volume(Collective::Kind::sparse_all_gather, 0, 1) == lambda_s);
    CHECK(volume(Collective::Kind::sparse_reduce_scatter, 1, 0) == lambda_s);
    CHECK(volume(Collective::Kind::sparse_reduce_scatter, 1, 1) == lambda_s * 2);
  }
}

TEST_CASE("Hecate gathers what algorithm 1 says and gives its gradients back") {
  const Model model = small_model(8, 1, 3);
  const FunctionRouting routing = skewed(model, 80);
  const Cluster cluster = round_cluster(2, 2);
  const auto plan_with = [&](std::int64_t t, bool again, strategies::LoadHistory& past) {
    const strategies::Strategy* s = strategies::find("hecate");
    const strategies::Options options(s->options,
                                      {{"overlap_degree", t}, {"gather_again", again}, {"calibrate", false}});
    return s->plan({model, cluster, train(8, 10), routing, options, "hecate", nullptr, nullptr, &past});
  };
  for (const bool again : {false, true}) {
    strategies::LoadHistory past;
    past.record(routing);
    // One hot expert to three other devices, two matrices, three layers; again in the backward pass.
    const Plan plan = plan_with(1, again, past);
    CHECK(sent(plan, Collective::Kind::sparse_all_gather) == expert * 3 * 3 * (again ? 2 : 1));
    CHECK(sent(plan, Collective::Kind::sparse_reduce_scatter) == expert * 3 * 3);
    CHECK(plan.routed_copies == 3 * 80);
    // Every copy of the hot expert is local then.
    const auto& dispatch = std::get<Collective>(op_named(plan, "l0.moe.dispatch").work);
    Bytes moved;
    for (int r = 0; r < 4; ++r) moved += traffic(plan, dispatch, Rank(r)).sent;
    CHECK(moved < Bytes(40 * 64 * 4));  // at most the other half of the tokens
  }
  strategies::LoadHistory kept_past;
  kept_past.record(routing);
  strategies::LoadHistory again_past;
  again_past.record(routing);
  const Plan kept = plan_with(8, false, kept_past);
  const Plan again = plan_with(8, true, again_past);
  CHECK(memory_peak(again, Rank(0)).by_role.at(BufferRole::gathered) <
        memory_peak(kept, Rank(0)).by_role.at(BufferRole::gathered));
}

TEST_CASE("owners move with parameters, master weights and moments, once per interval") {
  const Model model = small_model(8, 1, 2);
  const FunctionRouting routing = skewed(model, 80);
  const Cluster cluster = round_cluster(1, 4);
  const strategies::Strategy* s = strategies::find("hecate_sharding");
  const strategies::Options options(s->options, {{"reshard_every", std::int64_t{3}}});
  strategies::LoadHistory past;
  std::vector<std::int64_t> moves;
  for (int i = 0; i < 6; ++i) {
    const Plan plan = s->plan({model, cluster, train(8, 10), routing, options, "x", nullptr, nullptr, &past});
    moves.push_back(collectives(plan, Collective::Kind::send_recv));
    if (moves.back() > 0) {
      const auto& c = std::get<Collective>(op_named(plan, "l0.moe.move").work);
      CHECK(storage(c.cols, c.dtype) == expert * 3);  // float32: parameters and two moments
    }
    past.record(routing);
  }
  // Loads are known from iteration 1 on; the second sharding, at 4, finds the same loads and moves nothing.
  CHECK(moves[0] == 0);
  CHECK(moves[1] > 0);
  CHECK(std::accumulate(moves.begin() + 2, moves.end(), std::int64_t{0}) == 0);
}

TEST_CASE("fsdp gathers every expert everywhere and exchanges no token") {
  const Model model = small_model(8, 2, 2);
  const FunctionRouting routing = balanced(model, 80);
  const Plan plan = make_plan("fsdp", {}, model, round_cluster(1, 4), train(8, 10), routing);
  CHECK(collectives(plan, Collective::Kind::all_to_all_v) == 0);
  // 8 experts to 3 other devices, twice in each of two layers; gradients once.
  CHECK(sent(plan, Collective::Kind::sparse_all_gather) == expert * 8 * 3 * 2 * 2);
  CHECK(sent(plan, Collective::Kind::sparse_reduce_scatter) == expert * 8 * 3 * 2);
}

TEST_CASE("every strategy computes every token copy, forward and backward") {
  const Model model = small_model(8, 1, 2);
  const FunctionRouting routing = skewed(model, 80);
  for (const char* name : {"expert_parallel", "hecate", "hecate_sharding", "hecate_materialization", "fsdp",
                           "fastermoe", "smartmoe", "flexmoe"}) {
    const strategies::Strategy* s = strategies::find(name);
    const strategies::Options options(s->options, {});
    strategies::LoadHistory past;
    const Cluster cluster = round_cluster(2, 2);
    for (int i = 0; i < 3; ++i) {
      CAPTURE(name);
      const Plan plan = s->plan({model, cluster, train(8, 10), routing, options, name, nullptr, nullptr, &past});
      std::map<Pass, std::int64_t> rows;
      for (const Op& op : plan.ops)
        if (const auto* g = std::get_if<GroupedGemm>(&op.work))
          for (int r = 0; r < 4; ++r) rows[op.pass] += plan.table(g->rows).row_sum(r);
      CHECK(rows.at(Pass::forward) == 2 * 2 * 80);  // up and down, two layers
      CHECK(rows.at(Pass::backward) == 2 * rows.at(Pass::forward));
      past.record(routing);
    }
  }
}

TEST_CASE("history: the mean of the last five iterations, nothing before the first") {
  const Model model = small_model(4, 1);
  strategies::LoadHistory past;
  const FunctionRouting even = balanced(model, 40);
  CHECK(past.estimate(even)[0] == std::vector<double>{1, 1, 1, 1});
  for (int i = 0; i < 7; ++i) {
    const FunctionRouting routing(1, 4, 1, 40, [i](int, std::int64_t, std::span<ExpertIndex> out) {
      out[0] = static_cast<ExpertIndex>(i < 4 ? 0 : 3);
    });
    past.record(routing);
  }
  // Of iterations 2 to 6 two chose expert 0, three expert 3.
  CHECK(past.estimate(even)[0] == std::vector<double>{16, 0, 0, 24});
}

TEST_CASE("what cannot be gathered says why") {
  const Model model = small_model(8, 2);
  CHECK(why_not("hecate", model, round_cluster(1, 1), train(8, 10)).find("one GPU") != std::string::npos);
  CHECK(why_not("fsdp", model, round_cluster(1, 3), train(9, 10)).find("do not divide") != std::string::npos);
  CHECK(why_not("hecate", model, round_cluster(1, 4), prefill(8, 10)).find("train") != std::string::npos);
  CHECK(why_not("fsdp", model, round_cluster(1, 3), train(9, 10)) == "8 experts do not divide over 3 ranks");
  // One layer's expert is 3 x 64 x 32 float32, 24,576 bytes.
  CHECK(
      why_not("hecate", model, round_cluster(1, 4), train(8, 10), {{"budget_gib", 1e-6}}) ==
      "budget_gib = 1e-06 holds no copy of an expert: 1 layers of 24576 bytes are there at once, at least 0.000023 are "
      "needed");
}

TEST_CASE("an expert without an owner is named") {
  const Model model = small_model(8, 2, 2);
  const FunctionRouting routing = balanced(model, 80);
  const Cluster cluster = round_cluster(1, 4);
  const strategies::Options none({}, {});
  const strategies::Input in{model, cluster, train(8, 10), routing, none, "x"};
  const ExpertPlacement all = contiguous_placement(8, 4);
  ExpertPlacement lost = all;
  lost.expert_of_slot[5] = LogicalExpert(4);
  CHECK_THROWS_WITH_AS(strategies::plan_gathered(in, {{all, all, {}, {}}, {lost, all, {}, {}}}, {}),
                       "MoE layer 1: expert 5 of 8 has no owner", strategies::Infeasible);
  // The same in a plan that comes from a file.
  Plan plan = make_plan("fsdp", {}, model, cluster, train(8, 10), routing);
  const auto& gather = std::get<Collective>(op_named(plan, "l0.moe.gather.up").work);
  plan.placements[gather.from.index()].expert_of_slot[5] = LogicalExpert(4);
  const std::vector<std::string> found = faults(plan);
  CHECK(std::ranges::any_of(found, [](const std::string& f) {
    return f.find("'l0.moe.gather.up': wants expert 5 in slot 5, and no rank holds it before") != std::string::npos;
  }));
}

TEST_CASE("gathering bandwidth is what a node's cards receive") {
  CHECK(strategies::gathering_bandwidth(round_cluster(2, 4)).value() == doctest::Approx(40e9));
  CHECK(strategies::gathering_bandwidth(round_cluster(1, 4)).value() == doctest::Approx(100e9));
}
