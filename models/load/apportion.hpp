// Integers in proportion.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moesim::load {

// Integers that sum to `total`, each the floor or the ceiling of its quota: largest remainders, ties to the lower
// index. The quotas sum to `total` up to rounding.
std::vector<std::int64_t> apportion(std::span<const double> quotas, std::int64_t total);

}  // namespace moesim::load
