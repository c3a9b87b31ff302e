// Properties over random links and flows.
#include <doctest/doctest.h>

#include "tests/sim/network/scenes.hpp"

using namespace moesim;
using sim::Completion;
using sim::Fidelity;

namespace {

double last(const std::vector<double>& t) { return *std::ranges::max_element(t); }

// Bounded components are solved exactly up to Fidelity::always_exact flows: theirs are larger.
Scene scene_for(Fidelity fidelity, unsigned seed) {
  return random_scene(seed, fidelity.kind == Fidelity::Kind::bounded ? 250 : 40);
}

}  // namespace

TEST_CASE("exact: every flow ends when the slow reference says") {
  for (unsigned seed = 0; seed < 400; ++seed) {
    CAPTURE(seed);
    const Scene scene = random_scene(seed);
    const std::vector<double> expected = reference::finish_times(scene.capacity, scene.flows);
    const std::vector<double> finish = run(scene);
    for (std::size_t f = 0; f < expected.size(); ++f) {
      CAPTURE(f);
      // A picosecond per event is at most 100 ps of milliseconds.
      CHECK(std::abs(finish[f] - expected[f]) <= 1e-9 * expected[f] + 1e-10);
    }
  }
}

TEST_CASE("no flow beats its links: bytes / capacity, and all bytes of a link / its capacity") {
  for (unsigned seed = 0; seed < 400; ++seed) {
    CAPTURE(seed);
    for (const Fidelity fidelity : {Fidelity{}, Fidelity{Fidelity::Kind::bounded, 0.05}}) {
      const Scene scene = scene_for(fidelity, seed);
      const std::vector<double> finish = run(scene, fidelity);
      std::vector<double> bytes(scene.capacity.size(), 0), end(scene.capacity.size(), 0),
          begin(scene.capacity.size(), 1e9);
      for (std::size_t f = 0; f < finish.size(); ++f) {
        const auto& flow = scene.flows[f];
        if (flow.cap > 0) CHECK(finish[f] - flow.start >= flow.bytes / flow.cap * (1 - 1e-12));
        for (const int link : flow.route) {
          const auto l = static_cast<std::size_t>(link);
          CHECK(finish[f] - flow.start >= flow.bytes / scene.capacity[l] * (1 - 1e-12));
          bytes[l] += flow.bytes;
          end[l] = std::max(end[l], finish[f]);
          begin[l] = std::min(begin[l], flow.start);
        }
      }
      for (std::size_t l = 0; l < bytes.size(); ++l)
        if (bytes[l] > 0) CHECK(end[l] - begin[l] >= bytes[l] / scene.capacity[l] * (1 - 1e-9));
    }
  }
}

TEST_CASE("no link is over capacity at any time, and every byte arrives") {
  for (unsigned seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    for (const Fidelity fidelity : {Fidelity{}, Fidelity{Fidelity::Kind::bounded, 0.01}}) {
      Scene scene = scene_for(fidelity, seed);
      for (auto& f : scene.flows) f.start = 0;
      const Wires wires = scene.wires();
      const auto network = sim::make_network(wires, fidelity);
      std::vector<std::size_t> all(scene.flows.size());
      std::iota(all.begin(), all.end(), std::size_t{0});
      network->start({}, transfer(scene, all));
      const double makespan = last(run(scene, fidelity));
      std::vector<Completion> done;
      std::vector<sim::LinkTotals> before = network->totals();
      // In batches a link may be ahead of its fair share within a batch, never over whole batches: a tenth of a
      // percent.
      const double slack = fidelity.kind == Fidelity::Kind::exact ? 1e-9 : 1e-2;
      for (int i = 1; i <= 40; ++i) {
        network->advance(from_seconds(makespan * i / 40), done);
        const std::vector<sim::LinkTotals> now = network->totals();
        for (std::size_t l = 0; l < now.size(); ++l) {
          const double moved = static_cast<double>((now[l].bytes - before[l].bytes).value());
          CHECK(moved <= scene.capacity[l] * makespan / 40 * (1 + 1e-9) + slack * scene.capacity[l] * makespan + 2);
          if (fidelity.kind == Fidelity::Kind::bounded) continue;  // what ended within a batch is counted at its end
          CHECK(now[l].busy >= before[l].busy);
          CHECK(now[l].full >= before[l].full);
          CHECK(now[l].full <= now[l].busy + Picoseconds(100));  // a picosecond per event
        }
        before = now;
      }
      CHECK(done.size() == 2 * scene.flows.size());
      std::vector<std::int64_t> bytes(scene.capacity.size(), 0);
      for (const auto& f : scene.flows)
        for (const int l : f.route) bytes[static_cast<std::size_t>(l)] += static_cast<std::int64_t>(f.bytes);
      for (std::size_t l = 0; l < bytes.size(); ++l) {
        CHECK(before[l].bytes.value() == bytes[l]);
        // What is full carries its capacity; in a batch it idles a little.
        const double carried = static_cast<double>(bytes[l]) / scene.capacity[l];
        CHECK(to_seconds(before[l].full) <= carried * (1 + 1e-9) + (slack + 1e-9) * makespan);
      }
    }
  }
}

TEST_CASE("work is conserved: a link that is alone on all its flows' routes is busy exactly bytes / capacity") {
  for (unsigned seed = 1; seed < 100; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    Scene scene{{1e9 + static_cast<double>(random() % 1000000)}, {}};
    double bytes = 0;
    for (int f = 0; f < 100; ++f) {
      scene.flows.push_back(
          {{0}, 1e5 + static_cast<double>(random() % 10'000'000), 0, 1.0 + static_cast<double>(random() % 3), 0});
      bytes += scene.flows.back().bytes;
    }
    CHECK(last(run(scene)) == doctest::Approx(bytes / scene.capacity[0]).epsilon(1e-9));
    CHECK(last(run(scene, {Fidelity::Kind::bounded, 0.01})) ==
          doctest::Approx(bytes / scene.capacity[0]).epsilon(1e-6));
  }
}

TEST_CASE("the order in which flows are listed does not matter, to the picosecond") {
  const auto topology = hardware::make_topology(cluster_of(4, "rail"));
  for (unsigned seed = 0; seed < 12; ++seed) {
    CAPTURE(seed);
    std::vector<sim::Flow> flows = all_to_all(32, 0.2 * (seed % 6), seed % 2 == 0 ? 0 : 0.5, seed);
    for (const Fidelity fidelity : {Fidelity{}, Fidelity{Fidelity::Kind::bounded, 0.01}}) {
      const auto completions = [&] {
        const auto network = sim::make_network(*topology, fidelity);
        network->start({}, flows);
        std::vector<Completion> done;
        while (const auto next = network->next()) network->advance(*next, done);
        return done;
      };
      const std::vector<Completion> first = completions();
      std::mt19937 random(seed);
      std::ranges::shuffle(flows, random);
      const std::vector<Completion> second = completions();
      REQUIRE(first.size() == second.size());
      for (std::size_t i = 0; i < first.size(); ++i) {
        CHECK(first[i].time == second[i].time);
        CHECK(first[i].rank == second[i].rank);
      }
    }
  }
}

TEST_CASE("twice the bytes take twice the time; twice the capacity half") {
  for (unsigned seed = 1; seed < 60; seed += 2) {
    CAPTURE(seed);
    Scene scene = random_scene(seed);
    for (auto& f : scene.flows) f.start = f.cap = 0;
    const std::vector<double> base = run(scene);
    Scene twice = scene, fast = scene;
    for (auto& f : twice.flows) f.bytes *= 2;
    for (double& c : fast.capacity) c *= 2;
    const std::vector<double> longer = run(twice), shorter = run(fast);
    for (std::size_t f = 0; f < base.size(); ++f) {
      CHECK(longer[f] == doctest::Approx(2 * base[f]).epsilon(1e-8));
      CHECK(shorter[f] == doctest::Approx(base[f] / 2).epsilon(1e-8));
    }
  }
}

TEST_CASE("parts that share no link do not see each other") {
  // Two scenes side by side on their own links, in one transfer.
  for (unsigned seed = 1; seed < 60; ++seed) {
    CAPTURE(seed);
    Scene a = random_scene(seed), b = random_scene(seed + 1000);
    for (auto& f : a.flows) f.start = 0;
    for (auto& f : b.flows) f.start = 0;
    Scene both = a;
    for (const double c : b.capacity) both.capacity.push_back(c);
    for (auto f : b.flows) {
      for (int& l : f.route) l += static_cast<int>(a.capacity.size());
      both.flows.push_back(f);
    }
    const std::vector<double> alone_a = run(a), alone_b = run(b), together = run(both);
    for (std::size_t f = 0; f < alone_a.size(); ++f) CHECK(together[f] == alone_a[f]);
    for (std::size_t f = 0; f < alone_b.size(); ++f) CHECK(together[alone_a.size() + f] == alone_b[f]);
  }
}
