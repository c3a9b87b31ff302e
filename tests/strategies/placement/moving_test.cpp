#include "strategies/placement/moving.hpp"

#include <doctest/doctest.h>

#include "moesim/error.hpp"
#include "recorded.hpp"
#include "strategies/placement/balance.hpp"
#include "strategies/placement/local_search.hpp"

namespace moesim::placement {
namespace {

using namespace literals;

const ClusterShape shape{.gpus = 4, .nodes = 2, .slots_per_gpu = 2, .intra = 100_GBps, .inter = 10_GBps};
const LayerMaps contiguous{map_of({{0, 1}, {2, 3}, {4, 5}, {6, 7}})};

TEST_CASE("nothing moves to where it is") {
  const Moving m = moving(contiguous, contiguous, shape, 1_GB);
  CHECK(m.moved == 0);
  CHECK(m.kept == 8);
  CHECK(m.total == 0_B);
  CHECK(m.time == 0_ps);
  CHECK(moving(contiguous, {map_of({{1, 0}, {3, 2}, {4, 5}, {7, 6}})}, shape, 1_GB).moved == 0);  // other slots
}

TEST_CASE("exchanges inside a node and between nodes, by hand") {
  // 1 and 2 change places inside node 0: 1 GB each way at 100 GB/s.
  const Moving near = moving(contiguous, {map_of({{0, 2}, {1, 3}, {4, 5}, {6, 7}})}, shape, 1_GB);
  CHECK(near.moved == 2);
  CHECK(near.total == 2_GB);
  CHECK(near.between_nodes == 0_B);
  CHECK(near.time == 10_ms);
  CHECK(near.experts[0 * 4 + 1] == 1);
  CHECK(near.experts[1 * 4 + 0] == 1);
  // 0, 1 and 4, 5 change places: GPU 0 sends two to GPU 2 at 10 GB/s.
  const Moving far = moving(contiguous, {map_of({{4, 5}, {2, 3}, {0, 1}, {6, 7}})}, shape, 1_GB);
  CHECK(far.between_nodes == 4_GB);
  CHECK(far.time == 200_ms);
}

TEST_CASE("a replica comes from the nearest holder, in turns") {
  // Expert 0 is on GPU 0 and GPU 2; GPUs 1 and 3 fetch it from their own node.
  const LayerMaps from{map_of({{0, 1}, {2, 3}, {0, 4}, {5, 6}})};
  const LayerMaps to{map_of({{0, 1}, {0, 3, 2}, {0, 4}, {0, 5, 6}})};
  const Moving m = moving(from, to, shape, 1_GB);
  CHECK(m.between_nodes == 0_B);
  CHECK(m.experts[0 * 4 + 1] == 1);
  CHECK(m.experts[2 * 4 + 3] == 1);
  // Two fetch what two others hold: each holder sends once.
  const LayerMaps pair{map_of({{0, 1}, {0, 2}})};
  const ClusterShape four{.gpus = 4, .nodes = 1, .slots_per_gpu = 1, .intra = 100_GBps, .inter = 10_GBps};
  const Moving turns = moving({map_of({{0}, {0}, {1}, {2}})}, {map_of({{1}, {2}, {0}, {0}})}, four, 1_GB);
  CHECK(turns.experts[0 * 4 + 2] + turns.experts[1 * 4 + 2] == 1);
  CHECK(turns.experts[0 * 4 + 2] + turns.experts[0 * 4 + 3] == 1);
}

TEST_CASE("maps of different models or clusters") {
  CHECK_THROWS_AS((void)moving(contiguous, {contiguous[0], contiguous[0]}, shape, 1_GB), InputError);
  CHECK_THROWS_AS((void)moving(contiguous, {map_of({{0, 1}, {2, 3}})}, shape, 1_GB), InputError);
  CHECK_THROWS_AS((void)moving(contiguous, {map_of({{0}, {1}, {2}, {3}})}, shape, 1_GB), InputError);
}

TEST_CASE("renaming GPUs undoes a renaming, and never changes loads or raises the move") {
  // The same clusters on other GPUs, nodes exchanged.
  const LayerMaps renamed{map_of({{6, 7}, {4, 5}, {0, 1}, {2, 3}})};
  CHECK(moving(contiguous, align(renamed, contiguous, shape), shape, 1_GB).moved == 0);
  std::mt19937_64 rng(3);
  const ClusterShape wide{.gpus = 8, .nodes = 2, .slots_per_gpu = 5, .intra = 100_GBps, .inter = 10_GBps};
  for (int i = 0; i < 10; ++i) {
    const std::vector<double> before = lognormal(32, 1, rng);
    std::vector<double> after = before;  // the load drifts
    for (double& l : after) l *= lognormal(1, 0.3, rng)[0];
    const LayerMaps old{search_layer(before, wide, {})};
    const LayerMaps fresh{search_layer(after, wide, {})};
    const LayerMaps aligned = align(fresh, old, wide);
    CHECK_NOTHROW(validate(aligned[0], 32));
    const Moving plain = moving(old, fresh, wide, 1_GB);
    const Moving close = moving(old, aligned, wide, 1_GB);
    const auto cost = [](const Moving& m) {
      return (m.total - m.between_nodes).value() + 10 * m.between_nodes.value();
    };
    CHECK(cost(close) <= cost(plain));
    for (const Dispatch d : {Dispatch::even, Dispatch::local_first})
      CHECK(max_over_mean(gpu_loads(after, aligned[0], wide, d)) ==
            doctest::Approx(max_over_mean(gpu_loads(after, fresh[0], wide, d))));
  }
}

TEST_CASE("break-even: the first step at which the move has paid") {
  CHECK(break_even_steps(100_ms, 10_ms, 9_ms) == 100);
  CHECK(break_even_steps(101_ms, 10_ms, 9_ms) == 101);
  CHECK(break_even_steps(1_ms, 10_ms, 7_ms) == 1);
  CHECK(break_even_steps(0_ms, 10_ms, 9_ms) == 0);
  CHECK_FALSE(break_even_steps(100_ms, 10_ms, 10_ms).has_value());
  CHECK_FALSE(break_even_steps(0_ms, 9_ms, 10_ms).has_value());
}

}  // namespace
}  // namespace moesim::placement
