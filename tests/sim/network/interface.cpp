// What Network promises to its callers.
#include <doctest/doctest.h>

#include <stdexcept>
#include <tuple>

#include "tests/sim/network/scenes.hpp"

using namespace moesim;
using namespace moesim::literals;
using sim::Completion;
using sim::Fidelity;
using sim::Flow;

namespace {

auto fields(const Completion& c) { return std::tuple(c.time, c.transfer, c.rank); }

std::vector<Completion> to_the_end(sim::Network& network) {
  std::vector<Completion> done;
  while (const auto next = network.next()) network.advance(*next, done);
  return done;
}

// 8 GPUs on a switch of 1 GB/s ports.
std::shared_ptr<const Topology> switch_of_8(Picoseconds latency = {}) {
  hardware::TopologySpec spec = cluster_of(1, "none");
  spec.node.gpu_link = {1_GBps, 1.0, latency};
  return hardware::make_topology(spec);
}

}  // namespace

TEST_CASE("nothing to do") {
  const auto topology = switch_of_8();
  const auto network = sim::make_network(*topology, {});
  CHECK_FALSE(network->next());
  std::vector<Completion> done;
  network->advance(5_us, done);
  CHECK(done.empty());
  network->start(5_us, {});
  CHECK_FALSE(network->next());
}

TEST_CASE("flows to oneself and of nothing complete at once; ranks without flows are not heard of") {
  const auto topology = switch_of_8();
  const auto network = sim::make_network(*topology, {});
  const std::vector<Flow> flows{{Rank(0), Rank(0), 5_GB}, {Rank(1), Rank(2), 0_B}, {Rank(3), Rank(2), 1_GB}};
  const sim::TransferId id = network->start(7_us, flows);
  CHECK(network->next() == 7_us);
  const std::vector<Completion> done = to_the_end(*network);
  // Rank 2 still waits for rank 3's flow.
  REQUIRE(done.size() == 4);
  CHECK(fields(done[0]) == std::tuple(7_us, id, Rank(0)));
  CHECK(fields(done[1]) == std::tuple(7_us, id, Rank(1)));
  CHECK(done[2].rank == Rank(2));
  CHECK(done[3].rank == Rank(3));
  CHECK(done[3].time == 7_us + Picoseconds(1'000'000'000'000));
}

TEST_CASE("a flow waits for the latency of its links before it drains") {
  // Two hops of 1.5 us, then 1 MB at 1 GB/s.
  const auto topology = switch_of_8(Picoseconds(1'500'000));
  const auto network = sim::make_network(*topology, {});
  network->start(10_us, std::vector<Flow>{{Rank(0), Rank(1), Bytes(1'000'000)}});
  const std::vector<Completion> done = to_the_end(*network);
  REQUIRE(done.size() == 2);
  CHECK(done[0].time == 10_us + 3_us + 1_ms);
  // It holds its links only while it drains.
  CHECK(network->totals()[topology->route(Rank(0), Rank(1))[0].index()].busy == 1_ms);
}

TEST_CASE("completions come out in order, the same however time is advanced") {
  const auto topology = hardware::make_topology(cluster_of(2, "rail"));
  for (const Fidelity fidelity : {Fidelity{}, Fidelity{Fidelity::Kind::bounded, 0.02}}) {
    for (unsigned seed = 0; seed < 6; ++seed) {
      CAPTURE(seed);
      const std::vector<Flow> first = all_to_all(16, 0.6, 0.3, seed), second = all_to_all(16, 0, 0.5, seed + 50);
      const auto completions = [&](int steps) {
        const auto network = sim::make_network(*topology, fidelity);
        std::vector<Completion> done;
        network->start({}, first);
        if (steps == 0) {
          while (network->next() && *network->next() < 200_us) network->advance(*network->next(), done);
        }
        for (int i = 1; i < steps; ++i) network->advance(Picoseconds(200'000'000L * i / steps), done);
        network->start(200_us, second);
        for (int i = 1; i < steps; ++i) network->advance(200_us + Picoseconds(5'000'000'000L * i / steps), done);
        for (const Completion& c : to_the_end(*network)) done.push_back(c);
        return done;
      };
      const std::vector<Completion> by_event = completions(0), at_once = completions(1), by_clock = completions(97);
      REQUIRE(by_event.size() == 32);
      REQUIRE(at_once.size() == 32);
      REQUIRE(by_clock.size() == 32);
      for (std::size_t i = 0; i < 32; ++i) {
        if (i > 0) CHECK(fields(by_event[i - 1]) < fields(by_event[i]));
        CHECK(fields(by_event[i]) == fields(at_once[i]));
        CHECK(fields(by_event[i]) == fields(by_clock[i]));
      }
    }
  }
}

TEST_CASE("next() is never later than the next completion and advancing to it gets somewhere") {
  const auto topology = hardware::make_topology(cluster_of(2, "leaf_spine"));
  for (const Fidelity fidelity : {Fidelity{}, Fidelity{Fidelity::Kind::bounded, 0.05}}) {
    const auto network = sim::make_network(*topology, fidelity);
    network->start({}, all_to_all(16, 1, 0.4, 3));
    std::vector<Completion> done;
    Picoseconds last{-1};
    int calls = 0;
    while (const auto next = network->next()) {
      CHECK(*next >= last);
      const std::size_t before = done.size();
      network->advance(*next, done);
      for (std::size_t i = before; i < done.size(); ++i) CHECK(done[i].time == *next);
      last = *next;
      REQUIRE(++calls < 2000);
    }
    CHECK(done.size() == 16);
  }
}

TEST_CASE("a rank whose flows are on links of their own completes with the last of them") {
  // Regression: parts that share no link end in any order; the rank's completion is the latest, not the last reported.
  Scene scene{{1e9, 2e9, 3e9}, {}};
  const Wires wires({1e9, 2e9, 3e9}, {{0}, {1}, {2}});
  class Star final : public Topology {
   public:
    explicit Star(const Wires& w) : w_(w) {}
    [[nodiscard]] int ranks() const override { return 4; }
    [[nodiscard]] int nodes() const override { return 1; }
    [[nodiscard]] Node node_of(Rank) const override { return Node(0); }
    [[nodiscard]] std::span<const Link> links() const override { return w_.links(); }
    [[nodiscard]] std::span<const LinkId> route(Rank, Rank to) const override {
      return w_.route(Rank(2 * (to.value() - 1)), Rank(0));
    }
    const Wires& w_;
  } star(wires);
  // 0 -> 1, 2, 3 of 1 GB at 1, 2, 3 GB/s: 1, 1/2, 1/3 s.
  const auto network = sim::make_network(star, {});
  network->start({}, std::vector<Flow>{{Rank(0), Rank(1), 1_GB}, {Rank(0), Rank(2), 1_GB}, {Rank(0), Rank(3), 1_GB}});
  std::vector<Completion> done;
  network->advance(from_seconds(2), done);
  REQUIRE(done.size() == 4);
  CHECK(done[0].rank == Rank(3));
  CHECK(done[1].rank == Rank(2));
  CHECK(done[2].rank == Rank(0));
  CHECK(done[3].rank == Rank(1));
  CHECK(to_seconds(done[2].time) == doctest::Approx(1));
}

TEST_CASE("misuse is said") {
  const auto topology = switch_of_8();
  const auto network = sim::make_network(*topology, {});
  std::vector<Completion> done;
  CHECK_THROWS_AS(network->start({}, std::vector<Flow>{{Rank(0), Rank(8), 1_GB}}), std::invalid_argument);
  CHECK_THROWS_AS(network->start({}, std::vector<Flow>{{Rank(-1), Rank(1), 1_GB}}), std::invalid_argument);
  CHECK_THROWS_AS(network->start({}, std::vector<Flow>{{Rank(0), Rank(1), Bytes(-1)}}), std::invalid_argument);
  CHECK_THROWS_AS(network->start({}, std::vector<Flow>{{Rank(0), Rank(1), 1_GB, 0.0}}), std::invalid_argument);
  CHECK_THROWS_AS(network->start({}, std::vector<Flow>{{Rank(0), Rank(1), 1_GB, 1.0, BytesPerSecond(-1)}}),
                  std::invalid_argument);
  CHECK_THROWS_AS((void)network->bracket(0), std::invalid_argument);
  network->advance(5_us, done);
  CHECK_THROWS_AS(network->advance(4_us, done), std::invalid_argument);
  CHECK_THROWS_AS(network->start(4_us, {}), std::invalid_argument);
}
