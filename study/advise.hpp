// What `moesim advise` does: is balancing worth it here? Step times predicted on tokens that no map was made for.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "strategies/placement/assess.hpp"
#include "study/placing.hpp"
#include "study/runner.hpp"

namespace moesim::study {

struct AdviseRequest {
  int replicas = -1;  // slots of a layer beyond one per expert; negative: one more on every GPU
  placement::Dispatch dispatch = placement::Dispatch::local_first;
  double train_share = 0.5;
  int steps = 8;  // to judge on, at most
};

// One way to run the scenario.
struct Contender {
  std::string name;
  std::string infeasible;    // why there are no figures; empty where there are
  Picoseconds step;          // mean over the judged steps
  placement::Interval gain;  // share of contiguous expert parallelism's step that it saves, paired over steps
  double straggler = 1;      // of the experts, mean over steps
  MemoryPeak memory;
  bool fits = true;
  Bytes replica_memory;      // of a GPU, all layers
  placement::Moving moving;  // from contiguous placement; of those that place whole experts
  bool placed = false;
  std::optional<std::int64_t> break_even;  // steps after which the move has paid
};

struct Advice {
  PlacingInput input;
  AdviseRequest request;
  int replicas = 0;
  int steps = 0;  // judged
  placement::Skew skew;
  double bound_unreplicated = 1;      // no map without replicas brings the fullest GPU below this, mean over layers
  std::vector<Contender> contenders;  // contiguous first
  std::string verdict;
};

// Expert parallelism takes the options of the scenario's first such strategy, but for its placement.
Advice advise(const std::string& scenario, const AdviseRequest& request, const RunOptions& options);

// One sentence or two.
std::string verdict(const Advice& advice);

std::string render(const Advice& advice);
std::string advice_json(const Advice& advice);  // docs/placement.md

}  // namespace moesim::study
