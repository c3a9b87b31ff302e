// Counting decisions: against brute force, for any cut of the tokens, on any number of threads.
#include "moesim/routing.hpp"

#include <doctest/doctest.h>

#include <cstdlib>
#include <set>

#include "models/load/kept_layer.hpp"
#include "models/load/synthetic.hpp"

using namespace moesim;
using namespace moesim::load;

namespace {

SyntheticSpec wide(Sampling sampling) {
  SyntheticSpec spec;
  spec.shape = {3, 96, 6, 8, 3, 50'000};
  spec.law = {"zipf", {{"exponent", 0.9}}};
  spec.sampling = sampling;
  spec.seed = 11;
  return spec;
}

struct Threads {  // $MOESIM_THREADS for a while
  explicit Threads(const char* n) { setenv("MOESIM_THREADS", n, 1); }
  ~Threads() { unsetenv("MOESIM_THREADS"); }
};

}  // namespace

TEST_CASE("even ranges: earlier owners get the remainder") {
  CHECK(TokenRanges::even(10, 4).begin == std::vector<std::int64_t>{0, 3, 6, 8, 10});
  CHECK(TokenRanges::even(2, 4).begin == std::vector<std::int64_t>{0, 1, 2, 2, 2});
  CHECK(TokenRanges::even(0, 2).begin == std::vector<std::int64_t>{0, 0, 0});
  CHECK_THROWS_AS(TokenRanges::even(1, 0), std::invalid_argument);
  CHECK_THROWS_AS(TokenRanges::even(-1, 2), std::invalid_argument);
}

TEST_CASE("counts agree with brute force, token by token") {
  for (const Sampling sampling : {Sampling::random, Sampling::expected}) {
    const auto routing = make_synthetic(wide(sampling));
    TokenRanges ranges;
    ranges.begin = {100, 100, 1000, 17'500, 17'501, 49'999};  // an empty owner, one of a token, some that span tasks
    std::vector<int> bin_of(96);
    for (std::size_t e = 0; e < 96; ++e) bin_of[e] = static_cast<int>(e * 7 % 5);
    for (int layer = 0; layer < 3; ++layer) {
      const Table counts = expert_counts(*routing, layer, ranges);
      const Table distinct = distinct_counts(*routing, layer, ranges, bin_of, 5);
      Table counts_expected(5, 96);
      Table distinct_expected(5, 5);
      for (int owner = 0; owner < 5; ++owner) {
        const auto o = static_cast<std::size_t>(owner);
        for (std::int64_t t = ranges.begin[o]; t < ranges.begin[o + 1]; ++t) {
          std::array<ExpertIndex, 6> ids{};
          routing->assign(layer, t, ids);
          std::set<int> bins;
          for (const ExpertIndex e : ids) {
            ++counts_expected.at(owner, e);
            bins.insert(bin_of[e]);
          }
          for (const int b : bins) ++distinct_expected.at(owner, b);
        }
        CHECK(counts.row_sum(owner) == ranges.count(o) * 6);
      }
      CHECK(counts == counts_expected);
      CHECK(distinct == distinct_expected);
    }
  }
}

TEST_CASE("the same decisions in any chunks and on any number of threads") {
  for (const Sampling sampling : {Sampling::random, Sampling::expected}) {
    SyntheticSpec spec = wide(sampling);
    spec.affinity = 0.3;
    const TokenRanges ranges = TokenRanges::even(50'000, 7);
    std::vector<ExpertIndex> whole(6 * 50'000);
    Table one;
    Table two;
    {
      const Threads threads("1");
      const auto routing = make_synthetic(spec);
      routing->assign(2, 0, whole);
      one = expert_counts(*routing, 2, ranges);
    }
    {
      const Threads threads("2");
      const auto routing = make_synthetic(spec);
      two = expert_counts(*routing, 2, ranges);
      std::vector<ExpertIndex> part;
      for (std::int64_t first = 0, n = 1; first + n <= 50'000; first += n, n = n * 3 % 1013 + 1) {
        part.resize(static_cast<std::size_t>(6 * n));
        routing->assign(2, first, part);
        REQUIRE(std::equal(part.begin(), part.end(), whole.begin() + 6 * first));
      }
    }
    CHECK(one == two);
  }
}

TEST_CASE("what cannot be counted is refused") {
  const auto routing = make_synthetic(wide(Sampling::random));
  const TokenRanges ranges = TokenRanges::even(50'000, 2);
  std::vector<int> bin_of(96, 0);
  CHECK_THROWS_AS(expert_counts(*routing, 3, ranges), std::invalid_argument);
  CHECK_THROWS_AS(expert_counts(*routing, 0, TokenRanges::even(50'001, 2)), std::invalid_argument);
  CHECK_THROWS_AS(distinct_counts(*routing, 0, ranges, bin_of, 0), std::invalid_argument);
  bin_of.pop_back();
  CHECK_THROWS_AS(distinct_counts(*routing, 0, ranges, bin_of, 1), std::invalid_argument);
}

TEST_CASE("a kept layer answers as the routing does, also for other layers and tokens beyond it") {
  for (const Sampling sampling : {Sampling::random, Sampling::expected}) {
    const auto routing = make_synthetic(wide(sampling));
    const KeptLayer kept(*routing, 1, 40'000);
    for (const int layer : {0, 1, 2})
      for (const std::int64_t first : {0, 1'234, 39'990, 49'000}) {
        CAPTURE(layer);
        CAPTURE(first);
        std::vector<ExpertIndex> a(6 * 100), b(6 * 100);
        routing->assign(layer, first, a);
        kept.assign(layer, first, b);
        CHECK(a == b);
      }
    const TokenRanges ranges = TokenRanges::even(40'000, 7);
    CHECK(expert_counts(kept, 1, ranges) == expert_counts(*routing, 1, ranges));
  }
}
