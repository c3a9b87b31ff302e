// MoETuner (arXiv 2502.06643): experts into balanced clusters, layer by layer, then clusters onto GPUs so that tokens
// that stay at their expert's GPU travel little. Fast methods first, the paper's integer programs as certifiers: a
// program runs only where the answer is not already known to be within `gap` of the optimum, starts from that answer,
// and cannot make it worse. The reports say which path each answer took.
#pragma once

#include <string>
#include <vector>

#include "strategies/placement/milp.hpp"
#include "strategies/placement/programs.hpp"

namespace moesim::placement {

struct MoetunerOptions {
  Mode mode = Mode::stay;  // return_home: placement of clusters cannot cut traffic; only the first program is solved
  ChainCost cost = ChainCost::worst_pair;
  double seconds = 60;  // for all programs together, hard
  double gap = 0.025;   // the paper's tolerance, relative, for the second program
  // For the first: deviation above the bound as a share of the layer's load. A relative gap says nothing where the
  // optimum is close to zero.
  double balance_gap = 1e-3;
  bool equal_sizes = false;  // E/G experts in every cluster; what vLLM's and SGLang's maps can express
  bool equal_memory = true;  // as many experts on every GPU over all layers (the paper's constraint)
  bool programs = true;      // false: fast methods and their bounds alone
};

// How one answer was found. path: "bound met", "descent", "program: optimal"; "in order", "shortest path", "shortest
// path
// + equalized", "coordinate descent", ... Gaps are against the proven lower bound, as a share of the layer's load
// (balance) or of the objective (chain).
struct SolveReport {
  std::string path;
  double objective = 0;
  double lower_bound = 0;
  double gap = 0;
  double seconds = 0;
};

struct MoetunerResult {
  LayerMaps maps;
  std::vector<SolveReport> balance;  // [layers], in token copies
  SolveReport chain;                 // in token copies times 1/intra; empty path under return_home
  std::string fallback;              // "", or "equal_clusters": equal memory was not possible with the first clusters
  std::string reason;                // of the fallback
};

// Loads and movement of a model of E experts on shape.gpus GPUs; movement has layers - 1 tables under Mode::stay.
// slots_per_gpu is not used: a cluster has as many experts as balance wants. Throws InputError with fewer experts than
// GPUs.
MoetunerResult moetuner(const Loads& loads, const Movement& movement, const ClusterShape& shape,
                        const MoetunerOptions& options);

// What the second program is asked: clusters of each layer, numbered as GPUs.
Chain chain_of(const std::vector<Clusters>& clusters, const Movement& movement, const ClusterShape& shape,
               ChainCost cost);

// Tokens between the clusters of consecutive layers.
std::vector<Matrix> cluster_flow(const Movement& movement, const std::vector<Clusters>& clusters, int count);

}  // namespace moesim::placement
