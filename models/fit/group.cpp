#include "models/fit/group.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <numeric>
#include <set>

#include "models/fit/group_builder.hpp"

namespace moesim::fit {
namespace {

constexpr int shape_folds = 5;

// FNV-1a: the same folds on every machine and in every version of a standard library.
std::uint64_t hash(std::string_view text) {
  std::uint64_t h = 14695981039346656037ULL;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  return h ^ (h >> 29);
}

std::vector<int> by_shape(const Group& group) {
  std::set<std::string> shapes(group.shape.begin(), group.shape.end());
  std::vector<std::string> order(shapes.begin(), shapes.end());
  std::stable_sort(order.begin(), order.end(),
                   [](const std::string& a, const std::string& b) { return hash(a) < hash(b); });
  const int n = std::min(shape_folds, static_cast<int>(order.size()));
  std::map<std::string, int> fold;
  for (std::size_t i = 0; i < order.size(); ++i) fold[order[i]] = static_cast<int>(i) % n;
  std::vector<int> out;
  for (const std::string& s : group.shape) out.push_back(fold[s]);
  return out;
}

// Five ranges of equal numbers of rows.
std::vector<int> by_size(const Group& group) {
  std::vector<double> sorted = group.size;
  std::sort(sorted.begin(), sorted.end());
  std::vector<int> out;
  for (const double size : group.size) {
    const auto below = std::lower_bound(sorted.begin(), sorted.end(), size) - sorted.begin();
    out.push_back(static_cast<int>(below * shape_folds / static_cast<std::ptrdiff_t>(sorted.size())));
  }
  return out;
}

// Dispatch and combine have few rows of several nodes, of one shape: those are predicted from one node's rows; one
// node's rows are held out by shape.
std::vector<int> nodes_from_one(const Group& group) {
  const int least = *std::min_element(group.count.begin(), group.count.end());
  std::vector<int> out = by_shape(group);
  const int several = 1 + *std::max_element(out.begin(), out.end());
  for (std::size_t i = 0; i < out.size(); ++i)
    if (group.count[i] > least) out[i] = several;
  return out;
}

std::vector<int> by_count(const Group& group) {
  if (group.entry.schema == "deepep") return nodes_from_one(group);
  std::map<int, int> fold;
  for (const int c : group.count) fold.emplace(c, 0);
  int next = 0;
  for (auto& [count, f] : fold) f = next++;
  std::vector<int> out;
  for (const int c : group.count) out.push_back(fold[c]);
  return out;
}

}  // namespace

std::string_view to_string(Holdout holdout) {
  switch (holdout) {
    case Holdout::shape:
      return "shape";
    case Holdout::size:
      return "size";
    case Holdout::count:
      return "count";
  }
  return "shape";
}

std::vector<int> folds(const Group& group, Holdout holdout) {
  std::vector<int> out = holdout == Holdout::shape  ? by_shape(group)
                         : holdout == Holdout::size ? by_size(group)
                                                    : by_count(group);
  if (std::set<int>(out.begin(), out.end()).size() < 2)
    throw InputError({},
                     fmt::format("the {} rows of {} {} cannot be held out by {}: they have only one",
                                 group.entry.schema, group.entry.library, group.entry.dtype, to_string(holdout)),
                     "hold out by shape, size or count, whichever varies");
  return out;
}

cost::Fabric fabric_of(const hardware::MachineSpec& machine) {
  cost::Fabric out;
  out.link = machine.node.gpu_link.nominal.value() * 1e-6;
  out.nic = machine.network.nic.nominal.value() * 1e-6 * machine.network.nics_per_node / machine.gpus_per_node;
  out.memory = machine.gpu.memory_bandwidth.value() * 1e-6;
  out.in_switch = machine.collectives.in_switch > 0;
  return out;
}

void Builder::add(Row row) {
  Group& g = group;
  const double bound = std::max(row.bound_us, 1e-6);
  g.log_us.push_back(std::log(row.us));
  g.places.push_back(row.place);
  g.shape.push_back(std::move(row.shape));
  g.size.push_back(row.size);
  g.count.push_back(row.count);
  g.regime.push_back(std::move(row.regime));
  g.log_bound.push_back(std::log(bound));
  g.log_roofline.push_back(std::log(std::max(row.roofline_us, bound)));
  g.coordinates.push_back(row.coordinates);
  g.train.push_back(row.train);
}

void Builder::range(std::string_view quantity, double value) {
  for (cost::CalibratedRange& r : group.entry.ranges)
    if (r.quantity == quantity) {
      r.low = std::min(r.low, value);
      r.high = std::max(r.high, value);
      return;
    }
  group.entry.ranges.push_back({std::string(quantity), value, value});
}

void check_units(const Group& group, const std::string& machine) {
  constexpr double cache = 2.0;      // operands that stay in the cache let small kernels beat the memory bandwidth
  constexpr double shortest = 0.3;   // us: no GPU starts and ends a kernel faster
  constexpr double slowest = 300.0;  // times the data sheet and 10 us more, for the median row
  const auto fault = [&](std::size_t i, double us, double bound) -> Diagnostic {
    const bool short_time = us < shortest;
    return {group.places[i],
            short_time ? fmt::format("{:.4g} us: no kernel of a GPU is that short", us)
                       : fmt::format("{:.4g} us is {:.3g} times what {} can do by its data sheet ({:.4g} us)", us,
                                     bound / us, machine, bound),
            "times are microseconds: were they milliseconds? or another GPU's?"};
  };
  std::vector<Diagnostic> faults;
  std::vector<double> slowness;
  std::size_t total = 0;
  for (std::size_t i = 0; i < group.rows(); ++i) {
    const double us = std::exp(group.log_us[i]);
    const double bound = std::exp(group.log_bound[i]);
    slowness.push_back(us / (bound + 10));
    if (us >= shortest && us * cache >= bound) continue;
    if (++total <= 5) faults.push_back(fault(i, us, bound));
  }
  if (total > 5) faults.push_back({{}, fmt::format("{} more rows like that", total - 5), {}});
  if (!faults.empty()) throw InputError(std::move(faults));
  const auto middle = slowness.begin() + static_cast<std::ptrdiff_t>(slowness.size() / 2);
  std::nth_element(slowness.begin(), middle, slowness.end());
  if (*middle > slowest)
    throw InputError(
        group.places.front(),
        fmt::format("half of the {} {} {} rows are more than {:.0f} times slower than {} by its data sheet",
                    group.entry.library, group.entry.dtype, group.entry.schema, *middle, machine),
        "times are microseconds: were they nanoseconds?");
}

}  // namespace moesim::fit
