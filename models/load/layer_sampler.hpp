// One layer's choice of experts, as a pure function of the token.
#pragma once

#include <cstdint>
#include <span>

#include "moesim/routing.hpp"

namespace moesim::load {

class LayerSampler {
 public:
  LayerSampler() = default;
  LayerSampler(const LayerSampler&) = delete;
  LayerSampler& operator=(const LayerSampler&) = delete;
  virtual ~LayerSampler() = default;
  // As Routing::assign.
  virtual void assign(std::int64_t first, std::span<ExpertIndex> out) const = 0;
};

}  // namespace moesim::load
