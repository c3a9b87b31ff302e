// A plan made ready to run on one rank: every op bound to its buffers, shapes checked, row maps worked out.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "backend/call.hpp"

namespace moesim::backend {

// Who binds, for messages: "op 'x' (gemm) does not run {on}: ...; the plan uses {buffer} ..."
struct Binding {
  std::string on;                               // "on the host"
  std::function<Tensor(BufferId)> tensor;       // where the rank's buffers are
  std::function<Tensor(BufferId)> before = {};  // what a weight or optimizer state that moves was before the step
};

// [op]. Throws Refused, naming the op, for what executors cannot compute or a plan whose buffers do not fit its ops.
// Spans refer to the plan.
std::vector<Call> bind(const Plan& plan, const Inputs& inputs, RowMaps& maps, Rank rank, const Binding& binding);

// A buffer as it is when the plan starts: experts that an op moves are where they come from.
Buffer at_start(const Plan& plan, BufferId id, Rank rank);
// The experts of a rank's slots; empty for what is no placed stack.
std::vector<LogicalExpert> experts_of(const Plan& plan, const Buffer& b, Rank rank);
// Weights, and their optimizer states, that the plan updates.
struct Updated {
  BufferId weight, state;
};
std::vector<Updated> updated(const Plan& plan);

// Position of the rank in its group of the partition; nullptr where it is in none.
struct Membership {
  const std::vector<Rank>* group = nullptr;
  std::size_t member = 0;
};
Membership membership(const Groups& groups, Rank rank);

}  // namespace moesim::backend
