// Systems solved on paper: the equations stand above the numbers.
#include <doctest/doctest.h>

#include "tests/sim/network/scenes.hpp"

using namespace moesim;
using namespace moesim::literals;
using sim::Fidelity;

namespace {

constexpr double GB = 1e9;

reference::Flow flow(std::vector<int> route, double bytes, double start = 0, double weight = 1, double cap = 0) {
  return {std::move(route), bytes, start, weight, cap};
}

// Both fidelities: what has few flows is exact in either.
void check(const Scene& scene, const std::vector<double>& seconds) {
  for (const Fidelity fidelity : {Fidelity{}, Fidelity{Fidelity::Kind::bounded, 1e-6}}) {
    const std::vector<double> finish = run(scene, fidelity);
    REQUIRE(finish.size() == seconds.size());
    for (std::size_t f = 0; f < seconds.size(); ++f) {
      CAPTURE(f);
      // Rounded up to a picosecond at every event.
      CHECK(finish[f] == doctest::Approx(seconds[f]).epsilon(2e-6));
      CHECK(finish[f] >= seconds[f] - 1e-15);
    }
  }
}

}  // namespace

TEST_CASE("one flow: t = bytes / capacity, to the picosecond") {
  const Scene scene{{3 * GB}, {flow({0}, 1e9)}};
  const Wires wires = scene.wires();
  const auto network = sim::make_network(wires, {});
  network->start({}, transfer(scene, {0}));
  // 1e9 / 3e9 s = 333,333,333,333.3 ps, rounded up
  CHECK(network->next() == Picoseconds(333'333'333'334));
  CHECK(Bytes(1'000'000'000) / BytesPerSecond(3 * GB) == Picoseconds(333'333'333'334));
}

TEST_CASE("two flows on a link") {
  // Both at C/2 until the first ends: t1 = 2 b1 / C = 2 s. Then the second has b2 - b1 left at C: t2 = (b1 + b2) / C =
  // 4 s.
  check({{1 * GB}, {flow({0}, 1 * GB), flow({0}, 3 * GB)}}, {2, 4});
}

TEST_CASE("a long flow over two links and a short one on each") {
  // x0 + x1 = 1, x0 + x2 = 2, max-min: link 0 saturates at 1/2: x0 = x1 = 1/2, x2 = 3/2.
  // b = (1, 2, 6): t0 = 2; by then flow 1 has 1 left and flow 2 has 3. Then x1 = 1, x2 = 2: t1 = 3, t2 = 3.5.
  check({{1 * GB, 2 * GB}, {flow({0, 1}, 1 * GB), flow({0}, 2 * GB), flow({1}, 6 * GB)}}, {2, 3, 3.5});
}

TEST_CASE("three levels") {
  // Links of 1, 2, 3 with flows {a, b}, {b, c}, {c, d}: a = b = 1/2 at level 1/2; c = 2 - 1/2 = 3/2; d = 3 - 3/2 = 3/2.
  // b = (1, 1, 3, 3) all end together at 2.
  check({{1 * GB, 2 * GB, 3 * GB}, {flow({0}, 1 * GB), flow({0, 1}, 1 * GB), flow({1, 2}, 3 * GB), flow({2}, 3 * GB)}},
        {2, 2, 2, 2});
}

TEST_CASE("weights") {
  // x1 / 1 = x2 / 2, x1 + x2 = 3: 1 and 2. b = (2, 2): t2 = 1; then flow 1 has 1 left at 3: t1 = 4/3.
  check({{3 * GB}, {flow({0}, 2 * GB, 0, 1), flow({0}, 2 * GB, 0, 2)}}, {4.0 / 3, 1});
}

TEST_CASE("caps") {
  // The capped flow stops rising at 1/2; the others share 3 - 1/2: 5/4 each. b = (1, 2.5, 5): at t = 2 the first two
  // end; the third has 2.5 left at 3: t = 2 + 5/6.
  check({{3 * GB}, {flow({0}, 1 * GB, 0, 1, 0.5 * GB), flow({0}, 2.5 * GB), flow({0}, 5 * GB)}}, {2, 2, 2 + 2.5 / 3});
}

TEST_CASE("a flow that starts later") {
  // A alone until 1 s (1 of 4 moved), then halves until B (1 GB) ends at 3 s (A has moved 2), then A alone: 5 s.
  check({{1 * GB}, {flow({0}, 4 * GB), flow({0}, 1 * GB, 1)}}, {5, 3});
}

TEST_CASE("a flow that ends can slow another down") {
  // Links 0, 1 of 1 and 2. Flows a {0}, b {0, 1}, c {1}: a = b = 1/2, c = 3/2. When a (b = 1/2) ends at t = 1, b rises
  // to 1 and c falls to 1. c of 3 GB: 3/2 moved by then, 3/2 left at 1: t = 2.5 (it would have been 2 had a not ended).
  // b of 3 GB: 1/2 moved, 1 per second until c ends at 2.5 (2 moved), and then still 1: t = 3.5.
  check({{1 * GB, 2 * GB}, {flow({0}, 0.5 * GB), flow({0, 1}, 3 * GB), flow({1}, 3 * GB)}}, {1, 3.5, 2.5});
}

TEST_CASE("a switch: the busiest port is the makespan") {
  // 3 GPUs, out-links 0..2, in-links 3..5, all of 1. Everyone sends 1 to GPU 0 (in-link 3) or from it:
  // 1 -> 0 and 2 -> 0 share in-link 3: 1/2 each, t = 2; 0 -> 1 has its links alone: t = 1.
  check({{GB, GB, GB, GB, GB, GB}, {flow({1, 3}, GB), flow({2, 3}, GB), flow({0, 4}, GB)}}, {2, 2, 1});
}

TEST_CASE("how long links are full") {
  // Links of 1, 4 and 10 GB/s; a moves 1 GB over all three, b 6 GB over the second.
  // a: 1 GB/s until t = 1 s. b: 4 - 1 = 3 GB/s until then, the other 3 GB at 4 GB/s: t = 1.75 s.
  // The first link is full for 1 s, the second for 1.75 s, the third never.
  for (const Fidelity fidelity : {Fidelity{}, Fidelity{Fidelity::Kind::bounded, 0.01}}) {
    const Wires wires({1e9, 4e9, 1e10}, {{0, 1, 2}, {1}});
    const auto network = sim::make_network(wires, fidelity);
    network->start({}, std::vector<sim::Flow>{{Rank(0), Rank(1), 1_GB}, {Rank(2), Rank(3), 6_GB}});
    std::vector<sim::Completion> done;
    network->advance(from_seconds(3), done);
    const std::vector<sim::LinkTotals> totals = network->totals();
    CHECK(totals[0].full == from_seconds(1));
    CHECK(totals[1].full == from_seconds(1.75));
    CHECK(totals[2].full == Picoseconds());
    CHECK(totals[2].busy == from_seconds(1));
  }
}

TEST_CASE("flows of one route are one class and end one after the other") {
  // n flows of 1, 2, ..., n on a link of 1: between the ends of k - 1 and k there are n - k + 1 flows, each moving 1:
  // t_k = t_{k-1} + n - k + 1 = sum over i <= k of (n - i + 1).
  const int n = 6;
  Scene scene{{GB}, {}};
  std::vector<double> expected;
  double t = 0;
  for (int k = 1; k <= n; ++k) {
    scene.flows.push_back(flow({0}, k * GB));
    expected.push_back(t += n - k + 1);
  }
  check(scene, expected);
}

TEST_CASE("an uneven all-to-all on one switch") {
  // 2 GPUs: c = [[., 3], [1, .]] on ports of 1: both directions are alone: 3 s and 1 s; 4 GPUs all sending b to GPU 0:
  // in-port 0 carries 3 b: t = 3 b for all.
  using namespace literals;
  hardware::TopologySpec spec = cluster_of(1, "none");
  spec.gpus_per_node = 4;
  spec.node.gpu_link = {1_GBps, 1.0, {}};
  const auto topology = hardware::make_topology(spec);
  const auto network = sim::make_network(*topology, {});
  const std::vector<sim::Flow> flows{{Rank(1), Rank(0), 1_GB}, {Rank(2), Rank(0), 1_GB}, {Rank(3), Rank(0), 1_GB}};
  network->start({}, flows);
  std::vector<sim::Completion> done;
  network->advance(from_seconds(10), done);
  REQUIRE(done.size() == 4);
  for (const sim::Completion& c : done) CHECK(to_seconds(c.time) == doctest::Approx(3).epsilon(1e-11));
}
