// A scenario file: which model, on which cluster, doing what, under which routing, with which strategies. A value with
// its own mistakes never gets past reading; docs/scenario.md is the reference.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/arch/overrides.hpp"
#include "models/hardware/machine.hpp"
#include "models/load/load_sequence.hpp"
#include "models/load/synthetic.hpp"
#include "models/load/window.hpp"
#include "moesim/workload.hpp"
#include "support/toml_reader.hpp"

namespace moesim::study {

// Letters, digits, '.', '_', '-', '+', ' ' and more of what a file name may hold on any system; no path.
bool names_a_file(std::string_view name);
// With '?' for what is no printable ASCII character.
std::string printable(std::string_view text);

struct ModelChoice {
  std::string name;  // of the zoo, or a path
  arch::Overrides overrides;
};

// What a scenario may say about the network: the shape, and the cards where they differ from the machine's.
struct NetworkChoice {
  hardware::NetworkFabric shape;  // cards and switch latency unset
  std::optional<BytesPerSecond> nic;
  std::optional<int> nics_per_node;
  std::optional<Picoseconds> switch_latency;
  std::optional<BytesPerSecond> local_link;  // dragonfly
  std::optional<BytesPerSecond> global_link;
};

struct ClusterChoice {
  std::string machine;                  // a shipped one, or a path
  std::vector<std::string> overlays;    // files of single numbers, and fit files
  std::string calibration = "shipped";  // or "none", or the path of a fit file
  bool force = false;                   // a fit of another machine or processor is used all the same
  std::string library;                  // whose kernels run; empty = the fastest that was measured
  hardware::ClusterShape shape;
  NetworkChoice network;
};

struct WorkloadChoice {
  Workload workload;  // sequences = 0 where they are given per GPU
  std::optional<std::int64_t> sequences_per_gpu;
  int iterations = 1;  // train
};

struct RoutingChoice {
  load::SyntheticSpec synthetic;            // its shape follows from model and workload
  std::string trace;                        // path; empty = synthetic
  bool repeat = false;                      // a trace that is shorter than the workload starts again
  bool cycle_layers = false;                // layers of the trace stand for more layers of the model, in turn
  std::int64_t window_first = 0;            // the part of the trace that is used; negative: from its end
  std::int64_t window_count = 0;            // 0 = all of it
  std::optional<load::Window> plan_window;  // the part that placements are planned on; none: the one that is used
  std::optional<load::Dynamics> dynamics;   // train: how loads change between iterations
};

// Options stay as written, with their places: only the strategy knows which it has.
using OptionValue = RawValue;
struct StrategyChoice {
  std::string kind;
  std::string name;  // label in reports, unique; the kind where nothing else is said
  std::vector<OptionValue> options;
  SourcePlace place;
};

struct SimulationChoice {
  bool exact = false;           // link shares are solved at every completion
  double network_error = 0.01;  // otherwise: largest relative error of a transfer's time
};

struct ReportChoice {
  enum class Sort : std::uint8_t { step, moe_layer, memory, scenario };
  std::string baseline;  // a strategy's name; empty = none
  Sort sort = Sort::step;
};

struct SweepAxis {
  std::string key;  // "model.experts", "strategy.NAME.capacity_factor"
  std::vector<RawValue> values;
  SourcePlace place;
};

// A figure somebody published, to print beside the prediction.
struct Published {
  std::string strategy;                                 // its name
  std::string metric;                                   // one of metrics()
  std::vector<std::pair<std::string, std::string>> at;  // swept keys and their values, as to_text prints them
  double value = 0;
  std::string unit;
  bool used_in_fit = false;
  std::string source;
};

struct Metric {
  std::string_view name;
  std::string_view unit;
  std::string_view meaning;
};
const std::vector<Metric>& metrics();

struct Scenario {
  std::string path;
  std::string name;
  std::string description;
  ModelChoice model;
  ClusterChoice cluster;
  WorkloadChoice workload;
  RoutingChoice routing;
  std::vector<StrategyChoice> strategies;
  SimulationChoice simulation;
  ReportChoice report;
  std::vector<SweepAxis> sweep;
  std::vector<Published> published;

  std::map<std::string, SourcePlace> places;                      // of each key that was read: "cluster.nodes"
  std::string text;                                               // of the file
  std::vector<RawValue> changes;                                  // made from outside, before reading
  [[nodiscard]] SourcePlace place(const std::string& key) const;  // of the nearest table where the key is absent
};

// Throws InputError with everything that is wrong in the file. `changes` are set before reading, as if the file had
// them (key = "cluster.nodes"). Swept keys have the first of their values.
Scenario read_scenario(const std::string& path, const std::vector<RawValue>& changes = {});
// The same from text; `path` is what errors name and paths are relative to.
Scenario parse_scenario(std::string text, const std::string& path, const std::vector<RawValue>& changes = {});

// One point of the sweep: the scenario with that point's values, and the values as text, in the order of the axes.
struct ScenarioPoint {
  Scenario scenario;
  std::vector<std::pair<std::string, std::string>> axes;
};

// The cross product of the sweep's axes, the last one fastest; one point where there is no sweep. Throws InputError
// with the faults of all points, each once.
std::vector<ScenarioPoint> expand(const Scenario& scenario);

}  // namespace moesim::study
