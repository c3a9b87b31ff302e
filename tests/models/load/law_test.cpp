// Laws against the arithmetic of their sources.
#include "models/load/law.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "models/load/synthetic.hpp"

using namespace moesim;
using namespace moesim::load;

namespace {

SyntheticSpec spec_of(Law law, int experts, int top_k = 1, std::int64_t tokens = 120'000) {
  SyntheticSpec spec;
  spec.law = std::move(law);
  spec.shape.experts = experts;
  spec.shape.top_k = top_k;
  spec.shape.tokens = tokens;
  return spec;
}

double sum_of(const std::vector<double>& p) { return std::accumulate(p.begin(), p.end(), 0.0); }

ExpertPlacement contiguous(int experts, int ranks) {
  ExpertPlacement placement;
  for (int e = 0; e < experts; ++e) placement.expert_of_slot.emplace_back(e);
  for (int r = 1; r <= ranks; ++r) placement.slot_begin.push_back(r * experts / ranks);
  return placement;
}

}  // namespace

TEST_CASE("every law gives shares that sum to 1, none above 1 / top_k") {
  for (const LawInfo& info : laws()) {
    for (const int top_k : {1, 2, 8}) {
      CAPTURE(info.name);
      CAPTURE(top_k);
      const std::vector<double> p = probabilities(spec_of({std::string(info.name), {}}, 64, top_k), 0);
      REQUIRE(p.size() == 64);
      CHECK(sum_of(p) == doctest::Approx(1.0));
      CHECK(*std::max_element(p.begin(), p.end()) <= 1.0 / top_k + 1e-12);
      CHECK(*std::min_element(p.begin(), p.end()) > 0.0);
    }
  }
}

TEST_CASE("moeshard: p_i ~ 1/E + a_r for the first k_r = ceil(0.1 E)") {
  // E = 16: k_r = 2, sum = 1 + 2 * 0.6 = 2.2; p_0 = (1/16 + 0.6) / 2.2, p_2 = (1/16) / 2.2.
  const std::vector<double> p = probabilities(spec_of({"moeshard", {}}, 16), 0);
  CHECK(p[0] == doctest::Approx((1.0 / 16 + 0.6) / 2.2));
  CHECK(p[1] == doctest::Approx((1.0 / 16 + 0.6) / 2.2));
  CHECK(p[2] == doctest::Approx((1.0 / 16) / 2.2));
  // 0.1 * 30 is above 3 in binary; k_r is still 3.
  const std::vector<double> thirty = probabilities(spec_of({"moeshard", {}}, 30), 0);
  CHECK(thirty[2] > 2 * thirty[3]);
}

TEST_CASE("moeshard: the straggler factor on 4 GPUs, contiguous, has a closed form") {
  // Rank 0 holds E/4 experts, all k_r hot ones among them (k_r <= E/4): (1/4 + 0.6 k_r) / (1 + 0.6 k_r) * 4.
  // E = 8: (0.25 + 0.6) / 1.6 * 4 = 2.125;  E = 256, k_r = 26: (0.25 + 15.6) / 16.6 * 4 = 3.819.
  for (const int experts : {8, 16, 32, 64, 128, 256}) {
    const double hot = std::ceil(0.1 * experts);
    const double expected = (0.25 + 0.6 * hot) / (1 + 0.6 * hot) * 4;
    CAPTURE(experts);
    CHECK(straggler_factor(contiguous(experts, 4), probabilities(spec_of({"moeshard", {}}, experts), 0)) ==
          doctest::Approx(expected));
  }
}

TEST_CASE("straggler factor: replicas share their expert's load evenly") {
  // Two ranks, experts of 1/2, 1/4, 1/4. Rank 0 holds {0, 1}, rank 1 holds {0, 2}: both carry 1/4 + 1/4.
  ExpertPlacement placement;
  for (const int e : {0, 1, 0, 2}) placement.expert_of_slot.emplace_back(e);
  placement.slot_begin = {0, 2, 4};
  const std::vector<double> p{0.5, 0.25, 0.25};
  CHECK(straggler_factor(placement, p) == doctest::Approx(1.0));
  // Without the replica: rank 0 {0, 1} carries 3/4, the mean is 1/2.
  for (const int e : {0, 1, 2}) placement.expert_of_slot[static_cast<std::size_t>(e)] = LogicalExpert(e);
  placement.expert_of_slot.pop_back();
  placement.slot_begin = {0, 2, 3};
  CHECK(straggler_factor(placement, p) == doctest::Approx(1.5));
}

TEST_CASE("zipf: p_i ~ (i + 1)^-a, by rank when ordered first") {
  SyntheticSpec spec = spec_of({"zipf", {{"exponent", 1.0}}}, 4);
  spec.order = Order::first;
  // 1 + 1/2 + 1/3 + 1/4 = 25/12.
  const std::vector<double> p = probabilities(spec, 0);
  for (std::size_t i = 0; i < 4; ++i) CHECK(p[i] == doctest::Approx(12.0 / 25 / static_cast<double>(i + 1)));
}

TEST_CASE("a share above 1 / top_k is scaled onto the others") {
  // zipf a = 2, E = 4, top-2: weights 144, 36, 16, 9 (of 205). 2 * 144/205 > 1, so expert 0 is in every token, and the
  // second choice is 36 : 16 : 9 of 61.
  SyntheticSpec spec = spec_of({"zipf", {{"exponent", 2.0}}}, 4, 2);
  spec.order = Order::first;
  const std::vector<double> p = probabilities(spec, 0);
  CHECK(p[0] == doctest::Approx(0.5));
  CHECK(p[1] == doctest::Approx(18.0 / 61));
  CHECK(p[2] == doctest::Approx(8.0 / 61));
  CHECK(p[3] == doctest::Approx(4.5 / 61));
}

TEST_CASE("shuffled order: the same shares, elsewhere in every layer") {
  SyntheticSpec spec = spec_of({"zipf", {{"exponent", 1.2}}}, 64);
  spec.order = Order::shuffled;
  std::vector<double> a = probabilities(spec, 0);
  std::vector<double> b = probabilities(spec, 1);
  CHECK(a != b);
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  CHECK(a == b);
  spec.seed = 1;
  CHECK(probabilities(spec, 0) != probabilities(spec_of(spec.law, 64), 0));
}

TEST_CASE("power_law: quantiles of the density x^-A on [1, 0.8 T]") {
  // F(x) = (x^(1-A) - 1) / (h^(1-A) - 1) with h = 0.8 T. A = 2, h = 1000: the median is 2 / (1 + 1/1000) = 1.998.
  // Shares are weights over their sum, so ratios of quantiles are compared: x_3/4 / x_1/2 with
  // x_u = 1 / (1 - u (1 - 1/h)): 1/(1 - 0.74925) / 1.998 = 1.996.
  const int experts = 20'000;
  const std::vector<double> falling =
      falling_shares({"power_law", {{"exponent", 2.0}}}, {1, experts, 17, 1, 1, 1250}, 7, 0);
  // The standard error of an upper quartile from 20,000 draws is about 1.2 % here.
  CHECK(falling[experts / 4] / falling[experts / 2] == doctest::Approx(1.996).epsilon(0.04));
  // A = 1 is log-uniform: x_u = h^u, so x_3/4 / x_1/2 = 1000^(1/4) = 5.62.
  const std::vector<double> flat =
      falling_shares({"power_law", {{"exponent", 1.0}}}, {1, experts, 17, 1, 1, 1250}, 7, 0);
  CHECK(flat[experts / 4] / flat[experts / 2] == doctest::Approx(5.62).epsilon(0.08));
}

TEST_CASE("power_law: few tokens draw from [0.01, 2]") {
  // T k <= E: the spread is at most 200.
  const std::vector<double> falling = falling_shares({"power_law", {{"exponent", 1.2}}}, {1, 256, 1, 1, 1, 16}, 3, 0);
  CHECK(falling.front() / falling.back() < 200.0);
  CHECK(falling.front() / falling.back() > 50.0);
}

TEST_CASE("power_law: no expert above T of the T k copies; the overflow raises the least loaded to one level") {
  const RoutingShape shape{1, 64, 8, 1, 1, 100'000};
  bool capped = false;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<double> p = falling_shares({"power_law", {{"exponent", 1.01}}}, shape, seed, 0);
    CHECK(sum_of(p) == doctest::Approx(1.0));
    CHECK(p.front() <= 1.0 / 8 + 1e-12);
    if (p.front() < 1.0 / 8 - 1e-12) continue;
    capped = true;
    CHECK(p[62] == doctest::Approx(p[63]));
  }
  CHECK(capped);
}

TEST_CASE("lognormal: the hottest eighth carries Phi(sigma - 1.150) of the tokens") {
  // The share of the top fraction q of a log-normal is Phi(sigma - z), z = Phi^-1(1 - q) = 1.1503 for q = 1/8.
  const int experts = 60'000;
  for (const double sigma : {0.48, 1.25}) {
    const std::vector<double> falling =
        falling_shares({"lognormal", {{"sigma", sigma}}}, {1, experts, 1, 1, 1, 1000}, 5, 0);
    const double top = std::accumulate(falling.begin(), falling.begin() + experts / 8, 0.0);
    CHECK(top == doctest::Approx(0.5 * std::erfc(-(sigma - 1.1503) / std::sqrt(2.0))).epsilon(0.02));
  }
}

TEST_CASE("drawn laws draw every layer anew, and the same from the same seed") {
  for (const char* law : {"power_law", "lognormal"}) {
    const RoutingShape shape{2, 64, 2, 1, 1, 1000};
    CHECK(falling_shares({law, {}}, shape, 1, 0) == falling_shares({law, {}}, shape, 1, 0));
    CHECK(falling_shares({law, {}}, shape, 1, 0) != falling_shares({law, {}}, shape, 1, 1));
    CHECK(falling_shares({law, {}}, shape, 1, 0) != falling_shares({law, {}}, shape, 2, 0));
  }
}

TEST_CASE("groups: a group holds at most 1 / groups_per_token of the copies") {
  // zipf a = 3 over 16 experts in 4 groups, 2 groups and 4 experts per token: group 0 would hold nearly everything.
  SyntheticSpec spec = spec_of({"zipf", {{"exponent", 3.0}}}, 16, 4);
  spec.order = Order::first;
  spec.shape.expert_groups = 4;
  spec.shape.groups_per_token = 2;
  const std::vector<double> p = probabilities(spec, 0);
  CHECK(sum_of(p) == doctest::Approx(1.0));
  CHECK(p[0] + p[1] + p[2] + p[3] == doctest::Approx(0.5));
  CHECK(p[0] == doctest::Approx(0.25));
  CHECK(p[4] > p[8]);
}

TEST_CASE("faults: all at once, with the bound and the nearest name") {
  SyntheticSpec spec = spec_of({"ziff", {}}, 10, 11, 0);
  spec.affinity = 1.5;
  std::string text = format_diagnostics(faults(spec));
  for (const char* part : {"unknown routing law 'ziff'", "did you mean 'zipf'?", "top_k is 11; it must be in [1, 10]",
                           "tokens is 0; it must be in [1,", "affinity is 1.5; it must be in [0, 1]"})
    CHECK_MESSAGE(text.find(part) != std::string::npos, part << " in\n" << text);
  CHECK_THROWS_AS(make_synthetic(spec), InputError);
  CHECK_THROWS_AS(probabilities(spec, 0), InputError);

  spec = spec_of({"zipf", {{"exponents", 1}, {"exponent", -1}}}, 10);
  text = format_diagnostics(faults(spec));
  for (const char* part : {"law 'zipf' has no parameter 'exponents'", "did you mean 'exponent'?",
                           "exponent of law 'zipf' is -1; it must be in [0, 10]"})
    CHECK_MESSAGE(text.find(part) != std::string::npos, part << " in\n" << text);
  spec = spec_of({"zipf", {{"exponent", std::nan("")}}}, 10);
  CHECK(faults(spec).size() == 1);

  spec = spec_of({}, 10);
  spec.shape.expert_groups = 3;
  CHECK(format_diagnostics(faults(spec)).find("10 experts do not divide into 3 groups") != std::string::npos);
  spec = spec_of({}, 12, 5);
  spec.shape.expert_groups = 3;
  spec.shape.groups_per_token = 2;
  CHECK(format_diagnostics(faults(spec)).find("not a multiple of groups_per_token") != std::string::npos);
  spec.shape.top_k = 10;
  CHECK(format_diagnostics(faults(spec)).find("top_k is 10; it must be in [1, 8]") != std::string::npos);
}
