// This process is one rank and drives one GPU; the others are processes too, on this computer or on others (nccl-tests'
// way: MPI carries the communicators' ids, NCCL everything else).
#pragma once

#include "backend/cuda/gpu_ranks.hpp"
#include "backend/transport.hpp"

namespace moesim::backend::gpu {

// Which of this computer's devices the process takes: that of its place among the processes here
// (place_on_computer); the only one where the launcher shows each process its own. Throws Refused where there are fewer
// devices than processes.
int device_of_process(const Transport& transport, int place, int devices);

// A group's communicator id, made by its first member and sent to the rest of it.
MeetingId meet_over(Transport& transport, const std::vector<Rank>& group, const std::function<MeetingId()>& make,
                    double patience);

// how.done is given all ranks' marks at rank 0, and the own elsewhere; its answer is not asked for, because processes
// stop together. The report counts all ranks at rank 0.
GpuReport run_process(const Plan& plan, const Inputs& inputs, Device& device, Transport& transport,
                      const std::function<MeetingId()>& new_meeting, const GpuRuns& how);

}  // namespace moesim::backend::gpu
