#include "strategies/placement/evaluate.hpp"

#include <doctest/doctest.h>

#include <numeric>

#include "moesim/error.hpp"
#include "recorded.hpp"
#include "strategies/placement/affinity_search.hpp"
#include "strategies/placement/balance.hpp"

namespace moesim::placement {
namespace {

// Four GPUs on two nodes, one expert each; four tokens with top 2, so that token t is at home on GPU t.
const ClusterShape shape{
    .gpus = 4, .nodes = 2, .slots_per_gpu = 1, .intra = BytesPerSecond(9), .inter = BytesPerSecond(1)};
const Recorded two_layers(4, {{{0, 1}, {2, 3}, {2, 0}, {3, 1}}, {{1, 0}, {1, 2}, {0, 1}, {3, 2}}});
const LayerMaps one_each(2, map_of({{0}, {1}, {2}, {3}}));

TEST_CASE("return_home, by hand") {
  const Evaluation e = evaluate(two_layers, {0, 4}, one_each, shape, {});
  // Layer 0. Token 0 at GPU 0 -> 0, 1: own GPU, own node. Token 1 at 1 -> 2, 3: two copies to the other node, one
  // message. Token 2 at 2 -> 2, 0: own GPU, other node. Token 3 at 3 -> 3, 1: own GPU, other node.
  const LayerEvaluation& l = e.layers[0];
  CHECK(l.dispatch.copies == Hops{3, 1, 4});
  CHECK(l.dispatch.merged == Hops{3, 1, 3});
  CHECK(l.combine.copies == l.dispatch.copies);
  CHECK(l.gpu_copies == std::vector<std::int64_t>{2, 2, 2, 2});
  CHECK(l.max_over_mean == 1);
  CHECK(l.pairs.at(1, 2) == 1);
  CHECK(l.pairs.at(1, 3) == 1);
  CHECK(l.pairs.sum() == 8);
  // Layer 1: experts 1 0 | 1 2 | 0 1 | 3 2 -> copies per GPU 2 3 2 1.
  CHECK(e.layers[1].gpu_copies == std::vector<std::int64_t>{2, 3, 2, 1});
  CHECK(e.straggler == std::vector<double>{(2 + 3) / 4.0});
}

TEST_CASE("stay, by hand") {
  const Evaluation e = evaluate(two_layers, {0, 4}, one_each, shape, {.mode = Mode::stay});
  // Layer 0 dispatches from home as above; results go to the first expert's GPU: 0 <- 1, 2 <- 3, 2 <- 0, 3 <- 1.
  CHECK(e.layers[0].dispatch.copies == Hops{3, 1, 4});
  CHECK(e.layers[0].combine.copies == Hops{4, 2, 2});
  // Layer 1: tokens wait at GPUs 0, 2, 2, 3 and go to 1 0 | 1 2 | 0 1 | 3 2.
  CHECK(e.layers[1].dispatch.copies == Hops{3, 2, 3});
  CHECK(e.layers[1].dispatch.merged == Hops{3, 2, 2});  // token 2: GPUs 0 and 1 are one message to node 0
  CHECK(e.layers[1].pairs.at(2, 1) == 2);
}

TEST_CASE("the movement that solvers minimize is what stay counts between layers") {
  std::mt19937_64 rng(1);
  std::vector<std::vector<std::vector<int>>> ids(3);
  for (auto& layer : ids)
    for (int t = 0; t < 200; ++t) {
      const int a = static_cast<int>(rng() % 6);
      layer.push_back({a, (a + 1 + static_cast<int>(rng() % 5)) % 6});
    }
  const Recorded routing(6, ids);
  const ClusterShape six{
      .gpus = 6, .nodes = 2, .slots_per_gpu = 1, .intra = BytesPerSecond(9), .inter = BytesPerSecond(1)};
  LayerMaps maps;
  for (int l = 0; l < 3; ++l) {
    std::vector<std::vector<int>> order{{0}, {1}, {2}, {3}, {4}, {5}};
    std::shuffle(order.begin(), order.end(), rng);
    maps.push_back(map_of(order));
  }
  const Window all{0, 200};
  const Evaluation e = evaluate(routing, all, maps, six, {.mode = Mode::stay});
  double counted = 0;  // a way inside the node costs 1, to the other node 9
  for (std::size_t l = 1; l < 3; ++l)
    counted += static_cast<double>(e.layers[l].dispatch.copies.own_node + 9 * e.layers[l].dispatch.copies.other_nodes);
  CHECK(movement_cost(maps, measure_movement(routing, all, MovementCount::from_first), {}, six) ==
        doctest::Approx(counted));
  for (const LayerEvaluation& l : e.layers)
    counted += static_cast<double>(l.combine.copies.own_node + 9 * l.combine.copies.other_nodes);
  CHECK(movement_cost(maps, measure_movement(routing, all, MovementCount::from_first), measure_company(routing, all),
                      six) == doctest::Approx(counted));
}

TEST_CASE("replicas: even takes turns, local_first stays near") {
  // Expert 0 on GPUs 0 and 2, expert 1 on 1 and 3. Eight tokens of one expert; two tokens at home on each GPU.
  const Recorded routing(2, {{{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}}});
  const LayerMaps maps{map_of({{0}, {1}, {0}, {1}})};
  const Evaluation even = evaluate(routing, {0, 8}, maps, shape, {.dispatch = Dispatch::even});
  CHECK(even.layers[0].gpu_copies == std::vector<std::int64_t>{4, 0, 4, 0});
  CHECK(even.layers[0].dispatch.copies == Hops{2, 2, 4});
  const Evaluation local = evaluate(routing, {0, 8}, maps, shape, {.dispatch = Dispatch::local_first});
  CHECK(local.layers[0].dispatch.copies == Hops{4, 4, 0});
  CHECK(local.straggler[0] == 2);  // two of four GPUs work
}

TEST_CASE("measured copies agree with the formula for homes spread evenly") {
  std::mt19937_64 rng(2);
  std::vector<std::vector<std::vector<int>>> ids(1);
  for (int t = 0; t < 4000; ++t) ids[0].push_back({static_cast<int>(rng() % 6)});
  const Recorded routing(6, ids);
  const ClusterShape wide{.gpus = 4, .nodes = 2, .slots_per_gpu = 2};
  const LayerMaps maps{map_of({{0, 1}, {2, 3}, {0, 4}, {5, 2}})};
  const Loads loads = measure_loads(routing, {0, 4000});
  for (const Dispatch d : {Dispatch::even, Dispatch::local_first}) {
    const Evaluation e = evaluate(routing, {0, 4000}, maps, wide, {.dispatch = d});
    const CopyShares expected = copy_shares(loads.layer(0), maps[0], wide, d);
    CHECK(std::abs(static_cast<double>(e.layers[0].dispatch.copies.other_nodes) / 4000 - expected.other_nodes) < 0.03);
    CHECK(std::abs(static_cast<double>(e.layers[0].dispatch.copies.own_gpu) / 4000 - expected.own_gpu) < 0.03);
    const std::vector<double> work = gpu_loads(loads.layer(0), maps[0], wide, d);
    for (std::size_t g = 0; g < 4; ++g)
      CHECK(std::abs(static_cast<double>(e.layers[0].gpu_copies[g]) / work[g] - 1) < 0.06);
  }
}

TEST_CASE("steps: homes are dealt anew, each waits for its own fullest GPU, and the copies add up") {
  const Evaluation e = evaluate(two_layers, {0, 4}, one_each, shape, {.tokens_per_step = 3});
  REQUIRE(e.straggler.size() == 2);
  // Step 0: tokens 0-2 on GPUs 0, 1, 2; layer 0 copies 2 1 2 1, layer 1 copies 2 3 1 0: (2 + 3) / (6/4 + 6/4).
  CHECK(e.straggler[0] == doctest::Approx(5 / 3.0));
  // Step 1: token 3, now at home on GPU 0 -> 3, 1: other node and own node.
  CHECK(e.straggler[1] == doctest::Approx(2 / (2 * 2 / 4.0)));
  CHECK(e.layers[0].dispatch.copies == Hops{2, 2, 4});
  CHECK(std::accumulate(e.layers[0].gpu_copies.begin(), e.layers[0].gpu_copies.end(), std::int64_t{0}) == 8);
}

TEST_CASE("windows, and what does not fit is an input error") {
  CHECK(evaluate(two_layers, {1, 2}, one_each, shape, {}).layers[0].dispatch.copies.total() == 4);
  CHECK_THROWS_AS((void)evaluate(two_layers, {2, 3}, one_each, shape, {}), InputError);
  CHECK_THROWS_AS((void)evaluate(two_layers, {0, 0}, one_each, shape, {}), InputError);
  CHECK_THROWS_AS((void)evaluate(two_layers, {0, 4}, {one_each[0]}, shape, {}), InputError);
  CHECK_THROWS_AS((void)evaluate(two_layers, {0, 4}, LayerMaps(2, map_of({{0, 1}, {2, 3}})), shape, {}), InputError);
  CHECK_THROWS_AS((void)evaluate(two_layers, {0, 4}, LayerMaps(2, map_of({{0}, {1}, {2}, {4}})), shape, {}),
                  InputError);
  const Recorded foreign(4, {{{0}, {7}}});
  CHECK_THROWS_AS((void)evaluate(foreign, {0, 2}, {one_each[0]}, shape, {}), InputError);
  CHECK_THROWS_AS((void)measure_loads(foreign, {0, 2}), InputError);
  CHECK_THROWS_AS((void)measure_loads(two_layers, {3, 2}), InputError);
}

TEST_CASE("loads, movement and company of a trace, by hand") {
  const Loads loads = measure_loads(two_layers, {0, 4});
  CHECK(std::vector<double>(loads.layer(0).begin(), loads.layer(0).end()) == std::vector<double>{2, 2, 2, 2});
  CHECK(std::vector<double>(loads.layer(1).begin(), loads.layer(1).end()) == std::vector<double>{2, 3, 2, 1});
  const Movement first = measure_movement(two_layers, {0, 4}, MovementCount::from_first);
  CHECK(first[0].at(2, 1) == 2);  // tokens 1 and 2 were first with expert 2 and used expert 1 next
  CHECK(first[0].sum() == 8);
  const Movement pairs = measure_movement(two_layers, {0, 4}, MovementCount::all_pairs);
  CHECK(pairs[0].sum() == 16);
  CHECK(pairs[0].at(1, 0) == 1);  // token 0's second expert
  const Movement company = measure_company(two_layers, {0, 4});
  CHECK(company[0].at(2, 3) == 1);
  CHECK(company[0].sum() == 4);
  const Split s = split(two_layers, 0.5);
  CHECK(s.train.count == 2);
  CHECK(s.test.first == 2);
  CHECK(split(two_layers, 0.0).train.count == 1);
  CHECK(split(two_layers, 1.0).test.count == 1);
}

}  // namespace
}  // namespace moesim::placement
