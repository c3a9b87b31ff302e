#include "backend/recorder.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace moesim::backend {

bool Recorder::take(Timeline t) {
  if (runs_++ >= options_.warmup) {
    measurement_.makespans.push_back(t.makespan);
    timelines_.push_back(std::move(t));
  }
  const double done = static_cast<double>(runs_) / static_cast<double>(options_.warmup + options_.repeats);
  return !options_.progress || options_.progress(done);
}

Measurement Recorder::finish(const std::string& how) {
  if (timelines_.empty()) throw Refused("the measurement was ended before its first run");
  std::vector<std::size_t> order(timelines_.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return timelines_[a].makespan < timelines_[b].makespan; });
  const bool fastest = options_.statistic == RunOptions::Statistic::minimum;
  measurement_.timeline = std::move(timelines_[order[fastest ? 0 : (order.size() - 1) / 2]]);
  measurement_.method = fmt::format("{}; {} of {} runs after {} to warm up", how, fastest ? "fastest" : "median",
                                    order.size(), options_.warmup);
  return std::move(measurement_);
}

}  // namespace moesim::backend
