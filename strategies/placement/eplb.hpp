// DeepSeek's Expert Parallelism Load Balancer as published (github.com/deepseek-ai/EPLB), from its description and the
// behaviour of its release: greedy replication of the largest share, then balanced packing of equal numbers to GPUs.
//
//   balanced packing  by falling weight, each to the lightest pack that has room; equal numbers a pack; with one item a
//                     pack, in order
//   hierarchical      groups packed to nodes; spare replicas made inside each node; replicas packed to the node's GPUs.
//                     Taken where the number of nodes divides the number of groups
//   global            the same with one group and one node
// Arithmetic is in float32 where the release's is, and ties go to the lower index, so that maps come out the same.
// Nothing keeps two replicas of an expert off one GPU: see distinct_replicas.
#pragma once

#include <span>
#include <vector>

#include "strategies/placement/problem.hpp"

namespace moesim::placement {

enum class EplbPolicy : std::uint8_t { hierarchical, global };

// The policy that the release takes.
EplbPolicy eplb_policy(int groups, int nodes);

// Throws InputError where the release asserts: experts that groups do not divide, GPUs that nodes do not divide, fewer
// slots than experts.
ExpertPlacement eplb(std::span<const double> loads, const ClusterShape& shape, int groups);

// Exchanges replicas until no GPU holds an expert twice, each time for the replica closest in weight on the same node,
// or where none fits on another. Returns the exchanges made. Where no GPU lacks the expert, its surplus goes to the
// expert of the largest share that the GPU lacks.
int distinct_replicas(ExpertPlacement& map, std::span<const double> loads, const ClusterShape& shape);

}  // namespace moesim::placement
