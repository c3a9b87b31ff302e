// Bounded fidelity: how far off it may be is known, and kept.
#include <doctest/doctest.h>

#include "tests/sim/network/scenes.hpp"

using namespace moesim;
using sim::Completion;
using sim::Fidelity;

namespace {

struct Outcome {
  std::vector<double> by_rank;
  double makespan = 0;
  sim::Bracket bracket;
};

Outcome outcome(const Topology& topology, const std::vector<sim::Flow>& flows, Fidelity fidelity) {
  const auto network = sim::make_network(topology, fidelity);
  const sim::TransferId id = network->start({}, flows);
  std::vector<Completion> done;
  while (const auto next = network->next()) network->advance(*next, done);
  Outcome out;
  out.by_rank.resize(static_cast<std::size_t>(topology.ranks()));
  for (const Completion& c : done) {
    out.by_rank[c.rank.index()] = to_seconds(c.time);
    out.makespan = std::max(out.makespan, to_seconds(c.time));
  }
  out.bracket = network->bracket(id);
  return out;
}

}  // namespace

TEST_CASE("all-to-alls: the bracket holds the exact makespan and is within what was asked") {
  const std::vector<std::string> fabrics{"single", "rail", "leaf_spine"};
  for (unsigned seed = 0; seed < 90; ++seed) {
    const std::string& fabric = fabrics[seed % 3];
    const double alpha = 0.3 * (seed / 3 % 5), sigma = std::vector{0.0, 0.1, 0.3, 1.0}[seed / 15 % 4];
    CAPTURE(seed);
    CAPTURE(fabric);
    CAPTURE(alpha);
    CAPTURE(sigma);
    const auto topology = hardware::make_topology(cluster_of(4, fabric));
    std::vector<sim::Flow> flows = all_to_all(32, alpha, sigma, seed);
    if (seed % 2 == 1)  // a combine: some ranks send most
      for (sim::Flow& f : flows) std::swap(f.from, f.to);
    const Outcome exact = outcome(*topology, flows, {});
    CHECK(to_seconds(exact.bracket.low) == exact.makespan);
    CHECK(to_seconds(exact.bracket.high) == exact.makespan);
    for (const double error : {0.05, 0.01}) {
      CAPTURE(error);
      const Outcome bounded = outcome(*topology, flows, {Fidelity::Kind::bounded, error});
      const double low = to_seconds(bounded.bracket.low), high = to_seconds(bounded.bracket.high);
      CHECK(low <= exact.makespan * (1 + 1e-6));
      CHECK(high >= exact.makespan * (1 - 1e-6));
      CHECK(low <= bounded.makespan);
      CHECK(high >= bounded.makespan);
      CHECK(high - bounded.makespan <= error * bounded.makespan);
      CHECK(bounded.makespan - low <= error * bounded.makespan);
      // Better than it has to be: what makes it of use for single ranks, which have no bracket.
      CHECK(std::abs(bounded.makespan / exact.makespan - 1) <= error / 4);
      for (std::size_t r = 0; r < exact.by_rank.size(); ++r)
        CHECK(std::abs(bounded.by_rank[r] - exact.by_rank[r]) <= error * exact.makespan);
    }
  }
}

TEST_CASE("an error of nearly nothing is the exact result") {
  const auto topology = hardware::make_topology(cluster_of(2, "leaf_spine"));
  const std::vector<sim::Flow> flows = all_to_all(16, 1, 0.5, 7);
  const Outcome exact = outcome(*topology, flows, {});
  const Outcome bounded = outcome(*topology, flows, {Fidelity::Kind::bounded, 1e-9});
  for (std::size_t r = 0; r < 16; ++r) CHECK(bounded.by_rank[r] == doctest::Approx(exact.by_rank[r]).epsilon(1e-8));
}

TEST_CASE("random links and flows: close to the reference") {
  for (unsigned seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    const Scene scene = random_scene(seed, 250);
    const std::vector<double> expected = reference::finish_times(scene.capacity, scene.flows);
    const std::vector<double> finish = run(scene, {Fidelity::Kind::bounded, 0.01});
    const double makespan = *std::ranges::max_element(expected);
    for (std::size_t f = 0; f < expected.size(); ++f)
      CHECK(std::abs(finish[f] - expected[f]) <= 0.02 * makespan + 1e-9);  // single flows have no bracket
    CHECK(*std::ranges::max_element(finish) == doctest::Approx(makespan).epsilon(0.01));
  }
}

TEST_CASE("a transfer that starts in the middle of another") {
  const auto topology = hardware::make_topology(cluster_of(4, "leaf_spine"));
  for (unsigned seed = 0; seed < 10; ++seed) {
    CAPTURE(seed);
    const std::vector<sim::Flow> one = all_to_all(32, 0.8, 0.3, seed), two = all_to_all(32, 0, 0.3, seed + 100);
    const auto ends = [&](Fidelity fidelity) {
      const auto network = sim::make_network(*topology, fidelity);
      std::vector<Completion> done;
      network->start({}, one);
      network->advance(from_seconds(0.7e-3), done);
      network->start(from_seconds(0.7e-3), two);
      network->advance(from_seconds(1), done);
      CHECK_FALSE(network->next());
      std::vector<double> out(2, 0);
      for (const Completion& c : done) out[c.transfer] = std::max(out[c.transfer], to_seconds(c.time));
      return out;
    };
    const std::vector<double> exact = ends({}), bounded = ends({Fidelity::Kind::bounded, 0.01});
    for (std::size_t i = 0; i < 2; ++i) CHECK(bounded[i] == doctest::Approx(exact[i]).epsilon(0.01));
  }
}
