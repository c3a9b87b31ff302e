// Collectives lowered to flows. One file per collective family, with its equation, source, and busbw factor as
// nccl-tests defines them.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "models/cost/exchange_model.hpp"
#include "moesim/machine.hpp"
#include "moesim/plan.hpp"
#include "sim/network/network.hpp"

namespace moesim::sim {

// What one group does for one collective: stages in order; a stage's flows start when the stage before is complete and
// `latency` has passed. A collective without stages still costs CollectiveCosts::launch.
struct Stage {
  Picoseconds latency;
  std::vector<Flow> flows;
};

// `group` is an index into plan.groups[collective.groups]. Deterministic; flows are sorted by (from, to).
std::vector<Stage> lower(const Plan& plan, const Collective& collective, std::size_t group, const Cluster& cluster);

// Which of DeepEP's kernels carries an exchange of activations where they are calibrated: those of an exchange that is
// hierarchical are its normal ones, those of one that asks for `direct` its low-latency ones; `automatic` is NCCL's.
struct ExchangeKernel {
  cost::ExchangeKind kind = cost::ExchangeKind::dispatch;
  bool low_latency = false;
};
std::optional<ExchangeKernel> exchange_kernel(const Collective& collective);

}  // namespace moesim::sim
