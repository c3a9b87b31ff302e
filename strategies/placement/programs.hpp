// MoETuner's two integer programs (arXiv 2502.06643), with the constraint that its print lacks: every expert is in
// exactly one cluster. Each program knows how to write a given answer as x (a warm start) and to read x back.
#pragma once

#include <span>
#include <vector>

#include "strategies/placement/chain.hpp"
#include "strategies/placement/milp.hpp"

namespace moesim::placement {

using Clusters = std::vector<int>;  // [experts] the cluster of each

// Balance of one layer: min sum_c |T_c - mean|, T_c = sum_e load_e x[c, e]; each cluster has at least one expert, or,
// with equal_sizes, E/G of them (rounded down or up). Clusters are alike: to keep the search from trying their
// permutations, the i-th hottest expert may only be in the first i clusters.
class BalanceProgram {
 public:
  BalanceProgram(std::span<const double> loads, int clusters, bool equal_sizes);
  [[nodiscard]] const Milp& problem() const { return problem_; }
  [[nodiscard]] std::vector<double> encode(const Clusters& cluster_of) const;
  [[nodiscard]] Clusters decode(std::span<const double> x) const;

 private:
  [[nodiscard]] int x(int cluster, std::size_t rank) const;  // of the expert with the rank-th largest load

  std::vector<double> loads_;
  int clusters_;
  std::vector<std::size_t> by_load_;
  int first_deviation_ = 0;
  Milp problem_;
};
// Deviation of a clustering, and what none can go below: 2 max(0, hottest - mean), because what one cluster has above
// the mean the others have below.
double deviation(std::span<const double> loads, int clusters, const Clusters& cluster_of);
double least_deviation(std::span<const double> loads, int clusters);

// Communication (chain.hpp): y[l, c, g] places cluster c of layer l on GPU g. Products of two placements are flows,
// which are whole wherever y is: z[l, c1, c2, g] (both on GPU g), and u[l, c1, c2, n] (both on node n, P GPUs each):
//   sum_c2 z = y[l, c1, g],   sum_c1 z = y[l + 1, c2, g];   sum_c2 u = P sum_{g in n} y[l, c1, g], and the same for c1.
// A pair costs flow * (far + (1 - far) sum_n u - sum_g z), in units of 1/intra with far = intra/inter. (One node, or
// one GPU a node: far = 1, no u.) worst_pair adds t_l >= the cost of each pair. equal_memory: every GPU holds as many
// experts over all layers.
// GPUs of a node are alike, and so are nodes: the program sees layer 0 only with rising clusters inside each node and
// nodes by their first cluster, so GPU i of node n holds there no cluster below n + i (and on one node just cluster i).
class ChainProgram {
 public:
  ChainProgram(const Chain& chain, bool equal_memory);
  // Columns that the program would have, to know before it is built.
  static std::int64_t columns(const Chain& chain);
  [[nodiscard]] const Milp& problem() const { return problem_; }
  // GPUs renamed as the program wants them, at the same cost.
  [[nodiscard]] Positions canonical(Positions gpu_of) const;
  [[nodiscard]] std::vector<double> encode(const Positions& gpu_of) const;  // of the canonical form
  [[nodiscard]] Positions decode(std::span<const double> x) const;

 private:
  [[nodiscard]] int y(int l, int c, int g) const { return (l * gpus_ + c) * gpus_ + g; }
  [[nodiscard]] int z(int l, int c1, int c2, int g) const {
    return first_z_ + ((l * gpus_ + c1) * gpus_ + c2) * gpus_ + g;
  }
  [[nodiscard]] int u(int l, int c1, int c2, int n) const {
    return first_u_ + ((l * gpus_ + c1) * gpus_ + c2) * nodes_ + n;
  }
  void add_placements(const Chain& chain, bool equal_memory);
  void add_products(const Chain& chain);
  void add_costs();

  int layers_;
  int gpus_;
  int nodes_;  // 1 where all pairs of GPUs are alike
  double far_;
  ChainCost cost_;
  std::vector<Matrix> flow_;  // in units of cost between two GPUs of a node
  int first_z_ = 0;
  int first_u_ = 0;
  int first_t_ = 0;
  Milp problem_;
};

// What no placement of the clusters goes below: in every transition, each row and column of the flow keeps its largest
// cell on the GPU, the next gpus_per_node - 1 on the node and sends the rest away.
double chain_lower_bound(const Chain& chain);

}  // namespace moesim::placement
