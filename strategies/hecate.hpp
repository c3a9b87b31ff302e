// Hecate and its two halves (the paper's ablation) are one strategy with parts switched off.
#pragma once

#include "strategies/strategy.hpp"

namespace moesim::strategies {

struct HecateParts {
  bool sharding = true;         // algorithm 2; otherwise experts stay where contiguous placement puts them
  bool materialization = true;  // algorithm 1; otherwise owners alone compute
};
Plan plan_hecate(const Input& in, const HecateParts& parts);
std::vector<OptionSpec> hecate_options(const HecateParts& parts);

// What passes on the compute stream beside the gathering of one layer's experts: its attention block, forward.
Picoseconds attention_time(const Input& in);
// What all GPUs of a node together receive from other nodes; on one node, what a GPU receives from its neighbours.
BytesPerSecond gathering_bandwidth(const Cluster& cluster);

}  // namespace moesim::strategies
