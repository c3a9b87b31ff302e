#include "strategies/placement/moetuner.hpp"

#include <doctest/doctest.h>

#include <numeric>

#include "moesim/error.hpp"
#include "recorded.hpp"
#include "strategies/placement/balance.hpp"

namespace moesim::placement {
namespace {

Loads loads_of(const std::vector<std::vector<double>>& layers) {
  Loads loads(static_cast<int>(layers.size()), static_cast<int>(layers[0].size()));
  for (std::size_t l = 0; l < layers.size(); ++l)
    std::copy(layers[l].begin(), layers[l].end(), loads.layer(static_cast<int>(l)).begin());
  return loads;
}

// Experts of all layers on each GPU.
std::vector<int> memory(const LayerMaps& maps) {
  std::vector<int> sum(static_cast<std::size_t>(maps[0].ranks()));
  for (const ExpertPlacement& map : maps)
    for (int g = 0; g < map.ranks(); ++g) sum[static_cast<std::size_t>(g)] += map.slots_on(Rank(g));
  return sum;
}
bool all_equal(const std::vector<int>& v) {
  return std::adjacent_find(v.begin(), v.end(), std::not_equal_to<>()) == v.end();
}

double map_deviation(std::span<const double> loads, const ExpertPlacement& map) {
  const ClusterShape shape{.gpus = map.ranks(), .nodes = 1};
  const std::vector<double> work = gpu_loads(loads, map, shape, Dispatch::even);
  const double mean = std::accumulate(work.begin(), work.end(), 0.0) / map.ranks();
  double sum = 0;
  for (const double w : work) sum += std::abs(w - mean);
  return sum;
}

// All ways to put each expert into a cluster, none of them empty.
double best_deviation(std::span<const double> loads, int clusters) {
  Clusters cluster_of(loads.size());
  double best = 1e300;
  const std::function<void(std::size_t)> fill = [&](std::size_t e) {
    if (e == loads.size()) {
      for (int c = 0; c < clusters; ++c)
        if (std::find(cluster_of.begin(), cluster_of.end(), c) == cluster_of.end()) return;
      best = std::min(best, deviation(loads, clusters, cluster_of));
      return;
    }
    for (int c = 0; c < clusters; ++c) {
      cluster_of[e] = c;
      fill(e + 1);
    }
  };
  fill(0);
  return best;
}

TEST_CASE("first program: the optimum of all clusterings, up to 6 experts") {
  std::mt19937_64 rng(1);
  for (const auto& [experts, gpus] : {std::pair{5, 2}, {6, 2}, {6, 3}, {4, 4}})
    for (int i = 0; i < 4; ++i) {
      const std::vector<double> loads = lognormal(experts, 1, rng);
      const MoetunerResult r =
          moetuner(loads_of({loads}), {}, {.gpus = gpus, .nodes = 1},
                   {.mode = Mode::return_home, .seconds = 20, .balance_gap = 0, .equal_memory = false});
      CHECK(map_deviation(loads, r.maps[0]) == doctest::Approx(best_deviation(loads, gpus)));
      CHECK(r.balance[0].objective == doctest::Approx(best_deviation(loads, gpus)));
      CHECK(r.balance[0].lower_bound <= r.balance[0].objective * (1 + 1e-9));
      CHECK_NOTHROW(validate(r.maps[0], experts));
    }
}

Movement planted(int layers, int experts, std::mt19937_64& rng) {
  Movement movement;
  for (int l = 0; l + 1 < layers; ++l) {
    Table t(experts, experts);
    for (int a = 0; a < experts; ++a)
      for (int b = 0; b < experts; ++b) t.at(a, b) = static_cast<std::int32_t>(rng() % 10);
    std::vector<int> to(static_cast<std::size_t>(experts));
    std::iota(to.begin(), to.end(), 0);
    std::shuffle(to.begin(), to.end(), rng);
    for (int a = 0; a < experts; ++a) t.at(a, to[static_cast<std::size_t>(a)]) += 100;
    movement.push_back(std::move(t));
  }
  return movement;
}

TEST_CASE("second program cuts the communication of contiguous placement, at equal memory") {
  std::mt19937_64 rng(2);
  const int layers = 8;
  std::vector<std::vector<double>> layer_loads;
  for (int l = 0; l < layers; ++l) layer_loads.push_back(lognormal(8, 0.5, rng));
  const Loads loads = loads_of(layer_loads);
  const Movement movement = planted(layers, 8, rng);
  for (const int nodes : {1, 2})
    for (const bool equal : {false, true})
      for (const ChainCost cost : {ChainCost::worst_pair, ChainCost::total}) {
        const ClusterShape shape{.gpus = 4, .nodes = nodes};
        const MoetunerResult r = moetuner(loads, movement, shape, {.cost = cost, .seconds = 2, .equal_sizes = equal});
        CAPTURE(nodes);
        CAPTURE(equal);
        CAPTURE(r.chain.path);
        CAPTURE(r.fallback);
        CAPTURE(r.chain.seconds);
        CHECK(all_equal(memory(r.maps)));
        for (const ExpertPlacement& map : r.maps) {
          CHECK_NOTHROW(validate(map, 8));
          if (equal) CHECK(map.slots_on(Rank(0)) == 2);
        }
        CHECK(r.chain.lower_bound <= r.chain.objective * (1 + 1e-9));
        if (equal) {  // then the path is exact
          CHECK(r.chain.path == "shortest path");
          CHECK(r.chain.gap == 0);
        }
        // The contiguous map, as a chain of its own.
        std::vector<Clusters> contiguous(static_cast<std::size_t>(layers), Clusters{0, 0, 1, 1, 2, 2, 3, 3});
        Chain chain{cluster_flow(movement, contiguous, 4), std::vector<std::vector<int>>(8, {2, 2, 2, 2}), shape, cost};
        CHECK(r.chain.objective < chain_cost(chain, Positions(8, {0, 1, 2, 3})));
      }
}

TEST_CASE("what equal memory cannot have falls back to clusters of equal size, by name") {
  // One layer, loads 9, 1, 1, 1 on two GPUs: the best clusters hold one and three experts.
  const Loads one = loads_of({{9, 1, 1, 1}});
  const MoetunerResult r = moetuner(one, {}, {.gpus = 2, .nodes = 1}, {.mode = Mode::return_home, .seconds = 20});
  CHECK(r.fallback == "equal_clusters");
  CHECK(r.reason.find("proven") != std::string::npos);
  CHECK(memory(r.maps) == std::vector{2, 2});
  const MoetunerResult free =
      moetuner(one, {}, {.gpus = 2, .nodes = 1}, {.mode = Mode::return_home, .seconds = 20, .equal_memory = false});
  CHECK(free.fallback.empty());
  CHECK(map_deviation(one.layer(0), free.maps[0]) == doctest::Approx(6));  // 9 against 3, mean 6

  // Three experts on two GPUs: nothing is equal. Clusters of one and two experts remain.
  const MoetunerResult odd =
      moetuner(loads_of({{3, 2, 1}}), {}, {.gpus = 2, .nodes = 1}, {.mode = Mode::return_home, .seconds = 20});
  CHECK(odd.fallback == "equal_clusters");
  CHECK(odd.reason.find("do not divide") != std::string::npos);
  CHECK_NOTHROW(validate(odd.maps[0], 3));
}

TEST_CASE("return_home: the second program is not solved") {
  std::mt19937_64 rng(3);
  const Loads loads = loads_of({lognormal(8, 1, rng), lognormal(8, 1, rng)});
  const MoetunerResult r =
      moetuner(loads, planted(2, 8, rng), {.gpus = 4, .nodes = 1}, {.mode = Mode::return_home, .seconds = 10});
  CHECK(r.chain.path.empty());
  CHECK(r.balance.size() == 2);
}

TEST_CASE("fewer experts than GPUs is an input error") {
  CHECK_THROWS_AS((void)moetuner(loads_of({{1, 1}}), {}, {.gpus = 4, .nodes = 1}, {}), InputError);
}

TEST_CASE("without programs the fast methods answer alone, with their bounds") {
  std::mt19937_64 rng(4);
  std::vector<std::vector<double>> layer_loads;
  for (int l = 0; l < 4; ++l) layer_loads.push_back(lognormal(64, 0.6, rng));
  const MoetunerResult r = moetuner(loads_of(layer_loads), planted(4, 64, rng), {.gpus = 16, .nodes = 2},
                                    {.equal_sizes = true, .programs = false});
  CHECK(r.chain.path == "coordinate descent");
  CHECK(r.chain.lower_bound > 0);
  CHECK(r.chain.gap < 1);
  for (const SolveReport& b : r.balance) CHECK(b.path.find("program") == std::string::npos);
}

}  // namespace
}  // namespace moesim::placement
