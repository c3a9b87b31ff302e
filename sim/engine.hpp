// The discrete-event executor: a Plan on a modelled cluster gives a Timeline.
//
// Every rank has a host thread that issues ops in plan order (a launch takes Gpu::launch) and stops at a host_sync;
// streams that run their ops in order; a GPU whose matrix rate and memory bandwidth concurrent kernels share max-min
// fairly (gpu_share.hpp); and links shared by flows (network/). Time is integer picoseconds; events are ordered by
// (time, rank, sequence), so a plan gives the same Timeline on any machine.
//
// What is not modelled: jitter, clocks that change under load, caches between kernels, thread blocks of two kernels
// that fit an SM together.
#pragma once

#include <cstdint>
#include <functional>

#include "models/cost/kernel_model.hpp"
#include "moesim/machine.hpp"
#include "moesim/timeline.hpp"
#include "sim/network/network.hpp"

namespace moesim::sim {

struct SimulationOptions {
  Fidelity fidelity;
  bool link_intervals = false;  // fill Timeline::link_intervals
  // Called now and then with the share of ops that are complete.
  std::function<void(double)> progress;
};

struct SimulationStatistics {
  std::int64_t ops = 0;     // op instances: ops x their ranks
  std::int64_t events = 0;  // of the engine; the network's solves are not counted
  std::int64_t flows = 0;
};

// Throws PhysicsError when a result beats what the data sheet allows, std::logic_error when the plan cannot run to its
// end (ranks that wait for each other).
Timeline simulate(const Plan& plan, const Cluster& cluster, const cost::KernelModel& kernels,
                  const SimulationOptions& options, SimulationStatistics* statistics = nullptr);

}  // namespace moesim::sim
