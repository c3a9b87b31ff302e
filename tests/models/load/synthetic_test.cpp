// Sampled routing: distinct experts, the law's marginals, groups, affinity.
#include "models/load/synthetic.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

using namespace moesim;
using namespace moesim::load;

namespace {

SyntheticSpec spec_of(Law law, RoutingShape shape, Sampling sampling, std::uint64_t seed = 1) {
  SyntheticSpec spec;
  spec.shape = shape;
  spec.law = std::move(law);
  spec.sampling = sampling;
  spec.seed = seed;
  return spec;
}

std::vector<std::int64_t> counts_of(const Routing& routing, int layer, std::int64_t tokens) {
  const Table table = expert_counts(routing, layer, TokenRanges::even(tokens, 1));
  return {table.cells().begin(), table.cells().end()};
}

std::vector<ExpertIndex> ids_of(const Routing& routing, int layer, std::int64_t first, std::size_t tokens) {
  std::vector<ExpertIndex> ids(tokens * static_cast<std::size_t>(routing.top_k()));
  routing.assign(layer, first, ids);
  return ids;
}

// Sum over experts of (n_e - T pi_e)^2 / (T pi_e (1 - pi_e)), each term of mean 1 where tokens are independent.
double chi_square(const Routing& routing, const SyntheticSpec& spec, int layer) {
  const std::vector<double> p = probabilities(spec, layer);
  const auto tokens = static_cast<double>(spec.shape.tokens);
  const std::vector<std::int64_t> n = counts_of(routing, layer, spec.shape.tokens);
  double sum = 0;
  for (std::size_t e = 0; e < p.size(); ++e) {
    const double pi = p[e] * spec.shape.top_k;
    const double difference = static_cast<double>(n[e]) - tokens * pi;
    if (pi > 1 - 1e-9)
      CHECK(difference == doctest::Approx(0.0));
    else
      sum += difference * difference / (tokens * pi * (1 - pi));
  }
  return sum;
}

}  // namespace

TEST_CASE("a token's experts are distinct and in range, for every law, sampling and top_k") {
  for (const LawInfo& info : laws()) {
    for (const Sampling sampling : {Sampling::random, Sampling::expected}) {
      for (const int top_k : {1, 2, 7, 15, 16}) {
        const auto routing = make_synthetic(spec_of({std::string(info.name), {}}, {2, 16, top_k, 1, 1, 500}, sampling));
        const std::vector<ExpertIndex> ids = ids_of(*routing, 1, 0, 500);
        for (std::size_t i = 0; i < ids.size(); i += static_cast<std::size_t>(top_k)) {
          const std::set<ExpertIndex> token(ids.begin() + static_cast<std::ptrdiff_t>(i),
                                            ids.begin() + static_cast<std::ptrdiff_t>(i) + top_k);
          REQUIRE(token.size() == static_cast<std::size_t>(top_k));
          REQUIRE(*token.rbegin() < 16);
        }
      }
    }
  }
}

TEST_CASE("extreme skew terminates and keeps experts distinct") {
  // zipf a = 10 over 4096 experts: the last share is 4096^-10 = 1e-36 of the first.
  for (const Sampling sampling : {Sampling::random, Sampling::expected}) {
    const auto routing = make_synthetic(spec_of({"zipf", {{"exponent", 10}}}, {1, 4096, 8, 1, 1, 20'000}, sampling));
    const std::vector<ExpertIndex> ids = ids_of(*routing, 0, 0, 20'000);
    for (std::size_t i = 0; i < ids.size(); i += 8)
      REQUIRE(std::set<ExpertIndex>(ids.begin() + static_cast<std::ptrdiff_t>(i),
                                    ids.begin() + static_cast<std::ptrdiff_t>(i + 8))
                  .size() == 8);
  }
}

TEST_CASE("moeshard, expected sampling, 120,000 tokens: the paper's straggler factors to two decimals") {
  // papers.md section 1: 4 GPUs, contiguous, top-1. 2.125 for E = 8 is printed as 2.12.
  const std::vector<std::pair<int, double>> published{{8, 2.12},  {16, 2.64},  {32, 3.12},
                                                      {64, 3.42}, {128, 3.66}, {256, 3.82}};
  for (const auto& [experts, expected] : published) {
    const SyntheticSpec spec = spec_of({"moeshard", {}}, {1, experts, 1, 1, 1, 120'000}, Sampling::expected);
    const std::vector<std::int64_t> n = counts_of(*make_synthetic(spec), 0, 120'000);
    double largest = 0;
    for (int r = 0; r < 4; ++r)
      largest =
          std::max(largest, static_cast<double>(std::accumulate(n.begin() + r * experts / 4,
                                                                n.begin() + (r + 1) * experts / 4, std::int64_t{0})));
    CAPTURE(experts);
    CHECK(std::abs(largest / 30'000 - expected) <= 0.005 + 1e-12);
  }
}

TEST_CASE("expected sampling: every owner's counts are the law's, within a few of n p") {
  // Four owners of 30,000 tokens, top-1 of 128, and the sums over ranks of 32 experts as well.
  const SyntheticSpec spec = spec_of({"zipf", {}}, {2, 128, 1, 1, 1, 120'000}, Sampling::expected);
  const auto routing = make_synthetic(spec);
  for (int layer = 0; layer < 2; ++layer) {
    const std::vector<double> p = probabilities(spec, layer);
    const Table table = expert_counts(*routing, layer, TokenRanges::even(120'000, 4));
    double worst = 0;
    double worst_rank = 0;
    for (int owner = 0; owner < 4; ++owner) {
      for (int r = 0; r < 4; ++r) {
        double rank = 0;
        for (int e = 32 * r; e < 32 * r + 32; ++e) {
          const double error = table.at(owner, e) - 30'000 * p[static_cast<std::size_t>(e)];
          worst = std::max(worst, std::abs(error));
          rank += error;
        }
        worst_rank = std::max(worst_rank, std::abs(rank));
      }
    }
    CHECK(worst < 4.0);
    CHECK(worst_rank < 4.0);
  }
}

TEST_CASE("random sampling has the law's marginals: chi-square") {
  // Mean 256 (or fewer, where experts are certain), standard deviation about sqrt(2 * 256) = 23: 6 of them.
  for (const char* law : {"uniform", "zipf", "lognormal", "power_law", "moeshard"}) {
    for (const int groups : {1, 8}) {
      const SyntheticSpec spec =
          spec_of({law, {}}, {1, 256, 8, groups, groups / 2 + groups % 2, 40'000}, Sampling::random);
      const double x = chi_square(*make_synthetic(spec), spec, 0);
      CAPTURE(law);
      CAPTURE(groups);
      CHECK(x < 256 + 6 * 23);
      CHECK(x > 100);  // and it is random, not smooth
    }
  }
}

TEST_CASE("random sampling: tokens are independent") {
  // Lag-1 correlation of "uses expert e" over 40,000 tokens: standard error 1/200.
  const auto routing = make_synthetic(spec_of({"uniform", {}}, {1, 8, 2, 1, 1, 40'000}, Sampling::random));
  const std::vector<ExpertIndex> ids = ids_of(*routing, 0, 0, 40'000);
  for (ExpertIndex e = 0; e < 8; ++e) {
    double both = 0;
    double before = 0;
    for (std::size_t t = 0; t < 40'000; ++t) {
      const double now = ids[2 * t] == e || ids[2 * t + 1] == e ? 1 : 0;
      both += before * now;
      before = now;
    }
    // P(both) = 1/16, variance of a correlation 1/n: cov / var = (both/n - 1/16) / (3/16).
    CHECK(std::abs((both / 40'000 - 1.0 / 16) / (3.0 / 16)) < 5.0 / 200);
  }
}

TEST_CASE("random sampling: the probability of a pair is near that of drawing one by one") {
  // Uniform top-2 of 8: every pair has 1/28. 64-token turns of 256 shuffles: standard deviation about 5.4 % a pair.
  const std::size_t tokens = 400'000;
  const auto routing = make_synthetic(spec_of({"uniform", {}}, {1, 8, 2, 1, 1, 400'000}, Sampling::random));
  const std::vector<ExpertIndex> ids = ids_of(*routing, 0, 0, tokens);
  Table pairs(8, 8);
  for (std::size_t t = 0; t < tokens; ++t)
    ++pairs.at(std::min(ids[2 * t], ids[2 * t + 1]), std::max(ids[2 * t], ids[2 * t + 1]));
  double squares = 0;
  for (int a = 0; a < 8; ++a)
    for (int b = a + 1; b < 8; ++b) squares += std::pow(pairs.at(a, b) * 28.0 / tokens - 1, 2);
  CHECK(std::sqrt(squares / 28) < 0.08);
}

TEST_CASE("random sampling: distinct ranks per token as for draws without replacement") {
  // E = 256 in 8 ranks of 32, top-8 uniform: 8 (1 - C(224, 8) / C(256, 8)) = 5.299 ranks per token.
  const std::int64_t tokens = 60'000;
  const auto routing = make_synthetic(spec_of({"uniform", {}}, {1, 256, 8, 1, 1, tokens}, Sampling::random));
  std::vector<int> rank_of(256);
  for (std::size_t e = 0; e < 256; ++e) rank_of[e] = static_cast<int>(e / 32);
  double none = 1;
  for (int i = 0; i < 8; ++i) none *= (224.0 - i) / (256.0 - i);
  const Table table = distinct_counts(*routing, 0, TokenRanges::even(tokens, 1), rank_of, 8);
  CHECK(static_cast<double>(table.sum()) / static_cast<double>(tokens) ==
        doctest::Approx(8 * (1 - none)).epsilon(0.005));
}

TEST_CASE("groups: a token's experts lie in groups_per_token groups, as many in each") {
  for (const Sampling sampling : {Sampling::random, Sampling::expected}) {
    const SyntheticSpec spec = spec_of({"lognormal", {}}, {2, 64, 6, 8, 3, 3000}, sampling);
    const auto routing = make_synthetic(spec);
    const std::vector<ExpertIndex> ids = ids_of(*routing, 1, 0, 3000);
    for (std::size_t t = 0; t < 3000; ++t) {
      std::multiset<int> groups;
      std::set<ExpertIndex> experts;
      for (std::size_t i = 6 * t; i < 6 * t + 6; ++i) {
        groups.insert(ids[i] / 8);
        experts.insert(ids[i]);
      }
      REQUIRE(experts.size() == 6);
      REQUIRE(std::set<int>(groups.begin(), groups.end()).size() == 3);
      for (const int g : groups) REQUIRE(groups.count(g) == 2);
    }
    if (sampling == Sampling::expected) {
      const std::vector<double> p = probabilities(spec, 1);
      const std::vector<std::int64_t> n = counts_of(*routing, 1, 3000);
      // A group's tokens are rounded, then the experts' shares of them: within 1 + 1.
      for (std::size_t e = 0; e < 64; ++e) CHECK(std::abs(static_cast<double>(n[e]) - 3000 * 6 * p[e]) < 2.0);
    }
  }
}

TEST_CASE("groups that restrict nothing are the same as none") {
  SyntheticSpec spec = spec_of({"zipf", {}}, {1, 64, 4, 1, 1, 1000}, Sampling::random);
  const auto plain = make_synthetic(spec);
  spec.shape.expert_groups = spec.shape.groups_per_token = 4;
  CHECK(ids_of(*plain, 0, 0, 1000) == ids_of(*make_synthetic(spec), 0, 0, 1000));
}

TEST_CASE("layers choose independently of each other without affinity") {
  // Top-1 of 8 uniform at two layers: 64 pairs of T/64 = 2500 each, standard deviation 50 if independent.
  for (const Sampling sampling : {Sampling::random, Sampling::expected}) {
    const auto routing = make_synthetic(spec_of({"uniform", {}}, {3, 8, 1, 1, 1, 160'000}, sampling));
    const std::vector<ExpertIndex> a = ids_of(*routing, 0, 0, 160'000);
    const std::vector<ExpertIndex> b = ids_of(*routing, 1, 0, 160'000);
    const std::vector<ExpertIndex> c = ids_of(*routing, 2, 0, 160'000);
    Table neighbours(8, 8);
    Table apart(8, 8);
    for (std::size_t t = 0; t < a.size(); ++t) {
      ++neighbours.at(a[t], b[t]);
      ++apart.at(a[t], c[t]);
    }
    for (const std::int32_t n : neighbours.cells()) CHECK(std::abs(n - 2500) < 5 * 50);
    for (const std::int32_t n : apart.cells()) CHECK(std::abs(n - 2500) < 5 * 50);
  }
}

TEST_CASE("affinity: a token follows the permutation with probability a") {
  for (const Sampling sampling : {Sampling::random, Sampling::expected}) {
    SyntheticSpec spec = spec_of({"zipf", {}}, {4, 32, 1, 1, 1, 50'000}, sampling);
    spec.affinity = 0.7;
    const auto routing = make_synthetic(spec);
    for (int layer = 0; layer < 3; ++layer) {
      const std::vector<ExpertIndex> a = ids_of(*routing, layer, 0, 50'000);
      const std::vector<ExpertIndex> b = ids_of(*routing, layer + 1, 0, 50'000);
      Table next(32, 32);
      for (std::size_t t = 0; t < a.size(); ++t) ++next.at(a[t], b[t]);
      const std::vector<double> p = probabilities(spec, layer + 1);
      std::set<std::ptrdiff_t> images;
      for (int e = 0; e < 32; ++e) {
        // P(image at l + 1 | expert at l) = a + (1 - a) p_image, the largest of the row.
        const auto row = next.row(e);
        const std::ptrdiff_t image = std::max_element(row.begin(), row.end()) - row.begin();
        images.insert(image);
        const auto n = static_cast<double>(next.row_sum(e));
        const double expected = 0.7 + 0.3 * p[static_cast<std::size_t>(image)];
        CHECK(std::abs(row[static_cast<std::size_t>(image)] / n - expected) < 5 * std::sqrt(0.25 / n));
      }
      CHECK(images.size() == 32);  // a permutation
    }
  }
}

TEST_CASE("affinity: marginals stay where layers share the same shares by rank") {
  for (const char* law : {"uniform", "zipf", "moeshard"}) {
    SyntheticSpec spec = spec_of({law, {}}, {4, 64, 4, 1, 1, 50'000}, Sampling::random);
    spec.affinity = 0.7;
    spec.order = Order::shuffled;
    const auto routing = make_synthetic(spec);
    for (int layer = 0; layer < 4; ++layer)
      CHECK(chi_square(*routing, spec, layer) < 64 + 6 * 11);  // sqrt(2 * 64) = 11
  }
}

TEST_CASE("affinity 1: every layer is an image of the first, groups kept") {
  SyntheticSpec spec = spec_of({"lognormal", {}}, {3, 32, 4, 8, 2, 1000}, Sampling::random);
  spec.affinity = 1.0;
  const auto routing = make_synthetic(spec);
  const std::vector<ExpertIndex> a = ids_of(*routing, 0, 0, 1000);
  const std::vector<ExpertIndex> b = ids_of(*routing, 2, 0, 1000);
  std::vector<int> image(32, -1);
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (image[a[i]] < 0) image[a[i]] = b[i];
    REQUIRE(image[a[i]] == b[i]);
  }
  for (std::size_t t = 0; t < b.size(); t += 4) {
    std::set<int> groups;
    for (std::size_t i = t; i < t + 4; ++i) groups.insert(b[i] / 4);
    REQUIRE(groups.size() == 2);
  }
}

TEST_CASE("seeds differ, descriptions say what it is") {
  const SyntheticSpec one = spec_of({"zipf", {}}, {1, 64, 2, 1, 1, 100}, Sampling::random, 1);
  const SyntheticSpec two = spec_of({"zipf", {}}, {1, 64, 2, 1, 1, 100}, Sampling::random, 2);
  const auto routing = make_synthetic(one);
  CHECK(ids_of(*routing, 0, 0, 100) != ids_of(*make_synthetic(two), 0, 0, 100));
  CHECK(routing->synthetic());
  CHECK(routing->description() == "synthetic zipf (exponent = 0.8), order shuffled, random sampling, seed 1");
}
