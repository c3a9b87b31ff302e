#include "strategies/placement/balance.hpp"

#include <doctest/doctest.h>

#include <cmath>

#include "recorded.hpp"

namespace moesim::placement {
namespace {

double fullest(const std::vector<double>& loads, const ExpertPlacement& map, const ClusterShape& shape) {
  const auto work = gpu_loads(loads, map, shape, Dispatch::even);
  return *std::max_element(work.begin(), work.end());
}

TEST_CASE("shares of replicas, even and local_first") {
  // 4 GPUs on 2 nodes. Expert 0: three replicas, two on node 0 and one on node 1. Expert 1: on GPU 3 only.
  const ClusterShape shape{.gpus = 4, .nodes = 2, .slots_per_gpu = 1};
  const ExpertPlacement map = map_of({{0}, {0}, {0}, {1}});
  const std::vector<double> loads{12, 8};
  CHECK(gpu_loads(loads, map, shape, Dispatch::even) == std::vector<double>{4, 4, 4, 8});
  // local_first: both nodes hold expert 0, so each node's half stays: 6 over two replicas, 6 on one.
  CHECK(gpu_loads(loads, map, shape, Dispatch::local_first) == std::vector<double>{3, 3, 6, 8});
  CHECK(max_over_mean(std::vector<double>{3, 3, 6, 8}) == doctest::Approx(8 / 5.0));

  // Expert 0: own GPU 3/4 of 12, own node all of 12. Expert 1: own GPU 1/4 of 8, own node 1/2 of 8.
  const CopyShares shares = copy_shares(loads, map, shape, Dispatch::local_first);
  CHECK(shares.own_gpu == doctest::Approx((9 + 2) / 20.0));
  CHECK(shares.own_gpu + shares.own_node == doctest::Approx((12 + 4) / 20.0));
  CHECK(shares.other_nodes == doctest::Approx(4 / 20.0));
  const CopyShares even = copy_shares(loads, map, shape, Dispatch::even);
  CHECK(even.own_gpu == doctest::Approx(0.25));
  CHECK(even.other_nodes == doctest::Approx(0.5));
}

TEST_CASE("no load is lost, whatever the map and the dispatch") {
  std::mt19937_64 rng(1);
  const ClusterShape shape{.gpus = 4, .nodes = 2, .slots_per_gpu = 2};
  const std::vector<double> loads = lognormal(5, 1, rng);
  const double sum = std::accumulate(loads.begin(), loads.end(), 0.0);
  int maps = 0;
  for_every_map(5, 4, 2, [&](const ExpertPlacement& map) {
    ++maps;
    for (const Dispatch d : {Dispatch::even, Dispatch::local_first}) {
      const auto work = gpu_loads(loads, map, shape, d);
      const CopyShares shares = copy_shares(loads, map, shape, d);
      const bool kept = std::abs(std::accumulate(work.begin(), work.end(), 0.0) - sum) < 1e-12 * sum &&
                        std::abs(shares.own_gpu + shares.own_node + shares.other_nodes - 1) < 1e-12;
      if (!kept) FAIL("load lost");
    }
  });
  // 4 pairs of 5 experts so that each occurs: sum_j (-1)^j C(5, j) C(5 - j, 2)^4 = 10000 - 6480 + 810 - 10.
  CHECK(maps == 4320);
}

TEST_CASE("lower bound without replicas: max(mean, hottest + the coldest company)") {
  const ClusterShape shape{.gpus = 2, .nodes = 1, .slots_per_gpu = 2};
  CHECK(lower_bound(std::vector<double>{10, 4, 3, 1}, shape) == doctest::Approx(11));  // 10 + 1 > mean 9
  CHECK(lower_bound(std::vector<double>{4, 4, 3, 3}, shape) == doctest::Approx(7));    // the mean
  CHECK(lower_bound_free_sizes(std::vector<double>{10, 4, 3, 1}, 2) == doctest::Approx(10));
}

TEST_CASE("lower bound with replicas") {
  // Two GPUs of 2 slots, 3 experts, one spare slot. Two replicas of 10: 5 + 1 and 5 + 2, no less than the mean 6.5.
  CHECK(lower_bound(std::vector<double>{10, 2, 1}, {.gpus = 2, .nodes = 1, .slots_per_gpu = 2}) ==
        doctest::Approx(6.5));
  // Four GPUs of one slot, 2 experts, two spare: 3 replicas of 12 leave the other alone with its 4; mean 4.
  CHECK(lower_bound(std::vector<double>{12, 4}, {.gpus = 4, .nodes = 1, .slots_per_gpu = 1}) == doctest::Approx(4));
  // Three GPUs of one slot, 2 experts, one spare: 2 replicas of 20 carry 10 each, above the mean 8.
  CHECK(lower_bound(std::vector<double>{20, 4}, {.gpus = 3, .nodes = 1, .slots_per_gpu = 1}) == doctest::Approx(10));
  CHECK(lower_bound(std::vector<double>(8, 0.0), {.gpus = 2, .nodes = 1, .slots_per_gpu = 4}) == 0);
}

TEST_CASE("no map goes below the bound, and often one reaches it") {
  std::mt19937_64 rng(7);
  struct Case {
    int experts, gpus, slots;
  };
  int reached = 0;
  int cases = 0;
  for (const Case c : {Case{4, 2, 2}, {4, 2, 3}, {5, 3, 2}, {6, 2, 3}, {6, 3, 2}, {4, 3, 2}, {3, 3, 2}, {6, 2, 4}})
    for (int i = 0; i < 12; ++i) {
      const ClusterShape shape{.gpus = c.gpus, .nodes = 1, .slots_per_gpu = c.slots};
      const std::vector<double> loads = lognormal(c.experts, i < 6 ? 0.5 : 1.5, rng);
      double best = 1e300;
      for_every_map(c.experts, c.gpus, c.slots,
                    [&](const ExpertPlacement& map) { best = std::min(best, fullest(loads, map, shape)); });
      const double bound = lower_bound(loads, shape);
      CHECK(bound <= best * (1 + 1e-9));
      reached += bound >= best * (1 - 1e-6) ? 1 : 0;
      ++cases;
    }
  CHECK(reached * 5 >= cases);
}

}  // namespace
}  // namespace moesim::placement
