// The max-min condition itself, and filling again from the middle.
#include "sim/network/water_fill.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <random>
#include <vector>

using moesim::sim::WaterFill;

namespace {

struct System {
  std::vector<double> capacity;
  std::vector<std::vector<std::uint32_t>> routes;
  std::vector<double> load;  // weight * flows
  std::vector<double> caps;  // levels

  [[nodiscard]] WaterFill water_fill(bool keep_log) const {
    std::vector<std::uint32_t> begin{0}, hops;
    for (const auto& r : routes) {
      hops.insert(hops.end(), r.begin(), r.end());
      begin.push_back(static_cast<std::uint32_t>(hops.size()));
    }
    std::vector<double> hop_load;
    for (std::size_t c = 0; c < routes.size(); ++c) hop_load.insert(hop_load.end(), routes[c].size(), load[c]);
    return {capacity, begin, hops, load, hop_load, caps, keep_log};
  }
};

System random_system(unsigned seed) {
  std::mt19937 random(seed);
  const auto pick = [&](unsigned a, unsigned b) { return a + static_cast<unsigned>(random() % (b - a + 1)); };
  System s;
  const unsigned links = pick(1, 12), classes = pick(1, 60);
  for (unsigned l = 0; l < links; ++l) s.capacity.push_back(seed % 2 == 0 ? pick(1, 4) : 1.0 + 0.001 * pick(0, 9000));
  for (unsigned c = 0; c < classes; ++c) {
    std::vector<std::uint32_t> route;
    for (unsigned l = 0; l < links; ++l)
      if (pick(0, 3) == 0) route.push_back(l);
    if (route.empty()) route.push_back(pick(0, links - 1));
    s.routes.push_back(route);
    s.load.push_back(seed % 3 == 0 ? 0.5 * pick(1, 8) : pick(1, 3));
    s.caps.push_back(seed % 5 == 0 && pick(0, 2) == 0 ? 0.01 * pick(1, 50) : std::numeric_limits<double>::infinity());
  }
  return s;
}

// No link over capacity; and of every class some link is full on which no class has a higher level, or it is at its
// cap: raising it would lower one that is no faster.
void check_max_min(const System& s, const WaterFill& w) {
  std::vector<double> used(s.capacity.size(), 0), highest(s.capacity.size(), 0);
  for (std::uint32_t c = 0; c < s.routes.size(); ++c)
    for (const std::uint32_t l : s.routes[c]) {
      if (s.load[c] == 0) continue;
      used[l] += s.load[c] * w.level(c);
      highest[l] = std::max(highest[l], w.level(c));
    }
  for (std::size_t l = 0; l < used.size(); ++l) CHECK(used[l] <= s.capacity[l] * (1 + 1e-12));
  for (std::uint32_t c = 0; c < s.routes.size(); ++c) {
    if (s.load[c] == 0) continue;
    bool held = w.level(c) >= s.caps[c];
    for (const std::uint32_t l : s.routes[c])
      held = held || (used[l] >= s.capacity[l] * (1 - 1e-12) && highest[l] <= w.level(c) * (1 + 1e-12));
    CHECK(held);
    CHECK(w.level(c) <= s.caps[c]);
    CHECK(w.level(c) > 0);
  }
}

}  // namespace

TEST_CASE("max-min: no class can rise without lowering one that is no faster") {
  for (unsigned seed = 0; seed < 500; ++seed) {
    CAPTURE(seed);
    const System s = random_system(seed);
    WaterFill w = s.water_fill(false);
    REQUIRE(w.fill());
    CHECK(w.order().size() == s.routes.size());
    check_max_min(s, w);
  }
}

TEST_CASE("filling again from the lowest level that changed is filling from the beginning, bit by bit") {
  for (unsigned seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    System s = random_system(seed);
    WaterFill w = s.water_fill(true);
    REQUIRE(w.fill());
    std::mt19937 random(seed);
    for (std::size_t left = s.routes.size(); left > 1;) {
      double lowest = std::numeric_limits<double>::infinity();
      for (int k = 0; k < 2 && left > 1; ++k) {
        const auto c = static_cast<std::uint32_t>(random() % s.routes.size());
        if (s.load[c] == 0) continue;
        lowest = std::min(lowest, w.level(c));
        s.load[c] = random() % 2 == 0 ? 0 : s.load[c] / 2;
        left -= s.load[c] == 0 ? 1 : 0;
        w.leave(c, s.routes[c], s.load[c]);
      }
      if (lowest == std::numeric_limits<double>::infinity()) continue;
      const std::size_t kept = w.refill(lowest);
      for (std::size_t i = 0; i < kept; ++i) CHECK(w.level(w.order()[i]) < lowest);
      check_max_min(s, w);

      WaterFill fresh = s.water_fill(false);
      for (std::uint32_t c = 0; c < s.routes.size(); ++c) fresh.leave(c, s.routes[c], s.load[c]);
      REQUIRE(fresh.fill());
      for (std::uint32_t c = 0; c < s.routes.size(); ++c)
        if (s.load[c] > 0) CHECK(w.level(c) == fresh.level(c));
      if (random() % 8 == 0) break;
    }
  }
}

TEST_CASE("links in the same situation get the same share, bit by bit, whatever their number") {
  // A ring of n links and n flows over two neighbours each: every share is C / 2. C / 2 is exact for no rounding here,
  // so any order of subtraction would show.
  for (const double capacity : {1.0, 0.1, 1e9 / 3}) {
    System s;
    for (std::uint32_t l = 0; l < 7; ++l) {
      s.capacity.push_back(capacity);
      s.routes.push_back({l, (l + 1) % 7});
      s.routes.push_back({l, (l + 2) % 7});
      s.routes.push_back({l, (l + 3) % 7});
    }
    s.load.assign(21, 1);
    s.caps.assign(21, std::numeric_limits<double>::infinity());
    WaterFill w = s.water_fill(false);
    REQUIRE(w.fill());
    for (std::uint32_t c = 0; c < 21; ++c) CHECK(w.level(c) == capacity / 6);
  }
}

TEST_CASE("a class that is on a link in part counts there in part, and cannot stop there") {
  // Three flows over A (3): a class. One of them is on B too, with a class of its own of one flow.
  //   B = 4: A stops at 1; B leaves 4 - 1 = 3 to the other.   B = 1.5: it would stop both at 0.75, before A.
  for (const double b : {4.0, 1.5}) {
    const double infinite = std::numeric_limits<double>::infinity();
    WaterFill w({3, b}, {0, 2, 3}, {0, 1, 1}, {3, 1}, {3, 1, 1}, {infinite, infinite}, false);
    CHECK(w.fill() == (b == 4));
    if (b != 4) continue;
    CHECK(w.level(0) == 1);
    CHECK(w.level(1) == 3);
    // Without the flow that was on B: A gives the two others 1.5, B is the other class's.
    w.leave(0, std::vector<std::uint32_t>{0, 1}, 2);
    REQUIRE(w.fill());
    CHECK(w.level(0) == 1.5);
    CHECK(w.level(1) == 4);
  }
}
