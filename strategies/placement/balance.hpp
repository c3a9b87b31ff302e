// How even a map is, and how even any map can be.
#pragma once

#include <span>
#include <vector>

#include "strategies/placement/problem.hpp"

namespace moesim::placement {

// Work of each GPU, [gpus], with token homes spread evenly over the GPUs. An expert e with c replicas on n of N nodes,
// m of them on this node, gives each of those m the share
//   even:        1/c
//   local_first: 1/(N m) + (1 - n/N)/c     (own node's tokens, and those of nodes without a replica)
// of its load. Both are equal where every node that holds e holds the same number of replicas.
std::vector<double> gpu_loads(std::span<const double> loads, const ExpertPlacement& map, const ClusterShape& shape,
                              Dispatch dispatch);

double max_over_mean(std::span<const double> values);  // 1 where all are zero

// Where token copies go under Mode::return_home with homes spread evenly, before the merging of copies that share a
// destination (evaluate.hpp counts that from tokens). Shares of all copies; they add up to 1.
//   even:        own GPU 1/G, own node 1/N: no placement changes it
//   local_first: own GPU c/G, own node n/N
struct CopyShares {
  double own_gpu = 0;
  double own_node = 0;  // another GPU of the node
  double other_nodes = 0;
};
CopyShares copy_shares(std::span<const double> loads, const ExpertPlacement& map, const ClusterShape& shape,
                       Dispatch dispatch);

// No map with s = slots_per_gpu filled slots on each of G GPUs has a smaller maximum. With R = G s - E spare slots, the
// c GPUs of an expert with c replicas fill their other slots at least with the m = c s - R - 1 coldest experts in full:
//   some one of them carries at least  (load_e + sum of the m coldest) / c;
// the bound is the least t for which the smallest such c of all experts add up to no more than the slots, or the mean.
// Without spare slots: max(mean, hottest + the s - 1 coldest).
double lower_bound(std::span<const double> loads, const ClusterShape& shape);
// The same for clusters of any size, without replicas: max(mean, hottest).
double lower_bound_free_sizes(std::span<const double> loads, int gpus);

}  // namespace moesim::placement
