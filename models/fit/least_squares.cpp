#include "models/fit/least_squares.hpp"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

#include "support/parallel.hpp"

namespace moesim::fit {
namespace {

using Eigen::MatrixXd;
using Eigen::VectorXd;

class Solver {
 public:
  explicit Solver(const Problem& problem)
      : problem_(problem), rows_(problem.log_measured.size()), count_(problem.parameters.size()) {}

  Solution run() {
    VectorXd x(static_cast<Eigen::Index>(count_));
    for (std::size_t j = 0; j < count_; ++j)
      x[index(j)] =
          std::log(std::clamp(problem_.parameters[j].start, problem_.parameters[j].low, problem_.parameters[j].high));
    double loss = 0;
    for (const double step : {0.03, 0.005}) loss = descend(x, step);
    Solution out;
    out.loss = loss;
    for (std::size_t j = 0; j < count_; ++j) out.parameters.push_back(std::exp(x[index(j)]));
    return out;
  }

 private:
  static Eigen::Index index(std::size_t i) { return static_cast<Eigen::Index>(i); }

  [[nodiscard]] std::vector<double> parameters(const VectorXd& x) const {
    std::vector<double> out(count_);
    for (std::size_t j = 0; j < count_; ++j)
      out[j] = std::clamp(std::exp(x[index(j)]), problem_.parameters[j].low, problem_.parameters[j].high);
    return out;
  }

  void residuals(const VectorXd& x, VectorXd& out) const {
    out.resize(index(rows_));
    problem_.log_model(parameters(x), {out.data(), rows_});
    for (std::size_t i = 0; i < rows_; ++i) out[index(i)] = (out[index(i)] - problem_.log_measured[i]) / problem_.scale;
  }

  [[nodiscard]] double prior(const VectorXd& x, std::size_t j) const {
    return (x[index(j)] - std::log(problem_.parameters[j].prior)) / problem_.parameters[j].spread;
  }

  [[nodiscard]] double loss_of(const VectorXd& x, const VectorXd& r) const {
    double sum = 0;
    for (Eigen::Index i = 0; i < r.size(); ++i) sum += 2 * (std::sqrt(1 + r[i] * r[i]) - 1);
    for (std::size_t j = 0; j < count_; ++j) sum += prior(x, j) * prior(x, j);
    return sum;
  }

  double descend(VectorXd& x, double step) const {
    VectorXd r;
    residuals(x, r);
    double loss = loss_of(x, r);
    double damping = 1e-2;
    for (int iteration = 0; iteration < problem_.iterations; ++iteration) {
      MatrixXd jacobian(index(rows_), index(count_));
      parallel_for(static_cast<int>(count_), [&](int j) {
        // Towards the inside, where the parameter stands at a bound.
        const Parameter& p = problem_.parameters[static_cast<std::size_t>(j)];
        const double h = x[j] + step <= std::log(p.high) ? step : -step;
        VectorXd moved = x;
        moved[j] += h;
        VectorXd at;
        residuals(moved, at);
        jacobian.col(j) = (at - r) / h;
      });
      const VectorXd weight = (1 + r.array().square()).rsqrt();  // rho'(r) / (2 r)
      MatrixXd normal = jacobian.transpose() * weight.asDiagonal() * jacobian;
      VectorXd gradient = jacobian.transpose() * (weight.array() * r.array()).matrix();
      for (std::size_t j = 0; j < count_; ++j) {
        const double spread = problem_.parameters[j].spread;
        normal(index(j), index(j)) += 1 / (spread * spread);
        gradient[index(j)] += prior(x, j) / spread;
      }
      bool better = false;
      for (int attempt = 0; attempt < 8 && !better; ++attempt) {
        MatrixXd damped = normal;
        damped.diagonal() *= 1 + damping;
        const VectorXd next = bounded(x - damped.ldlt().solve(gradient));
        VectorXd at;
        residuals(next, at);
        const double lower = loss_of(next, at);
        better = lower < loss;
        if (better) {
          const bool done = loss - lower < 1e-4 * loss;
          x = next;
          r = at;
          loss = lower;
          damping = std::max(damping / 5, 1e-6);
          if (done) return loss;
        } else {
          damping *= 5;
        }
      }
      if (!better) return loss;
    }
    return loss;
  }

  [[nodiscard]] VectorXd bounded(VectorXd x) const {
    for (std::size_t j = 0; j < count_; ++j)
      x[index(j)] =
          std::clamp(x[index(j)], std::log(problem_.parameters[j].low), std::log(problem_.parameters[j].high));
    return x;
  }

  const Problem& problem_;
  std::size_t rows_;
  std::size_t count_;
};

}  // namespace

Solution solve(const Problem& problem) { return Solver(problem).run(); }

}  // namespace moesim::fit
