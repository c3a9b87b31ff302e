// What a strategy that adapts may know when it plans an iteration: the loads of iterations before it, and what it kept.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "moesim/routing.hpp"

namespace moesim::strategies {

// What a strategy keeps from one iteration to the next, in a type of its own.
struct StrategyState {
  virtual ~StrategyState() = default;
  StrategyState() = default;
  StrategyState(const StrategyState&) = delete;
  StrategyState& operator=(const StrategyState&) = delete;
};

class LoadHistory {
 public:
  // Hecate estimates loads by a moving average over 5 iterations (arXiv 2502.02581, section 4).
  explicit LoadHistory(std::size_t window = 5) : window_(window) {}
  // An iteration is over.
  void record(const Routing& routing);
  [[nodiscard]] int iterations() const { return iterations_; }
  // [MoE layer][expert]: tokens, mean over the last iterations, at most `window`; before the first, one each.
  [[nodiscard]] std::vector<std::vector<double>> estimate(const Routing& shape) const;

  std::unique_ptr<StrategyState> state;

 private:
  using Counts = std::vector<std::vector<std::int32_t>>;
  std::size_t window_;
  int iterations_ = 0;
  std::deque<Counts> last_;
};

}  // namespace moesim::strategies
