// Where the clusters of experts of each layer go, so that tokens that wait at their expert's GPU (Mode::stay) travel
// little: MoETuner's second program (papers: arXiv 2502.06643, section on inter-layer placement) and its structure.
//
// flow[l](c1, c2) tokens go from cluster c1 of layer l to cluster c2 of layer l + 1; each GPU holds one cluster of
// every layer. A token's way costs 0 inside a GPU, 1/intra inside a node, 1/inter between nodes.
//   total       sum over layers and pairs of clusters of flow * cost
//   worst_pair  sum over layers of the largest flow * cost of a pair (the paper's)
// Only the grouping of a layer's clusters into nodes couples one transition to the next: GPUs of a node are alike, and
// so are nodes, so every transition may choose anew how the groups of one layer meet those of the next. Hence a
// shortest path over groupings, with assignment problems as step costs, is exact. One node, or one GPU a node, has one
// grouping: L - 1 assignment problems.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "strategies/placement/assignment.hpp"
#include "strategies/placement/problem.hpp"

namespace moesim::placement {

enum class ChainCost : std::uint8_t { worst_pair, total };

struct Chain {
  std::vector<Matrix> flow;            // [layers - 1] of [gpus, gpus]
  std::vector<std::vector<int>> size;  // [layers][cluster] experts
  ClusterShape shape;
  ChainCost cost = ChainCost::worst_pair;
  [[nodiscard]] int layers() const { return static_cast<int>(size.size()); }
};

using Positions = std::vector<std::vector<int>>;  // [layers][cluster] = GPU

double chain_cost(const Chain& chain, const Positions& gpu_of);
// Of the transition from layer l, given the GPUs of its clusters and of the next layer's.
double step_cost(const Chain& chain, std::size_t l, const std::vector<int>& here, const std::vector<int>& next);

// Exact without regard to sizes; nothing where there are more than a few hundred groupings.
std::optional<Positions> shortest_path(const Chain& chain);

// Layer by layer, the best place of its clusters given its neighbours (an assignment problem for ChainCost::total,
// swaps for worst_pair), until nothing changes. Never worse than `start`.
Positions coordinate_descent(const Chain& chain, Positions start);

// Experts of each GPU over all layers.
std::vector<int> gpu_sizes(const Chain& chain, const Positions& gpu_of);
// Exchanges clusters until all GPUs hold equally many experts over all layers, and then in ways that keep that and
// lower the cost. Nothing where no such placement was found (the program decides whether there is none).
std::optional<Positions> equalize_sizes(const Chain& chain, Positions start);

}  // namespace moesim::placement
