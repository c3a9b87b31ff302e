// The MoE layers of a Timeline: gate, dispatch, experts and combine of one transformer layer, on a rank from when the
// first of these ops could begin to the end of the last; where a plan trains, that of the backward pass is added.
#pragma once

#include <map>
#include <utility>
#include <vector>

#include "moesim/plan.hpp"
#include "plan/timeline_file.hpp"

namespace moesim::study {

bool in_moe_layer(const TimelineOp& op);

// Summed over the ranks that have the layer in their forward pass.
struct MoeLayerTime {
  Picoseconds sum;
  int ranks = 0;
  [[nodiscard]] Picoseconds mean() const { return ranks > 0 ? sum / ranks : Picoseconds(0); }
};
std::map<Layer, MoeLayerTime> moe_layers(const std::vector<TimelineOp>& ops, const Timeline& timeline);

}  // namespace moesim::study
