// What a study found: per point of its sweep, per strategy.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/executor.hpp"
#include "moesim/machine.hpp"
#include "moesim/plan.hpp"
#include "moesim/timeline.hpp"
#include "study/iterations.hpp"
#include "study/summary.hpp"

namespace moesim::study {

struct StrategyResult {
  std::string label;
  std::string kind;
  std::string placement;                         // how solvers placed the experts, and on which tokens; empty: in order
  std::string infeasible;                        // why there is no result; empty where there is one
  bool interrupted = false;                      // that is why
  Summary summary;                               // of a run of iterations: means (iterations.hpp)
  std::vector<IterationPoint> iterations;        // where there is more than one
  std::optional<backend::Measurement> measured;  // where the summary is of a measurement
  double to_baseline = 0;                        // baseline step / this step: above 1 is faster; 0 = no baseline
  double layer_to_baseline = 0;                  // the same of the MoE layer
};

struct PointResult {
  std::vector<std::pair<std::string, std::string>> axes;  // swept keys and their values
  std::string model;
  std::string cluster;
  std::string workload;
  std::string calibration;  // where kernel times come from
  std::string step;         // what one step is called: TTFT of a prefill, TPOT of a decode step, else step
  std::string routing;
  bool routing_synthetic = true;
  std::vector<StrategyResult> strategies;  // best first: those that fit before those that do not, by step
};

// A figure somebody published, beside what is predicted.
struct PublishedRow {
  std::string strategy;
  std::string metric;
  std::vector<std::pair<std::string, std::string>> at;
  double published = 0;
  std::optional<double> predicted;
  std::string unit;
  bool used_in_fit = false;
  std::string source;
};

struct StudyResult {
  std::string name;
  std::string description;
  std::string scenario;  // path as given
  std::string baseline;  // label; empty = none
  std::string executor;  // that measured; empty: predicted
  std::vector<PointResult> points;
  std::vector<PublishedRow> published;

  // The study's answer: at every point some strategy fits and runs.
  [[nodiscard]] bool feasible() const;
  [[nodiscard]] bool interrupted() const;  // some strategies were not measured
};

// ---- output ----

// For people: a table per point, where the time goes, what limits, and predicted beside published figures.
std::string render(const StudyResult& result);

// For programs: docs/report_format.md.
inline constexpr int report_version = 1;
std::string report_json(const StudyResult& result);

// One line per op and rank: docs/report_format.md.
void write_ops_csv(const std::string& path, const Plan& plan, const Timeline& timeline, const Errors& errors = {});

// Chrome trace format, for Perfetto: a process per GPU with a track per stream, and a process with a track per link.
void write_trace(const std::string& path, const Plan& plan, const Timeline& timeline, const Cluster& cluster);

}  // namespace moesim::study
