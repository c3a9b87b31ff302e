// Our own solver for Mode::stay: replicas go to GPUs so that tokens move little between layers and inside them, with no
// GPU above its share of the work. All layers are placed together: each takes its place given its neighbours, sweep
// after sweep, by exchanges of two replicas whose effect on the cost is exact.
#pragma once

#include <vector>

#include "strategies/placement/problem.hpp"

namespace moesim::placement {

struct AffinityOptions {
  double tolerance = 0.01;  // allowed maximum of a GPU above the lower bound
  int sweeps = 12;          // at most; a sweep that gains less than 0.1 % is the last
};

// What a token row costs, in units of a way inside a node (1 / intra): 1 inside the node, intra / inter between nodes.
//   between layers: movement[l](e1, e2); inside a layer: company[l](e1, e2), tokens that go back from e2 to their first
//   expert e1 (measure_company). Either may be empty. Replicas of an expert share its tokens evenly.
LayerMaps affinity_search(const Loads& loads, const Movement& movement, const Movement& company,
                          const ClusterShape& shape, const AffinityOptions& options);

// The same cost of any maps.
double movement_cost(const LayerMaps& maps, const Movement& movement, const Movement& company,
                     const ClusterShape& shape);

}  // namespace moesim::placement
