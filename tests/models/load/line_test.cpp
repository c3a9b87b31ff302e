// Picking one item per lane: inclusion is exactly the item's length.
#include "models/load/line.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "models/load/apportion.hpp"
#include "models/load/inclusion.hpp"
#include "models/load/systematic.hpp"

using namespace moesim;
using namespace moesim::load;

namespace {

std::vector<std::size_t> natural(std::size_t n) {
  std::vector<std::size_t> out(n);
  std::iota(out.begin(), out.end(), std::size_t{0});
  return out;
}

// Inclusion probabilities of a random law, summing to k; some of them 1.
std::vector<double> some_inclusion(std::uint64_t seed, std::size_t n, int k) {
  std::vector<double> weights(n);
  for (std::size_t i = 0; i < n; ++i) weights[i] = std::exp(2.5 * (2 * Draws(seed, i).uniform() - 1));
  return capped(weights, k);
}

}  // namespace

TEST_CASE("apportion: floors and ceilings that sum exactly") {
  // 1.2 + 2.5 + 0.3 = 4: floors 1 + 2 + 0 leave one for the largest remainder, 2.5.
  CHECK(apportion(std::vector<double>{1.2, 2.5, 0.3}, 4) == std::vector<std::int64_t>{1, 3, 0});
  CHECK(apportion(std::vector<double>{0.5, 0.5}, 1) == std::vector<std::int64_t>{1, 0});
  CHECK(apportion(std::vector<double>{2.9999999999, 1.0000000001}, 4) == std::vector<std::int64_t>{3, 1});
  // Quotas that miss the total by their own rounding still reach it.
  CHECK(apportion(std::vector<double>{1.0, 2.0, 1.0}, 5) == std::vector<std::int64_t>{2, 2, 1});
  CHECK(apportion(std::vector<double>{0.0, 2.0, 1.0}, 2) == std::vector<std::int64_t>{0, 2, 0});
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    std::vector<double> quotas = some_inclusion(seed, 40, 7);
    for (double& q : quotas) q *= 1013;
    const std::vector<std::int64_t> n = apportion(quotas, 7 * 1013);
    CHECK(std::accumulate(n.begin(), n.end(), std::int64_t{0}) == 7 * 1013);
    for (std::size_t i = 0; i < n.size(); ++i) CHECK(std::abs(static_cast<double>(n[i]) - quotas[i]) < 1);
  }
}

TEST_CASE("capped: in proportion, at most 1, sums to the total") {
  // Weights 6, 2, 1, 1, total 2: 6 is certain; the other 1 is split 2 : 1 : 1.
  const std::vector<double> p = capped(std::vector<double>{2, 6, 1, 1}, 2);
  CHECK(p[0] == doctest::Approx(0.5));
  CHECK(p[1] == 1.0);
  CHECK(p[2] == doctest::Approx(0.25));
  CHECK(p[3] == doctest::Approx(0.25));
  // As many as there are: all certain.
  for (const double x : capped(std::vector<double>{1, 2, 3}, 3)) CHECK(x == doctest::Approx(1.0));
}

TEST_CASE("line: at() agrees with a search through the lengths") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<double> p = some_inclusion(seed, 30, 4);
    const Line line(p, 97, natural(30));
    std::vector<double> quotas(p);
    for (double& q : quotas) q *= 97;
    const std::vector<std::int64_t> n = apportion(quotas, 4 * 97);
    REQUIRE(line.length() == 4 * 97);
    std::int64_t x = 0;
    for (std::size_t i = 0; i < n.size(); ++i) {
      const std::int64_t begin = x;
      for (std::int64_t end = begin + n[i]; x < end; ++x) {
        CHECK(line.at(x).first == i);
        CHECK(line.at(x).second == begin);
      }
    }
  }
}

TEST_CASE("lanes: each item is picked with its probability, none twice in a token") {
  // n independent tokens: an item's count has mean n p and variance n p (1 - p); 5 standard deviations over all items.
  const int tokens = 200'000;
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    const int k = 1 + static_cast<int>(seed);
    const std::vector<double> p = some_inclusion(seed + 100, 24, k);
    const Lanes lanes(p, natural(24));
    std::vector<int> count(24);
    for (int t = 0; t < tokens; ++t) {
      Draws draws(seed, static_cast<std::uint64_t>(t));
      std::set<ExpertIndex> picked;
      lanes.pick(draws, [&](ExpertIndex e) { picked.insert(e); });
      REQUIRE(picked.size() == static_cast<std::size_t>(k));
      for (const ExpertIndex e : picked) ++count[e];
    }
    for (std::size_t e = 0; e < p.size(); ++e) {
      CAPTURE(k);
      CAPTURE(e);
      CHECK(std::abs(count[e] - tokens * p[e]) <= 5 * std::sqrt(tokens * p[e] * (1 - p[e])) + 1e-3);
    }
  }
}

TEST_CASE("lanes: a straddler is exact for any split") {
  // Three items of 2/3 in two lanes: the middle one has 1/3 in each. P(first and second) must be 1/3 like every pair.
  const Lanes lanes(std::vector<double>{2.0 / 3, 2.0 / 3, 2.0 / 3}, natural(3));
  std::map<std::pair<ExpertIndex, ExpertIndex>, int> pairs;
  for (std::uint64_t t = 0; t < 90'000; ++t) {
    Draws draws(9, t);
    std::vector<ExpertIndex> picked;
    lanes.pick(draws, [&](ExpertIndex e) { picked.push_back(e); });
    ++pairs[std::minmax(picked[0], picked[1])];
  }
  REQUIRE(pairs.size() == 3);  // 30,000 each, standard deviation 141
  for (const auto& [pair, n] : pairs) CHECK(std::abs(n - 30'000) < 5 * 141);
}

TEST_CASE("lattice multipliers are coprime to the period and differ between layers") {
  for (const std::int64_t period : {1, 2, 3, 4, 12, 64, 120'000, 262'144, 999'983}) {
    const std::vector<std::int64_t> a = lattice_multipliers(period, 8, 1);
    for (const std::int64_t x : a) {
      CHECK(std::gcd(x, period) == 1);
      CHECK((x < period || period == 1));
    }
    if (period > 1000) CHECK(std::set<std::int64_t>(a.begin(), a.end()).size() == 8);
  }
}

TEST_CASE("systematic: exact over a period, within a few over any range") {
  // E = 64, top-4: counts over any T = 5000 tokens in a row are the apportioned quotas; over a part of n tokens the
  // error of an arc of the lattice is at most the sum of the partial quotients of a / T, about 25, and far below it in
  // fact.
  RoutingShape shape{1, 64, 4, 1, 1, 5000};
  const Inclusion inclusion{{1.0}, some_inclusion(3, 64, 4)};
  const SystematicSampler sampler(inclusion, shape, lattice_multipliers(5000, 1, 2)[0], 5);
  std::vector<double> quotas(inclusion.expert);
  for (double& q : quotas) q *= 5000;
  const std::vector<std::int64_t> expected = apportion(quotas, 20'000);
  std::vector<ExpertIndex> ids(4 * 5000);
  for (const std::int64_t first : {0, 1, 4999, 1'234'567}) {
    sampler.assign(first, ids);
    std::vector<std::int64_t> count(64);
    for (const ExpertIndex e : ids) ++count[e];
    CHECK(count == expected);
  }
  double worst = 0;
  for (std::int64_t first = 0; first < 5000; first += 217) {
    for (const std::size_t n : {10, 100, 777, 2500}) {
      const std::span<ExpertIndex> part(ids.data(), 4 * n);
      sampler.assign(first, part);
      std::vector<double> error(64);
      for (std::size_t e = 0; e < 64; ++e) error[e] = -static_cast<double>(n) * static_cast<double>(expected[e]) / 5000;
      for (const ExpertIndex e : part) error[e] += 1;
      for (const double x : error) worst = std::max(worst, std::abs(x));
    }
  }
  CHECK(worst < 4);
}
