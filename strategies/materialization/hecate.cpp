// Hecate's two algorithms (arXiv 2502.02581, section 4).
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "strategies/materialization/holders.hpp"
#include "strategies/materialization/materialization.hpp"

namespace moesim::materialization {
namespace {

// `total` seats in proportion to weights, largest remainders, at most `most` each.
std::vector<std::int64_t> seats(std::span<const double> weights, std::int64_t total, std::int64_t most) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<std::int64_t> out(weights.size());
  std::vector<std::pair<double, std::size_t>> remainders;
  std::int64_t given = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double quota = sum > 0 ? weights[i] / sum * static_cast<double>(total)
                                 : static_cast<double>(total) / static_cast<double>(weights.size());
    out[i] = std::min(most, static_cast<std::int64_t>(quota));
    given += out[i];
    // Equal remainders stay equal whatever the rounding: the hotter expert comes first.
    remainders.emplace_back(std::round((static_cast<double>(out[i]) - quota) * 1e9), i);
  }
  std::ranges::stable_sort(remainders, {}, [](const auto& r) { return r.first; });
  for (bool any = true; given < total && any;) {  // a seat that one may not take goes to the next
    any = false;
    for (const auto& [remainder, i] : remainders)
      if (given < total && out[i] < most) {
        ++out[i];
        ++given;
        any = true;
      }
  }
  return out;
}

}  // namespace

std::vector<int> hottest_first(std::span<const double> load) {
  std::vector<int> order(load.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(
      order, [&](int a, int b) { return load[static_cast<std::size_t>(a)] > load[static_cast<std::size_t>(b)]; });
  return order;
}

std::int64_t overlap_degree(Picoseconds hidden, BytesPerSecond bandwidth, Bytes expert) {
  const double experts = to_seconds(hidden) * bandwidth.value() / static_cast<double>(expert.value());
  return static_cast<std::int64_t>(experts * (1 + 1e-12));  // a whole number but for rounding is that number
}

ExpertPlacement materialize(const ExpertPlacement& owners, std::span<const double> load, std::int64_t t,
                            std::int64_t slots, int devices_per_node) {
  const auto experts = static_cast<int>(load.size());
  t = std::min<std::int64_t>(t, experts);
  slots = std::min(slots, t);
  if (t <= 0 || slots <= 0) return owners;
  Holders held(owners, experts);
  std::vector<int> hottest = hottest_first(load);
  hottest.resize(static_cast<std::size_t>(t));
  const int devices = held.devices();
  if (t <= slots) {
    for (const int e : hottest)
      for (int d = 0; d < devices; ++d) held.set(e, d, true);
    return held.placement();
  }
  std::vector<double> weights;
  for (const int e : hottest) weights.push_back(load[static_cast<std::size_t>(e)]);
  const std::vector<std::int64_t> replicas = seats(weights, devices * slots, devices - 1);
  std::vector<std::int64_t> room(static_cast<std::size_t>(devices), slots);
  for (std::size_t i = 0; i < hottest.size(); ++i) {
    const int e = hottest[i];
    for (std::int64_t r = 0; r < replicas[i]; ++r) {
      const int nodes = (devices + devices_per_node - 1) / devices_per_node;
      std::vector<bool> served(static_cast<std::size_t>(nodes));
      std::vector<std::int64_t> node_room(static_cast<std::size_t>(nodes));
      for (int d = 0; d < devices; ++d) {
        const auto n = static_cast<std::size_t>(d / devices_per_node);
        served[n] = served[n] || held.has(e, d);
        node_room[n] += room[static_cast<std::size_t>(d)];
      }
      int best = -1;
      const auto key = [&](int d) {
        const auto n = static_cast<std::size_t>(d / devices_per_node);
        return std::tuple(!served[n], node_room[n], room[static_cast<std::size_t>(d)]);
      };
      for (int d = 0; d < devices; ++d)
        if (!held.has(e, d) && room[static_cast<std::size_t>(d)] > 0 && (best < 0 || key(d) > key(best))) best = d;
      if (best < 0) break;
      held.set(e, best, true);
      --room[static_cast<std::size_t>(best)];
    }
  }
  return held.placement();
}

std::vector<ExpertPlacement> shard_heterogeneously(const std::vector<Loads>& loads, std::int64_t t, int devices,
                                                   int devices_per_node) {
  const std::size_t layers = loads.size();
  const auto experts = static_cast<int>(loads.front().size());
  const std::int64_t all = static_cast<std::int64_t>(layers) * experts;
  std::vector<std::int64_t> room(static_cast<std::size_t>(devices), (all + devices - 1) / devices);
  std::vector<Holders> held(layers, Holders(experts, devices));
  const auto nodes = static_cast<std::size_t>((devices + devices_per_node - 1) / devices_per_node);

  std::vector<std::size_t> order(layers);
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(
      order, [&](std::size_t a, std::size_t b) { return std::ranges::max(loads[a]) > std::ranges::max(loads[b]); });
  const auto hot = static_cast<std::size_t>(std::clamp<std::int64_t>(t, 0, experts));
  for (const std::size_t l : order) {
    std::vector<double> node_load(nodes);
    std::vector<double> load(static_cast<std::size_t>(devices));
    const std::vector<int> by_load = hottest_first(loads[l]);
    for (std::size_t i = hot; i < by_load.size(); ++i) {
      const auto key = [&](int d) {
        return std::tuple(node_load[static_cast<std::size_t>(d / devices_per_node)], load[static_cast<std::size_t>(d)],
                          -room[static_cast<std::size_t>(d)]);
      };
      int best = -1;
      for (int d = 0; d < devices; ++d)
        if (room[static_cast<std::size_t>(d)] > 0 && (best < 0 || key(d) < key(best))) best = d;
      const double tokens = loads[l][static_cast<std::size_t>(by_load[i])];
      held[l].set(by_load[i], best, true);
      --room[static_cast<std::size_t>(best)];
      load[static_cast<std::size_t>(best)] += tokens;
      node_load[static_cast<std::size_t>(best / devices_per_node)] += tokens;
    }
  }
  for (const std::size_t l : order) {
    const std::vector<int> by_load = hottest_first(loads[l]);
    for (std::size_t i = 0; i < hot; ++i) {
      const auto best = std::ranges::max_element(room) - room.begin();
      held[l].set(by_load[i], static_cast<int>(best), true);
      --room[static_cast<std::size_t>(best)];
    }
  }
  std::vector<ExpertPlacement> out;
  for (const Holders& h : held) out.push_back(h.placement());
  return out;
}

std::int64_t gathered(const ExpertPlacement& from, const ExpertPlacement& to) { return moves(from, to).sum(); }

}  // namespace moesim::materialization
