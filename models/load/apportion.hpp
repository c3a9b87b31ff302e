// Integers in proportion.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moesim::load {

// Integers that sum to round(sum of quotas), each the floor or the ceiling of its quota: largest remainders, ties to
// the lower index.
std::vector<std::int64_t> apportion(std::span<const double> quotas);

}  // namespace moesim::load
