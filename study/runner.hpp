// Runs a scenario: every strategy at every point of its sweep.
#pragma once

#include <functional>
#include <string>

#include "sim/engine.hpp"
#include "study/resolve.hpp"
#include "study/result.hpp"
#include "study/scenario.hpp"

namespace moesim::study {

struct RunOptions {
  std::string out_dir;                // report.json, and per strategy ops.csv, trace.json, timeline; empty = no files
  std::vector<std::string> overlays;  // calibrations of the machine, after the scenario's own
  sim::Fidelity fidelity;
  std::function<void(double share, const std::string& what)> progress;
};

// Points and strategies run on parallel threads; the result does not depend on how many.
StudyResult run_study(const Scenario& scenario, const RunOptions& options);

// The plan of one strategy of a resolved scenario. Throws strategies::Infeasible.
Plan make_plan(const Setup& setup, const ResolvedStrategy& strategy);

// The value of a published figure's metric in a result.
double metric_value(const StrategyResult& result, std::string_view metric);

}  // namespace moesim::study
