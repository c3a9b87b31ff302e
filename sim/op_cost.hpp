// What one op costs on one rank's device and host: kernels, launches, demand.
#pragma once

#include <vector>

#include "models/cost/kernel_model.hpp"
#include "moesim/machine.hpp"
#include "moesim/plan.hpp"
#include "sim/gpu_share.hpp"

namespace moesim::sim {

struct OpCost {
  std::vector<Picoseconds> kernels;  // device time of each launch, in order; empty = no device work
  int set = 1;                       // kernels that belong together (Launch::kernels)
  std::int64_t launches = 0;         // framework operations that the host issues
  Flops flops;
  Bytes bytes;
  Demand demand;         // of the kernels alone, averaged over their time
  double log_sigma = 0;  // of ln(true / predicted), errors of the op's kernels being one; 0 = not calibrated
  bool in_range = true;  // all kernels are inside what the calibration has seen
  [[nodiscard]] Picoseconds device() const;
};

class OpCosts {
 public:
  OpCosts(const Plan& plan, const Cluster& cluster, const cost::KernelModel& model)
      : plan_(plan), cluster_(cluster), model_(model) {}

  // The cost of a local op. Every kernel is checked against the data sheet (PhysicsError).
  [[nodiscard]] OpCost operator()(const Op& op, Rank rank) const;

 private:
  [[nodiscard]] OpCost of(const Gemm& w, Rank rank) const;
  [[nodiscard]] OpCost of(const GroupedGemm& w, Rank rank) const;
  [[nodiscard]] OpCost of(const AttentionCore& w, Rank rank) const;
  [[nodiscard]] OpCost of(const Elementwise& w, Rank rank) const;
  [[nodiscard]] OpCost of(const Permute& w, Rank rank) const;
  [[nodiscard]] OpCost of(const Copy& w, Rank rank) const;
  [[nodiscard]] OpCost of(const HostSync& w, Rank rank) const;
  [[nodiscard]] OpCost of(const Collective& w, Rank rank) const;
  [[nodiscard]] std::int64_t groups_with_rows(const Permute& w, Rank rank) const;
  void append(OpCost& out, const cost::KernelCost& kernel, Math math, int launches) const;
  void finish(OpCost& out, Math math) const;

  const Plan& plan_;
  const Cluster& cluster_;
  const cost::KernelModel& model_;
};

}  // namespace moesim::sim
