// Deterministic choice with exact counts: systematic sampling driven by a lattice.
//
// Token t picks the items of a Line (line.hpp) of unit T at v, v + T, ... with v = (a t + b) mod T, gcd(a, T) = 1.
// Over any T tokens in a row v takes every value once, so expert e is used exactly n_e times: T pi_e to the nearest
// integers (largest remainders). Over n tokens in a row its count is that of lattice points in an arc, within O(log T)
// of n n_e / T, because a is chosen so that the continued fraction of a / T has small quotients. Measured at
// T = 262,144 with 128 experts, even ranges of 3 to 256 owners: 0.8 root mean square, 4 at worst. (Within 1 on every
// range is impossible for most laws already with one expert per token: Fraenkel's conjecture on balanced words.)
// Groups: a first line picks groups; the place inside the N_g units where a token meets group g is its v on that
// group's own line of unit N_g. So each expert is still one arc, and counts are as exact.
//
// Limit: the experts that one token combines are few fixed sets per layer (about 2 E of them). Counts are exact; how
// many ranks a token touches is right on average over layers only. Use random sampling where pairs matter.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "models/load/inclusion.hpp"
#include "models/load/layer_sampler.hpp"
#include "models/load/line.hpp"

namespace moesim::load {

// Multipliers a for consecutive layers: coprime to `period`, with small quotients of a / T, and of the ratio of each to
// the one before, so that neighbouring layers are uncorrelated.
std::vector<std::int64_t> lattice_multipliers(std::int64_t period, int layers, std::uint64_t seed);

class SystematicSampler final : public LayerSampler {
 public:
  // The period T is shape.tokens. `key` orders the lines and sets b.
  SystematicSampler(const Inclusion& inclusion, const RoutingShape& shape, std::int64_t multiplier, std::uint64_t key);
  void assign(std::int64_t first, std::span<ExpertIndex> out) const override;

 private:
  std::int64_t period_;
  std::int64_t multiplier_;
  std::int64_t offset_;
  int top_k_;
  std::size_t group_size_;
  std::optional<Line> groups_;  // where there is more than one
  std::vector<Line> experts_;   // [group]
};

}  // namespace moesim::load
