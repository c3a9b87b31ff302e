#include "backend/executor.hpp"

#include <algorithm>

namespace moesim::backend {

Picoseconds Measurement::median() const {
  std::vector<Picoseconds> sorted = makespans;
  if (sorted.empty()) return {};
  std::sort(sorted.begin(), sorted.end());
  return sorted[(sorted.size() - 1) / 2];
}

double Measurement::spread() const {
  if (makespans.empty() || median().value() == 0) return 0;
  const auto [fastest, slowest] = std::minmax_element(makespans.begin(), makespans.end());
  return (*slowest - *fastest) / median();
}

}  // namespace moesim::backend
