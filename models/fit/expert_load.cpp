#include "models/fit/expert_load.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moesim::fit {
namespace {

// SplitMix64 (Steele et al., OOPSLA 2014): the i-th number of a stream, in [0, 1).
double uniform(std::uint64_t seed, std::uint64_t i) {
  std::uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1.0p-53;
}

// Rounded counts that sum to `total`, the rounding error spread over the largest remainders.
std::vector<std::int64_t> apportion(const std::vector<double>& weights, std::int64_t total) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<std::int64_t> counts;
  std::vector<std::pair<double, std::size_t>> remainders;
  std::int64_t given = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double exact = weights[i] / sum * static_cast<double>(total);
    counts.push_back(static_cast<std::int64_t>(exact));
    given += counts.back();
    remainders.emplace_back(static_cast<double>(counts.back()) - exact, i);
  }
  std::sort(remainders.begin(), remainders.end());
  for (std::size_t i = 0; given < total; i = (i + 1) % remainders.size(), ++given) ++counts[remainders[i].second];
  return counts;
}

}  // namespace

std::vector<std::int32_t> balanced_load(const ExpertLoadShape& s) {
  const std::int64_t stride = (s.experts + s.top_k - 1) / s.top_k;
  const std::int64_t local = s.experts / s.ep;
  std::vector<std::int32_t> rows(static_cast<std::size_t>(local));
  for (std::int64_t t = 0; t < s.tokens; ++t) {
    const std::int64_t first = s.tokens >= stride ? t : t * stride / s.tokens;
    for (std::int64_t i = 0; i < s.top_k; ++i) {
      const std::int64_t expert = (first + i * stride) % s.experts;
      if (expert < local) ++rows[static_cast<std::size_t>(expert)];
    }
  }
  return rows;
}

std::vector<std::int32_t> power_law_load(const ExpertLoadShape& s, double exponent, std::uint64_t seed) {
  const std::int64_t copies = s.tokens * s.top_k;
  const double low = copies > s.experts ? 1 : 0.01;
  const double high = std::max(low, copies > s.experts ? 0.8 * static_cast<double>(s.tokens) : 2);
  const double power = 1 - exponent;
  std::vector<double> weights;
  for (std::int64_t e = 0; e < s.experts; ++e) {
    const double u = uniform(seed, static_cast<std::uint64_t>(e));
    // Inverse of the distribution function of x^-a on [low, high].
    weights.push_back(
        std::abs(power) < 1e-9
            ? low * std::pow(high / low, u)
            : std::pow(u * (std::pow(high, power) - std::pow(low, power)) + std::pow(low, power), 1 / power));
  }
  std::vector<std::int64_t> counts = apportion(weights, copies);
  std::int64_t overflow = 0;
  for (std::int64_t& c : counts) {
    overflow += std::max<std::int64_t>(c - s.tokens, 0);
    c = std::min(c, s.tokens);
  }
  while (overflow > 0) {
    // Level the least loaded up to the next one above, together.
    std::vector<std::size_t> order(counts.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return counts[a] < counts[b]; });
    for (const std::size_t e : order) {
      if (overflow == 0) break;
      if (counts[e] >= s.tokens) continue;
      ++counts[e];
      --overflow;
    }
  }
  const auto local = static_cast<std::size_t>(s.experts / s.ep);
  std::size_t hottest = 0;
  std::int64_t most = -1;
  for (std::size_t rank = 0; rank * local < counts.size(); ++rank) {
    const auto begin = counts.begin() + static_cast<std::ptrdiff_t>(rank * local);
    const std::int64_t sum = std::accumulate(begin, begin + static_cast<std::ptrdiff_t>(local), std::int64_t{0});
    if (sum > most) {
      most = sum;
      hottest = rank;
    }
  }
  std::vector<std::int32_t> rows;
  for (std::size_t i = 0; i < local; ++i) rows.push_back(static_cast<std::int32_t>(counts[hottest * local + i]));
  return rows;
}

}  // namespace moesim::fit
