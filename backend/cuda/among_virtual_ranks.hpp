// Collectives among ranks that share one GPU, as copies and sums between their buffers.
#pragma once

#include <functional>
#include <vector>

#include "backend/cuda/command.hpp"
#include "backend/host/phase.hpp"

namespace moesim::backend::gpu {

// [phase][rank]: every rank ends a phase before the next begins.
using Phases = std::vector<std::vector<std::vector<Command>>>;
// [op]. meeting_at: as the rank takes part in the op; without phases where it does not, or where the op meets nobody.
std::vector<Phases> among_virtual_ranks(const Plan& plan,
                                        const std::function<Meeting(std::size_t op, Rank)>& meeting_at);

// How a bound op meets other ranks.
Meeting meeting_of_call(const Plan& plan, const Op& op, const Call& call, Rank rank);

}  // namespace moesim::backend::gpu
