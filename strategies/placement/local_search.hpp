// Our own solver: how many replicas each expert gets and where they go, found together.
//
// Balance comes first: no GPU above (1 + tolerance) * lower bound where the search can reach that. Slots that balance
// does not need then cut the traffic between nodes:
// - local_first dispatch: every further node that holds an expert keeps 1/N of its tokens at home (balance.hpp), so
// spare
//   slots go to the hottest experts, one node after the other, in numbers of replicas that keep all shares equal: 1 ...
//   N, 2 N, 3 N, ... for N nodes.
// - expert groups (DeepSeek's group-limited routing, or blocks of experts that are used together): a token that finds
// its
//   experts on one node is sent there once. Groups stay whole on a node but for what balance asks for.
// The tolerance is the knob between the two: a front of (max/mean, traffic) is a sweep over it.
#pragma once

#include <span>

#include "strategies/placement/problem.hpp"

namespace moesim::placement {

struct SearchOptions {
  Dispatch dispatch = Dispatch::local_first;
  int groups = 1;           // expert groups of equal size, experts numbered group by group; 1 = none
  double tolerance = 5e-4;  // allowed maximum above the lower bound
};

// One layer for Mode::return_home. Fills every slot; slots >= experts, slots_per_gpu <= experts.
ExpertPlacement search_layer(std::span<const double> loads, const ClusterShape& shape, const SearchOptions& options);

}  // namespace moesim::placement
