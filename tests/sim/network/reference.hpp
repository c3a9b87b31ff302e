// The slow reference: progressive filling and event by event, written to be checked by eye. Seconds, long double.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace moesim::reference {

struct Flow {
  std::vector<int> route;
  double bytes = 0;
  double start = 0;
  double weight = 1;
  double cap = 0;  // 0 = none
};

// Raises all rates together, per weight, until a link is full or a cap is reached; stops those; repeats.
inline std::vector<long double> shares(const std::vector<double>& capacity, const std::vector<Flow>& flows,
                                       const std::vector<bool>& active) {
  std::vector<long double> rate(flows.size(), 0);
  std::vector<bool> rising = active;
  while (std::find(rising.begin(), rising.end(), true) != rising.end()) {
    std::vector<long double> used(capacity.size(), 0), weight(capacity.size(), 0);
    for (std::size_t f = 0; f < flows.size(); ++f)
      for (const int l : flows[f].route) {
        if (active[f] && !rising[f]) used[static_cast<std::size_t>(l)] += rate[f];
        if (rising[f]) weight[static_cast<std::size_t>(l)] += flows[f].weight;
      }
    long double level = std::numeric_limits<long double>::infinity();
    for (std::size_t l = 0; l < capacity.size(); ++l)
      if (weight[l] > 0) level = std::min(level, (capacity[l] - used[l]) / weight[l]);
    for (std::size_t f = 0; f < flows.size(); ++f)
      if (rising[f] && flows[f].cap > 0) level = std::min<long double>(level, flows[f].cap / flows[f].weight);
    for (std::size_t f = 0; f < flows.size(); ++f) {
      if (!rising[f]) continue;
      bool stops = flows[f].cap > 0 && flows[f].cap / flows[f].weight <= level * (1 + 1e-15L);
      for (const int l : flows[f].route) {
        const auto i = static_cast<std::size_t>(l);
        stops = stops || (capacity[i] - used[i]) / weight[i] <= level * (1 + 1e-15L);
      }
      if (!stops) continue;
      rate[f] = level * flows[f].weight;
      rising[f] = false;
    }
  }
  return rate;
}

// When each flow ends.
inline std::vector<double> finish_times(const std::vector<double>& capacity, const std::vector<Flow>& flows) {
  std::vector<double> finish(flows.size(), 0);
  std::vector<long double> left;
  std::vector<bool> done(flows.size(), false);
  for (const Flow& f : flows) left.push_back(f.bytes);
  long double now = 0;
  while (std::find(done.begin(), done.end(), false) != done.end()) {
    std::vector<bool> active(flows.size());
    for (std::size_t f = 0; f < flows.size(); ++f) active[f] = !done[f] && flows[f].start <= now;
    const auto rate = shares(capacity, flows, active);
    long double step = std::numeric_limits<long double>::infinity();
    for (std::size_t f = 0; f < flows.size(); ++f) {
      if (active[f]) step = std::min(step, left[f] / rate[f]);
      if (!done[f] && flows[f].start > now) step = std::min(step, flows[f].start - now);
    }
    now += step;
    for (std::size_t f = 0; f < flows.size(); ++f) {
      if (!active[f]) continue;
      left[f] -= rate[f] * step;
      if (left[f] > 1e-12L * flows[f].bytes) continue;
      done[f] = true;
      finish[f] = static_cast<double>(now);
    }
    for (const Flow& f : flows)
      if (std::abs(f.start - now) < 1e-15L * now) now = f.start;
  }
  return finish;
}

}  // namespace moesim::reference
