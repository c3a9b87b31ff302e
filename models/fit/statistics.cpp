#include "models/fit/statistics.hpp"

#include <algorithm>
#include <cmath>

namespace moesim::fit {

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  const double at = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::ptrdiff_t>(at);
  std::nth_element(values.begin(), values.begin() + below, values.end());
  const double low = values[static_cast<std::size_t>(below)];
  if (static_cast<std::size_t>(below) + 1 == values.size()) return low;
  const double high = *std::min_element(values.begin() + below + 1, values.end());
  return low + (high - low) * (at - static_cast<double>(below));
}

Spread spread(const std::vector<double>& residuals) {
  std::vector<double> sizes;
  for (const double r : residuals) sizes.push_back(std::abs(r));
  return {quantile(sizes, 0.5), quantile(sizes, 0.9), quantile(residuals, 0.5)};
}

}  // namespace moesim::fit
