// Virtual ranks on paper: what one GPU would be given for all ranks of a plan (backend/cuda/virtual_ranks.hpp), so that
// a run of them can be predicted as it is measured, op by op.
#pragma once

#include <vector>

#include "backend/executor.hpp"

namespace moesim::backend {

// Bytes that each launch of a collective reads and writes: copies between ranks' buffers, sums of partial results.
// [op][phase][rank]; every rank ends a phase before the next begins. Local ops have no phases.
using PaperCollective = std::vector<std::vector<std::vector<Bytes>>>;
std::vector<PaperCollective> collectives_on_one_gpu(const Plan& plan, const Inputs& inputs);

// Why the plan's ops do not fit its buffers, or its counts the routing, by the op's name; empty where they do, and
// where it holds number formats that no executor computes with.
std::string misfit(const Plan& plan, const Inputs& inputs);

// Durations of [rank][op] (negative: takes no part) on a clock per rank and stream along the plan's dependencies, as
// ranks are composed that ran one at a time.
Timeline compose(const Plan& plan, const std::vector<std::vector<Picoseconds>>& durations);

}  // namespace moesim::backend
