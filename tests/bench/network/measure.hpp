// One network run, in a child process so that its memory is its own.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "moesim/topology.hpp"
#include "sim/network/network.hpp"

namespace moesim::bench {

struct Run {
  double seconds = 0;  // processor time, one thread
  double peak_mb = 0;
  double makespan = 0;  // seconds
  double low = 0, high = 0;
  std::vector<double> finish;  // seconds at which each flow ends; only where asked for
};

// Flows that all start at 0, one transfer. by_flow: also when each flow ends; the run then knows only links and routes.
Run run_network(const Topology& topology, const std::vector<sim::Flow>& flows, sim::Fidelity fidelity, bool by_flow);

// Prints one row per case; returns false when one misses what docs/network.md promises.
bool against_simgrid(bool quick);

}  // namespace moesim::bench
