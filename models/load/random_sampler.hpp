// Independent tokens: each draws its experts without replacement, with exactly the layer's inclusion probabilities
// (independent lanes of shuffled lines, line.hpp). Several shuffles take turns at random, so that the probability of a
// pair is near that of drawing one by one (within about 5 % of it per pair and layer at 256 experts, top-8).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "models/load/inclusion.hpp"
#include "models/load/layer_sampler.hpp"
#include "models/load/line.hpp"

namespace moesim::load {

class RandomSampler final : public LayerSampler {
 public:
  RandomSampler(const Inclusion& inclusion, const RoutingShape& shape, std::uint64_t key);
  void assign(std::int64_t first, std::span<ExpertIndex> out) const override;

 private:
  // The same items in differently shuffled lanes, a power of two of them.
  class Shuffles {
   public:
    // `experts`: how many items all sets of shuffles hold together, which bounds the memory.
    Shuffles(std::span<const double> inclusion, std::size_t experts, std::uint64_t key);
    [[nodiscard]] const Lanes& any(std::uint64_t bits) const { return lanes_[bits & (lanes_.size() - 1)]; }

   private:
    std::vector<Lanes> lanes_;
  };

  std::uint64_t key_;
  int top_k_;
  std::size_t groups_per_token_;
  std::size_t group_size_;
  std::vector<Shuffles> groups_;   // one, where there is more than one group
  std::vector<Shuffles> experts_;  // [group]
};

}  // namespace moesim::load
