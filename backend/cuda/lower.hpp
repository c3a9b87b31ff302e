// A bound op as commands for the GPU.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "backend/call.hpp"
#include "backend/cuda/command.hpp"

namespace moesim::backend::gpu {

// One op on one rank.
struct Step {
  bool takes_part = true;
  bool host_sync = false;             // the host thread waits for all streams
  std::vector<Command> commands;      // in the op's stream
  std::vector<std::size_t> set_ends;  // host_waits: the host waits for the stream after that many commands
  std::vector<OpId> after;            // ops of other streams that must be done
};

struct LowerContext {
  const Plan& plan;
  Rank rank;
  // Device memory: with that content, as long as the program lives; for intermediate results, while the op runs.
  std::function<std::byte*(std::span<const std::byte> content)> table;
  std::function<std::byte*(std::int64_t bytes)> staging;
};

// Everything but collectives, sums and moves, which the caller lowers.
void lower(const LowerContext& at, const Op& op, const Call& call, Step& out);
void lower_training(const LowerContext& at, const Op& op, const TrainingCall& call, Step& out);

}  // namespace moesim::backend::gpu
