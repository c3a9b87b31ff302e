// Hecate and its two halves (the paper's ablation) are one strategy with parts switched off.
#pragma once

#include <memory>

#include "models/cost/kernel_model.hpp"
#include "strategies/strategy.hpp"

namespace moesim::strategies {

struct HecateParts {
  bool sharding = true;         // algorithm 2; otherwise experts stay where contiguous placement puts them
  bool materialization = true;  // algorithm 1; otherwise owners alone compute
};
Plan plan_hecate(const Input& in, const HecateParts& parts);
std::vector<OptionSpec> hecate_options(const HecateParts& parts);

// The times that decisions count with.
class DecisionKernels {
 public:
  explicit DecisionKernels(const Input& in);
  const cost::KernelModel* operator->() const { return kernels_; }

 private:
  std::unique_ptr<const cost::KernelModel> own_;
  const cost::KernelModel* kernels_;
};
// An expert's forward products for one token copy where every GPU has its mean load.
double seconds_per_copy(const Input& in, const MoeBlock& block);

// What passes on the compute stream beside the gathering of one layer's experts: its attention block, forward.
Picoseconds attention_time(const Input& in);
// What all GPUs of a node together receive from other nodes; on one node, what a GPU receives from its neighbours.
BytesPerSecond gathering_bandwidth(const Cluster& cluster);

}  // namespace moesim::strategies
