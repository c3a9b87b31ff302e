// A Plan's collective as NCCL calls, seen from one member. docs/cuda.md has the table.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "backend/call.hpp"
#include "backend/cuda/command.hpp"

namespace moesim::backend::gpu {

struct NcclContext {
  const Plan& plan;
  const Op& op;
  Rank rank;
  // Joins these ranks for calls of the op's stream.
  std::function<int(const std::vector<Rank>& members)> communicator;
  // Device memory for the op alone, for partial sums that arrive.
  std::function<std::byte*(std::int64_t bytes)> staging;
};

// Appends what the member enqueues, in order; a rank's own part is a copy on the device.
void lower_to_nccl(const NcclContext& at, const CollectiveCall& call, std::vector<Command>& out);
void lower_to_nccl(const NcclContext& at, const SumCall& call, std::vector<Command>& out);
void lower_to_nccl(const NcclContext& at, const MoveCall& call, std::vector<Command>& out);

}  // namespace moesim::backend::gpu
