// Loads over iterations: shares, their statistics over time, and counts without a pass over the tokens.
#include "models/load/load_sequence.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <numeric>
#include <random>
#include <set>

#include "moesim/error.hpp"
#include "tests/scratch.hpp"

using namespace moesim;
using namespace moesim::load;

namespace {

RoutingShape shape_of(int layers, int experts, int top_k, std::int64_t tokens) {
  return {layers, experts, top_k, 1, 1, tokens};
}

Table by_pass(const Routing& routing, int layer, const TokenRanges& ranges) {
  Table out(static_cast<int>(ranges.owners()), routing.experts());
  const auto k = static_cast<std::size_t>(routing.top_k());
  std::vector<ExpertIndex> ids(k);
  for (std::size_t o = 0; o < ranges.owners(); ++o)
    for (std::int64_t t = ranges.begin[o]; t < ranges.begin[o + 1]; ++t) {
      routing.assign(layer, t, ids);
      CHECK(std::set<ExpertIndex>(ids.begin(), ids.end()).size() == k);
      for (const ExpertIndex e : ids) ++out.at(static_cast<int>(o), e);
    }
  return out;
}

}  // namespace

TEST_CASE("a block's counts on paper") {
  // Shares 1/2, 1/4, 1/8, 1/8, top-2: inclusion 1, 1/2, 1/4, 1/4; of 8 tokens 8, 4, 2, 2.
  const auto routing = make_block_routing({shape_of(1, 4, 2, 16), 8, {{0.5, 0.25, 0.125, 0.125}}, 0, 7, true, "x"});
  const Table counts = expert_counts(*routing, 0, TokenRanges::even(16, 2));
  for (int o = 0; o < 2; ++o)
    for (int e = 0; e < 4; ++e) CHECK(counts.at(o, e) == std::array{8, 4, 2, 2}[static_cast<std::size_t>(e)]);
}

TEST_CASE("closed counts are those of a pass over the tokens, whatever the ranges") {
  std::mt19937 random(5);
  for (int trial = 0; trial < 30; ++trial) {
    const int experts = static_cast<int>(2 + random() % 14);
    const int top_k = static_cast<int>(1 + random() % static_cast<unsigned>(std::min(experts, 3)));
    const auto sequence = static_cast<std::int64_t>(1 + random() % 40);
    const std::int64_t tokens = sequence * static_cast<std::int64_t>(1 + random() % 8);
    std::vector<double> shares(static_cast<std::size_t>(experts));
    for (double& s : shares) s = std::exp(std::normal_distribution<double>(0, 1.5)(random));
    const auto routing =
        make_block_routing({shape_of(1, experts, top_k, tokens), sequence, {shares}, trial % 2 * 0.7, 9, true, "x"});
    const TokenRanges aligned = {{0, tokens - sequence, tokens}};
    CHECK(expert_counts(*routing, 0, aligned) == by_pass(*routing, 0, aligned));
    const TokenRanges across = TokenRanges::even(tokens, 3);
    CHECK(expert_counts(*routing, 0, across) == by_pass(*routing, 0, across));
  }
}

TEST_CASE("drift: the latents of a lognormal law forget themselves to 1/e in `drift` iterations") {
  // With a lognormal law ln(share) is linear in the latent, up to the scaling that all experts have in common: the
  // correlation over experts of ln(share) at a lag of `drift` is 1/e. 400 layers of 64 experts: its standard error is
  // below 0.01.
  Law law{"lognormal", {{"sigma", 1.0}}};
  const auto loads = make_drifting(shape_of(400, 64, 1, 64), 64, law, {10, 0, 0}, 3);
  const auto logs = [&] {
    std::vector<double> out;
    for (int l = 0; l < 400; ++l) {
      double mean = 0;
      for (const double s : loads->shares(l)) mean += std::log(s) / 64;
      for (const double s : loads->shares(l)) out.push_back(std::log(s) - mean);
    }
    return out;
  };
  const std::vector<double> before = logs();
  for (int i = 0; i < 10; ++i) loads->advance();
  const std::vector<double> after = logs();
  const double xy = std::inner_product(before.begin(), before.end(), after.begin(), 0.0);
  const double xx = std::inner_product(before.begin(), before.end(), before.begin(), 0.0);
  const double yy = std::inner_product(after.begin(), after.end(), after.begin(), 0.0);
  CHECK(xy / std::sqrt(xx * yy) == doctest::Approx(std::exp(-1.0)).epsilon(0.06));
  CHECK(yy / xx == doctest::Approx(1).epsilon(0.05));  // stationary
}

TEST_CASE("jumps draw a layer anew; without them a slow drift hardly moves") {
  const auto change = [](double jump) {
    const auto loads = make_drifting(shape_of(200, 32, 1, 32), 32, {"zipf", {}}, {1e9, jump, 0}, 11);
    int moved = 0;
    std::vector<std::vector<double>> before;
    for (int l = 0; l < 200; ++l) before.emplace_back(loads->shares(l).begin(), loads->shares(l).end());
    loads->advance();
    for (int l = 0; l < 200; ++l) {
      double most = 0;
      for (std::size_t e = 0; e < 32; ++e)
        most = std::max(most, std::abs(loads->shares(l)[e] - before[static_cast<std::size_t>(l)][e]));
      moved += most > 0.01 ? 1 : 0;
    }
    return moved;
  };
  CHECK(change(0) == 0);
  CHECK(change(1) == 200);
  const int some = change(0.25);  // 200 draws: 50 +- 6
  CHECK(some > 30);
  CHECK(some < 70);
}

TEST_CASE("the same seed gives the same loads, another one others; shares sum to one") {
  const auto at = [](std::uint64_t seed) {
    const auto loads = make_drifting(shape_of(2, 16, 2, 64), 32, {"lognormal", {}}, {20, 0.1, 0.3}, seed);
    for (int i = 0; i < 5; ++i) loads->advance();
    CHECK(std::accumulate(loads->shares(1).begin(), loads->shares(1).end(), 0.0) == doctest::Approx(1));
    return expert_counts(*loads->routing(), 1, TokenRanges::even(64, 2));
  };
  CHECK(at(4) == at(4));
  CHECK_FALSE(at(4) == at(5));
}

TEST_CASE("recorded counts: one iteration of the file after the other") {
  const std::string path = test::scratch("counts.csv");
  std::ofstream(path) << "num_experts,layer,iteration,tokens_per_expert\n"
                         "4,0,0,1 1 1 1\n4,0,1,4 2 1 1\n4,0,2,1 1 2 4\n";
  const RoutingShape shape = shape_of(2, 4, 1, 8);
  CHECK_THROWS_AS(open_recorded(shape, 8, {path, {}, 3, false, false}), InputError);  // one layer for two
  CHECK_THROWS_AS(open_recorded(shape, 8, {path, {}, 4, false, true}), InputError);   // three iterations for four
  const auto loads = open_recorded(shape, 8, {path, {1, 0}, 3, true, true});
  const auto counts = [&] { return expert_counts(*loads->routing(), 1, TokenRanges::even(8, 1)); };
  CHECK(counts().at(0, 0) == 4);
  CHECK(counts().at(0, 3) == 1);
  loads->advance();
  CHECK(counts().at(0, 3) == 4);
  loads->advance();  // starts over
  CHECK(counts().at(0, 0) == 4);
  CHECK_FALSE(loads->routing()->synthetic());
}
