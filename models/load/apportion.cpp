#include "models/load/apportion.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <numeric>

namespace moesim::load {

std::vector<std::int64_t> apportion(std::span<const double> quotas, std::int64_t total) {
  std::vector<std::int64_t> out(quotas.size());
  std::vector<double> remainder(quotas.size());
  std::int64_t missing = total;
  for (std::size_t i = 0; i < quotas.size(); ++i) {
    const double nearest = std::round(quotas[i]);
    const bool whole = std::abs(quotas[i] - nearest) < 1e-7;  // 2.9999999 is 3, not 2 and a large remainder
    out[i] = static_cast<std::int64_t>(whole ? nearest : std::floor(quotas[i]));
    remainder[i] = whole ? 0.0 : quotas[i] - std::floor(quotas[i]);
    missing -= out[i];
  }
  std::vector<std::size_t> order(quotas.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return remainder[a] > remainder[b]; });
  for (std::size_t i = 0; i < order.size() && missing > 0; ++i, --missing) ++out[order[i]];
  for (std::size_t i = order.size(); i-- > 0 && missing < 0;) {  // rounding of the quotas themselves
    if (out[order[i]] == 0) continue;
    --out[order[i]];
    ++missing;
  }
  assert(missing == 0);
  return out;
}

}  // namespace moesim::load
