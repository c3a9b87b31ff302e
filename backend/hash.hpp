// The hash that the model's numbers are drawn from (numbers.hpp), for the processor and for GPU kernels.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define MOESIM_HASH __host__ __device__ constexpr
#else
#define MOESIM_HASH constexpr
#endif

namespace moesim::backend::hash {

// SplitMix64's finalizer (Steele et al., OOPSLA'14).
MOESIM_HASH std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// [-1, 1) in steps of 2^-23: exact in float.
MOESIM_HASH float uniform(std::uint64_t h) {
  return static_cast<float>(static_cast<std::int32_t>(h >> 40) - (1 << 23)) * 0x1p-23F;
}

// Key of one matrix of a stack whose name hashes to `name`.
MOESIM_HASH std::uint64_t of_matrix(std::uint64_t name, std::int64_t matrix) {
  return mix(name + static_cast<std::uint64_t>(matrix));
}

// Its number at a place, in [-1, 1).
MOESIM_HASH float number(std::uint64_t key, std::int64_t row, std::int64_t col) {
  return uniform(mix((key ^ static_cast<std::uint64_t>(row) * 0xd1342543de82ef95ULL) +
                     static_cast<std::uint64_t>(col) * 0x2545f4914f6cdd1dULL));
}

}  // namespace moesim::backend::hash
