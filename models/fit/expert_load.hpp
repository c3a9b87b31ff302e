// Which rank of an expert-parallel group public benchmarks time, and the rows of its experts.
#pragma once

#include <cstdint>
#include <vector>

namespace moesim::fit {

struct ExpertLoadShape {
  std::int64_t tokens = 1, top_k = 1, experts = 1;
  int ep = 1;
};

// Balanced: token t's i-th expert is (t + i s) mod E, s = ceil(E / k); of fewer than s tokens, floor(t s / T) + i s.
// Rows of the first rank's experts.
std::vector<std::int32_t> balanced_load(const ExpertLoadShape& shape);

// Skewed: a weight per expert from a power law of density x^-a on [1, 0.8 T] when T k > E, on [0.01, 2] otherwise;
// scaled to T k, rounded, none above T with the overflow to the least loaded; rows of the rank with the largest sum.
std::vector<std::int32_t> power_law_load(const ExpertLoadShape& shape, double exponent, std::uint64_t seed);

}  // namespace moesim::fit
