// From the names and numbers of a scenario to the things they stand for.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "models/load/load_sequence.hpp"
#include "moesim/machine.hpp"
#include "moesim/model.hpp"
#include "moesim/routing.hpp"
#include "moesim/workload.hpp"
#include "strategies/strategy.hpp"
#include "study/calibration.hpp"
#include "study/scenario.hpp"

namespace moesim::study {

struct ResolvedStrategy {
  std::string label;
  const strategies::Strategy* strategy = nullptr;
  strategies::Options options;
  std::shared_ptr<const Plan> plan = {};  // from a file, instead of what a strategy makes
};

struct Setup {
  Model model;
  Cluster cluster;
  Calibration calibration;
  Workload workload;                       // sequences over all GPUs
  std::unique_ptr<const Routing> routing;  // of the first iteration
  SimulationChoice simulation;
  int iterations = 1;
  // Loads from the first iteration on; nullptr where there is one iteration with one routing.
  std::function<std::unique_ptr<load::LoadSequence>()> loads;
  std::unique_ptr<const Routing> history;    // what placements are planned on; none: routing itself
  std::vector<ResolvedStrategy> strategies;  // in the scenario's order
};

// Loads model, machine and trace, and checks what only shows once they are known: phases that the model lacks, more
// GPUs than the machine has, number formats without a pipeline, options that a strategy does not have. Throws
// InputError with all that is wrong, at its place in the scenario or in the file that the scenario names.
Setup resolve(const Scenario& scenario);

// A plan's file in a strategy's place. Throws InputError where it was made for another model, workload, routing or more
// ranks than the setup has.
ResolvedStrategy strategy_of_plan(const std::string& path, const Setup& setup);

// The scenario's routing over more tokens than one step: `tokens` of its law, or the whole window of its trace.
std::shared_ptr<const Routing> long_routing(const Scenario& scenario, const Model& model, const Workload& workload,
                                            std::int64_t tokens);

// The machine with the scenario's overlays and network.
hardware::MachineSpec resolved_machine(const Scenario& scenario);

}  // namespace moesim::study
