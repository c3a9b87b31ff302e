// Runs a scenario: every strategy at every point of its sweep, through the simulator or through an executor with data.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "backend/executor.hpp"
#include "sim/engine.hpp"
#include "study/resolve.hpp"
#include "study/result.hpp"
#include "study/scenario.hpp"

namespace moesim::study {

struct RunOptions {
  std::string out_dir;                // report.json, and per strategy ops.csv, trace.json, timeline; empty = no files
  std::vector<std::string> overlays;  // calibrations of the machine, after the scenario's own
  bool force = false;                 // calibrations of another machine or processor are used all the same
  std::optional<sim::Fidelity> fidelity;        // of the network; none: the scenario's
  std::string plan;                             // a plan's file instead of the scenario's strategies; empty: those
  bool one_gpu = false;                         // predict all ranks on one GPU, as virtual ranks run (one_gpu.hpp)
  const backend::Executor* executor = nullptr;  // measures; null: the simulator predicts
  backend::RunOptions measurement;              // of the executor; its progress is set here
  std::function<void(double share, const std::string& what)> progress;
};

// Predictions run on parallel threads, and the result does not depend on how many; measurements run one after the
// other. A strategy that the executor refuses is not possible, with its reason.
StudyResult run_study(const Scenario& scenario, const RunOptions& options);

// The plan of one strategy of a resolved scenario (training: of its first iteration). Throws strategies::Infeasible.
Plan make_plan(const Setup& setup, const ResolvedStrategy& strategy);

// A plan in simulated time on the setup's cluster.
Timeline predict(const Plan& plan, const Setup& setup, const cost::KernelModel& kernels, const RunOptions& options,
                 bool link_intervals, const std::function<void(double)>& progress);

// The value of a published figure's metric in a result.
double metric_value(const StrategyResult& result, std::string_view metric);

}  // namespace moesim::study
