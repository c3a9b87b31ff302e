// Sizes of a routing.
#pragma once

#include <cstdint>

namespace moesim::load {

// Sizes that a routing has to have. Every MoE layer is the same.
struct RoutingShape {
  int moe_layers = 1;
  int experts = 0;
  int top_k = 1;
  int expert_groups = 1;     // DeepSeek's n_group: groups are equal contiguous ranges of expert ids
  int groups_per_token = 1;  // topk_group: a token's experts lie in this many groups
  std::int64_t tokens = 0;   // of the whole workload
};

}  // namespace moesim::load
