// Small models, workloads and routings whose plans are measured by a calibration of the host.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "moesim/machine.hpp"
#include "moesim/plan.hpp"
#include "moesim/routing.hpp"

namespace moesim::study {

struct Probe {
  std::string name;  // its shapes
  std::unique_ptr<const Routing> routing;
  Plan plan;
};

// The same for the same seed and index. Strategies, phases and shapes take turns; a plan computes at most a few GFLOP
// and holds at most 32 M expert weights.
Probe make_probe(const Cluster& cluster, DType format, std::uint64_t seed, int index);

}  // namespace moesim::study
