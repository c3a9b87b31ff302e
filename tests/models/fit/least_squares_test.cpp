#include "models/fit/least_squares.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "models/fit/statistics.hpp"

using namespace moesim::fit;

namespace {

// y = a + b x, both parameters free.
Problem line(const std::vector<double>& x, const std::vector<double>& y) {
  Problem p;
  p.parameters = {{1, 1, 3, 1e-6, 1e6}, {1, 1, 3, 1e-6, 1e6}};
  for (const double v : y) p.log_measured.push_back(std::log(v));
  p.log_model = [x](std::span<const double> theta, std::span<double> out) {
    for (std::size_t i = 0; i < x.size(); ++i) out[i] = std::log(theta[0] + theta[1] * x[i]);
  };
  return p;
}

}  // namespace

TEST_CASE("a line through exact points is found") {
  // y = 5 + 2 x
  std::vector<double> x;
  std::vector<double> y;
  for (int i = 0; i < 200; ++i) {
    x.push_back(i);
    y.push_back(5 + 2.0 * i);
  }
  const Solution s = solve(line(x, y));
  CHECK(s.parameters[0] == doctest::Approx(5).epsilon(0.002));
  CHECK(s.parameters[1] == doctest::Approx(2).epsilon(0.002));
}

TEST_CASE("a tenth of the rows being five times off hardly moves the fit") {
  std::mt19937 random(7);
  std::normal_distribution<double> noise(0, 0.03);
  std::vector<double> x;
  std::vector<double> y;
  for (int i = 1; i <= 500; ++i) {
    x.push_back(i);
    y.push_back((5 + 2.0 * i) * std::exp(noise(random)) * (i % 10 == 0 ? 5 : 1));
  }
  const Solution s = solve(line(x, y));
  CHECK(s.parameters[1] == doctest::Approx(2).epsilon(0.02));
}

TEST_CASE("what rows say nothing about stays at its prior, and bounds hold") {
  Problem p = line({0, 0, 0}, {5, 5, 5});  // b never shows
  p.parameters[1].prior = p.parameters[1].start = 3;
  p.parameters[1].spread = 0.5;
  const Solution free = solve(p);
  CHECK(free.parameters[0] == doctest::Approx(5).epsilon(0.01));
  CHECK(free.parameters[1] == doctest::Approx(3).epsilon(0.01));
  p.parameters[0].high = 4;
  CHECK(solve(p).parameters[0] == doctest::Approx(4));
}

TEST_CASE("a fit is the same twice, to the last bit") {
  std::vector<double> x;
  std::vector<double> y;
  std::mt19937 random(3);
  std::lognormal_distribution<double> noise(0, 0.1);
  for (int i = 0; i < 100; ++i) {
    x.push_back(i);
    y.push_back((1 + i) * noise(random));
  }
  const Solution a = solve(line(x, y));
  const Solution b = solve(line(x, y));
  CHECK(a.parameters == b.parameters);
  CHECK(a.loss == b.loss);
}

TEST_CASE("quantiles are linear between order statistics") {
  CHECK(quantile({}, 0.5) == 0);
  CHECK(quantile({3}, 0.9) == 3);
  CHECK(quantile({4, 1, 3, 2}, 0.5) == doctest::Approx(2.5));
  CHECK(quantile({10, 0}, 0.9) == doctest::Approx(9));
  const Spread s = spread({-3, 1, 2});  // sizes 1, 2, 3
  CHECK(s.median == 2);
  CHECK(s.p90 == doctest::Approx(2.8));
  CHECK(s.bias == 1);
}
