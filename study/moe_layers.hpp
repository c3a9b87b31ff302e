// The MoE layers of a Timeline: gate, dispatch, experts and combine of one transformer layer in one pass, on a rank
// from when the first of these ops could begin to the end of the last.
#pragma once

#include <map>
#include <utility>
#include <vector>

#include "moesim/plan.hpp"
#include "plan/timeline_file.hpp"

namespace moesim::study {

bool in_moe_layer(const TimelineOp& op);

// Summed over the ranks that have the layer.
struct MoeLayerTime {
  Picoseconds sum;
  int ranks = 0;
  [[nodiscard]] Picoseconds mean() const { return ranks > 0 ? sum / ranks : Picoseconds(0); }
};
std::map<std::pair<Layer, Pass>, MoeLayerTime> moe_layers(const std::vector<TimelineOp>& ops, const Timeline& timeline);

}  // namespace moesim::study
