// Random numbers as a pure function of a key and a counter, so that any token of any layer is reproducible on its own
// (the idea: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11; the mixers: SplitMix64's finalizer,
// Steele et al., OOPSLA'14, and the multiply-fold of wyhash).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <span>
#include <utility>

namespace moesim::load {

__extension__ using uint128 = unsigned __int128;
__extension__ using int128 = __int128;

constexpr std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// What a key is for; two purposes never share a stream.
enum class Purpose : std::uint64_t {
  weights = 1,
  order,
  lines,
  multiplier,
  tokens,
  follow,
  permutation,
  drift,
  jump,
  spread
};

constexpr std::uint64_t key_of(std::uint64_t seed, Purpose purpose, int layer) {
  return mix(mix(seed ^ mix(static_cast<std::uint64_t>(purpose))) + static_cast<std::uint64_t>(layer));
}

// The draws 0, 1, 2, ... of one counter value (a token, an expert) under a key.
class Draws {
 public:
  constexpr Draws(std::uint64_t key, std::uint64_t counter) : state_(mix(key + counter * 0xd1342543de82ef95ULL)) {}
  constexpr std::uint64_t next() {
    state_ += 0xa0761d6478bd642fULL;
    const uint128 product = static_cast<uint128>(state_) * (state_ ^ 0xe7037ed1a0b428dbULL);
    return static_cast<std::uint64_t>(product >> 64) ^ static_cast<std::uint64_t>(product);
  }
  constexpr double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }  // [0, 1)
  constexpr std::uint64_t below(std::uint64_t n) {                                    // [0, n), bias n / 2^64
    return static_cast<std::uint64_t>((static_cast<uint128>(next()) * n) >> 64);
  }

 private:
  std::uint64_t state_;
};

inline double normal(Draws& draws) {  // Box and Muller
  const double radius = std::sqrt(-2 * std::log(1 - draws.uniform()));
  return radius * std::cos(2 * std::numbers::pi * draws.uniform());
}

template <class T>
constexpr void shuffle(std::span<T> items, Draws& draws) {  // Fisher-Yates
  for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[draws.below(i)]);
}

}  // namespace moesim::load
