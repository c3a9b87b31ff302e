#include "strategies/placement/assess.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

#include "strategies/placement/balance.hpp"

namespace moesim::placement {

Interval saving(std::span<const double> baseline, std::span<const double> candidate) {
  assert(baseline.size() == candidate.size() && !baseline.empty());
  std::vector<double> saved;
  for (std::size_t i = 0; i < baseline.size(); ++i) saved.push_back(1 - candidate[i] / baseline[i]);
  const auto n = static_cast<double>(saved.size());
  const double mean = std::accumulate(saved.begin(), saved.end(), 0.0) / n;
  if (saved.size() < 2) return {mean, mean, mean};
  double squares = 0;
  for (const double s : saved) squares += (s - mean) * (s - mean);
  const double reach = 1.96 * std::sqrt(squares / (n - 1) / n);
  return {mean, mean - reach, mean + reach};
}

Assessment assess(const Routing& routing, const AssessRequest& request) {
  Assessment out;
  out.windows = split(routing, request.train_share);
  PlaceRequest place_request = request.place;
  place_request.loads = measure_loads(routing, out.windows.train);
  if (place_request.mode == Mode::stay) {
    place_request.movement = measure_movement(routing, out.windows.train, MovementCount::from_first);
    place_request.company = measure_company(routing, out.windows.train);
  }
  ClusterShape unreplicated = place_request.shape;
  unreplicated.slots_per_gpu = (routing.experts() + unreplicated.gpus - 1) / unreplicated.gpus;

  const Loads test_loads = measure_loads(routing, out.windows.test);
  const ExpertPlacement contiguous = contiguous_placement(routing.experts(), unreplicated.gpus);
  out.skew = {0, 0};
  for (int l = 0; l < routing.moe_layers(); ++l) {
    const auto loads = test_loads.layer(l);
    out.skew.experts += max_over_mean(loads) / routing.moe_layers();
    out.skew.gpus += max_over_mean(gpu_loads(loads, contiguous, unreplicated, Dispatch::even)) / routing.moe_layers();
  }

  const EvaluationOptions options{place_request.mode, place_request.dispatch, request.tokens_per_step};
  for (const Method method : request.methods) {
    PlaceRequest one = place_request;
    one.method = method;
    const bool replicates = method != Method::contiguous && method != Method::moetuner;
    if (!replicates) one.shape = unreplicated;
    Judged judged;
    judged.plan = place(one);
    judged.train = evaluate(routing, out.windows.train, judged.plan.maps, judged.plan.shape, options);
    judged.test = evaluate(routing, out.windows.test, judged.plan.maps, judged.plan.shape, options);
    const Judged& first = out.methods.empty() ? judged : out.methods.front();
    judged.gain = saving(first.test.straggler, judged.test.straggler);
    judged.moving = moving(first.plan.maps, judged.plan.maps, judged.plan.shape, request.place.expert_bytes);
    if (replicates)
      judged.replica_memory = request.place.expert_bytes * routing.moe_layers() *
                              (judged.plan.shape.slots_per_gpu - unreplicated.slots_per_gpu);
    out.methods.push_back(std::move(judged));
  }
  return out;
}

}  // namespace moesim::placement
