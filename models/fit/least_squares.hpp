// Robust fit of a model with positive parameters to measured times.
#pragma once

#include <functional>
#include <span>
#include <vector>

namespace moesim::fit {

struct Parameter {
  double start, prior, spread, low, high;
};

// Minimizes  sum_i rho((ln f_i(theta) - ln y_i) / scale) + sum_j ((ln theta_j - ln prior_j) / spread_j)^2
// over low <= theta <= high, with rho(r) = 2 (sqrt(1 + r^2) - 1): quadratic for small residuals, linear for outliers,
// so that a row whose measurement went wrong counts little.
struct Problem {
  std::vector<Parameter> parameters;
  // Fills `out` with ln f_i(theta) for every row. Called from several threads at once.
  std::function<void(std::span<const double> theta, std::span<double> out)> log_model;
  std::vector<double> log_measured;
  double scale = 0.05;
  int iterations = 40;
};

struct Solution {
  std::vector<double> parameters;
  double loss = 0;
};

// Levenberg-Marquardt on iteratively re-weighted residuals; derivatives by differences, coarse (3 %) and then fine, for
// the models are only piecewise smooth in their parameters. Deterministic, whatever the number of threads.
Solution solve(const Problem& problem);

}  // namespace moesim::fit
