// Is balancing worth it? Plans made on one window of a routing, judged on another: what `moesim advise` builds on.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "strategies/placement/evaluate.hpp"
#include "strategies/placement/moving.hpp"
#include "strategies/placement/place.hpp"

namespace moesim::placement {

struct AssessRequest {
  PlaceRequest place;  // method, loads, movement and company are filled in; the rest is asked of every method alike
  std::vector<Method> methods{Method::contiguous, Method::eplb, Method::local_search};
  std::int64_t tokens_per_step = 0;  // EvaluationOptions
  double train_share = 0.5;
};

// A ratio with the interval that the steps support: mean +- 1.96 standard errors (normal approximation; a single step
// has no interval: low = high = mean).
struct Interval {
  double mean = 0;
  double low = 0;
  double high = 0;
};

struct Judged {
  PlaceResult plan;
  Evaluation train;
  Evaluation test;
  // Share of the expert computation that a step saves against the first method's map, over the test window's steps:
  // 1 - straggler / straggler of the first.
  Interval gain;
  Moving moving;         // from the first method's map; weights of place.expert_bytes
  Bytes replica_memory;  // of one GPU, over all layers, beyond one slot per expert
};

// How uneven the test window is before anyone places anything, as means over layers.
struct Skew {
  double experts = 1;  // hottest expert / mean expert
  double gpus = 1;     // fullest GPU / mean GPU under contiguous placement: experts can be skewed while GPUs are not
};

struct Assessment {
  Split windows;
  Skew skew;
  std::vector<Judged> methods;  // in the order asked for; contiguous is judged without replicas
};

Assessment assess(const Routing& routing, const AssessRequest& request);

// Paired over steps: 1 - candidate / baseline.
Interval saving(std::span<const double> baseline, std::span<const double> candidate);

}  // namespace moesim::placement
