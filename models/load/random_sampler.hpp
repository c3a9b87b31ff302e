// Independent tokens: each draws its experts without replacement, with exactly the layer's inclusion probabilities
// (independent lanes, line.hpp). Differently shuffled lanes take turns at random, every 64 tokens so that they stay in
// the cache. That brings the probability of a pair near that of drawing one by one: its standard deviation over the
// pairs of a layer is about 5 % of it at 256 experts and top-8, or at 8 experts and top-2.
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
