#include "study/iterations.hpp"

#include <algorithm>

namespace moesim::study {

IterationPoint point_of(const Summary& s) {
  return {s.step, s.moe_layer, s.parts[static_cast<std::size_t>(Part::parameters)], s.straggler, s.memory.total};
}

void IterationMean::add(const Summary& s) {
  Summary next = s;
  if (count_ > 0) {
    if (worst_.memory.total >= s.memory.total) next.memory = worst_.memory;
    next.sent = std::max(worst_.sent, s.sent);
    next.received = std::max(worst_.received, s.received);
    next.expert_flops_max = std::max(worst_.expert_flops_max, s.expert_flops_max);
    next.expert_flops_min = std::min(worst_.expert_flops_min, s.expert_flops_min);
    next.network_early = std::max(worst_.network_early, s.network_early);
    next.network_late = std::max(worst_.network_late, s.network_late);
    next.fits = worst_.fits && s.fits;
  }
  worst_ = std::move(next);
  ++count_;
  step_ += s.step;
  moe_layer_ += s.moe_layer;
  straggler_ += s.straggler;
  dropped_ += s.dropped;
  for (std::size_t p = 0; p < part_count; ++p) parts_[p] += s.parts[p];
}

Summary IterationMean::summary() const {
  Summary out = worst_;
  if (count_ == 0) return out;
  out.step = step_ / count_;
  out.moe_layer = moe_layer_ / count_;
  out.straggler = straggler_ / static_cast<double>(count_);
  out.dropped = dropped_ / static_cast<double>(count_);
  for (std::size_t p = 0; p < part_count; ++p) out.parts[p] = parts_[p] / count_;
  if (count_ > 1) out.bottleneck = "in the last iteration " + out.bottleneck;
  return out;
}

}  // namespace moesim::study
