// What `moesim place` does: a map of experts made on one window of a routing and judged on another.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "moesim/model.hpp"
#include "moesim/workload.hpp"
#include "strategies/placement/evaluate.hpp"
#include "strategies/placement/map_file.hpp"
#include "strategies/placement/moving.hpp"
#include "strategies/placement/place.hpp"
#include "study/scenario.hpp"

namespace moesim::study {

// Where experts are to be placed, and by which tokens.
struct PlacingInput {
  std::string title;  // model and GPUs in one line
  std::string routing;
  bool synthetic = false;
  placement::MapInfo info;
  placement::ClusterShape shape;  // slots as for one replica of each expert
  int groups = 1;                 // of the router
  Bytes expert_bytes;             // weights of one routed expert; 0 = not known
  Bytes row_bytes;                // one token on its way; 0 = not known
  std::int64_t tokens_per_step = 0;
  std::shared_ptr<const Routing> all;    // both windows
  std::shared_ptr<const Routing> train;  // what maps are planned on
  std::shared_ptr<const Routing> test;   // later tokens; the same where there are no others
  std::vector<std::string> notes;
};

// From a scenario's first point. Laws give tokens for `steps` steps to each window, or as many as can be counted in
// seconds; traces give their window. The first `train_share` of either is planned on, the rest judges.
PlacingInput placing_input(const Scenario& scenario, double train_share, int steps);

struct TraceInput {
  std::string trace;
  std::string model;  // name or config.json; or
  int experts = 0;    // and no model
  int gpus = 0;
  int nodes = 1;
  std::string machine;  // for the rates of links; empty: 450 and 50 GB/s
  std::int64_t tokens_per_step = 0;
};
PlacingInput placing_input(const TraceInput& trace, double train_share);

struct PlacingRequest {
  placement::Method method = placement::Method::local_search;
  std::string map;   // judge this file instead of solving
  std::string from;  // where experts are now; empty: contiguous
  int replicas = 0;
  placement::Mode mode = placement::Mode::return_home;
  placement::Dispatch dispatch = placement::Dispatch::local_first;
  double tolerance = -1;
  placement::MoetunerOptions moetuner;
  std::optional<Bytes> memory_per_gpu;
};

// One map and what it does to both windows.
struct JudgedMap {
  placement::Evaluation train;
  placement::Evaluation test;
};

struct Placing {
  PlacingInput input;
  PlacingRequest request;
  placement::PlaceResult plan;  // maps; of a map that was read only its figures
  JudgedMap judged;
  JudgedMap contiguous;      // without replicas
  double bound_test = 1;     // of the judged window with the plan's slots: lower bound of max/mean, mean over layers
  placement::Moving moving;  // from where experts are now
  placement::Loads train_loads;
};

// Throws InputError where the request does not fit the input.
Placing place_experts(const PlacingInput& input, const PlacingRequest& request);

std::string render(const Placing& placing);
std::string placing_json(const Placing& placing);  // docs/placement.md

// The programs that moetuner solves, for other solvers: PREFIX.balance_lN.lp and PREFIX.communication.lp (or .mps), the
// latter with the clusters of the placing's own map. Returns the files written.
std::vector<std::string> export_programs(const Placing& placing, const std::string& prefix, bool mps);

}  // namespace moesim::study
