#include "models/load/apportion.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

namespace moesim::load {

std::vector<std::int64_t> apportion(std::span<const double> quotas) {
  std::vector<std::int64_t> out(quotas.size());
  std::vector<double> remainder(quotas.size());
  double sum = 0;
  std::int64_t given = 0;
  for (std::size_t i = 0; i < quotas.size(); ++i) {
    sum += quotas[i];
    const double nearest = std::round(quotas[i]);
    const bool whole = std::abs(quotas[i] - nearest) < 1e-7;  // 2.9999999 is 3, not 2 and a large remainder
    out[i] = static_cast<std::int64_t>(whole ? nearest : std::floor(quotas[i]));
    remainder[i] = whole ? 0.0 : quotas[i] - std::floor(quotas[i]);
    given += out[i];
  }
  std::vector<std::size_t> order(quotas.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return remainder[a] > remainder[b]; });
  const auto missing = static_cast<std::size_t>(std::max<std::int64_t>(0, std::llround(sum) - given));
  for (std::size_t i = 0; i < std::min(missing, order.size()); ++i) ++out[order[i]];
  return out;
}

}  // namespace moesim::load
