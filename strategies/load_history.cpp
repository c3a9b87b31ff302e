#include "strategies/load_history.hpp"

namespace moesim::strategies {

void LoadHistory::record(const Routing& routing) {
  Counts counts;
  const TokenRanges all = TokenRanges::even(routing.tokens(), 1);
  for (int l = 0; l < routing.moe_layers(); ++l) {
    const Table table = expert_counts(routing, l, all);
    counts.emplace_back(table.cells().begin(), table.cells().end());
  }
  last_.push_back(std::move(counts));
  if (last_.size() > window_) last_.pop_front();
  ++iterations_;
}

std::vector<std::vector<double>> LoadHistory::estimate(const Routing& shape) const {
  const auto layers = static_cast<std::size_t>(shape.moe_layers());
  const auto experts = static_cast<std::size_t>(shape.experts());
  if (last_.empty()) return {layers, std::vector<double>(experts, 1.0)};
  std::vector<std::vector<double>> out(layers, std::vector<double>(experts));
  for (const Counts& counts : last_)
    for (std::size_t l = 0; l < layers; ++l)
      for (std::size_t e = 0; e < experts; ++e) out[l][e] += counts[l][e] / static_cast<double>(last_.size());
  return out;
}

}  // namespace moesim::strategies
