#include "models/load/line.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

#include "models/load/apportion.hpp"

namespace moesim::load {
namespace {

std::vector<std::int64_t> lengths(std::span<const double> inclusion, std::int64_t unit) {
  std::vector<double> quotas(inclusion.begin(), inclusion.end());
  for (double& q : quotas) q *= static_cast<double>(unit);
  return apportion(quotas, std::llround(std::accumulate(inclusion.begin(), inclusion.end(), 0.0)) * unit);
}

}  // namespace

Line::Line(std::span<const double> inclusion, std::int64_t unit, std::span<const std::size_t> order) : unit_(unit) {
  const std::vector<std::int64_t> length_of = lengths(inclusion, unit);
  std::int64_t total = 0;
  for (const std::size_t i : order) {
    if (length_of[i] == 0) continue;
    total += length_of[i];
    end_.push_back(total);
    item_.push_back(static_cast<ExpertIndex>(i));
  }

  while ((total >> shift_) > static_cast<std::int64_t>(4 * item_.size())) ++shift_;
  std::size_t position = 0;
  for (std::int64_t stretch = 0; stretch << shift_ < total; ++stretch) {
    while (end_[position] <= stretch << shift_) ++position;
    first_at_.push_back(static_cast<std::uint16_t>(position));
  }
}

Lanes::Lanes(std::span<const double> inclusion, std::span<const std::size_t> order) {
  constexpr std::int64_t unit = std::int64_t{1} << 32;  // integers, so that the cuts are exact
  const std::vector<std::int64_t> length_of = lengths(inclusion, unit);
  Lane lane;
  std::int64_t filled = 0;  // of the lane
  std::vector<std::pair<ExpertIndex, double>> parts;
  const auto close = [&] {
    lane.first_cell = static_cast<std::uint32_t>(cells_.size());
    add_cells(parts);
    lane.cells = static_cast<std::uint32_t>(cells_.size()) - lane.first_cell;
    lanes_.push_back(lane);
    lane = Lane{};
    filled = 0;
    parts.clear();
  };
  for (const std::size_t i : order) {
    const std::int64_t here = std::min(length_of[i], unit - filled);  // a, where it straddles
    const std::int64_t beyond = length_of[i] - here;                  // b
    if (here > 0) parts.emplace_back(static_cast<ExpertIndex>(i), static_cast<double>(here));
    filled += here;
    if (beyond > 0) lane.tail = i;
    if (filled == unit) close();
    if (beyond == 0) continue;
    assert(here < unit);  // no item is longer than a lane
    lane.head = i;
    lane.head_threshold =
        static_cast<std::uint64_t>((static_cast<uint128>(beyond) << 32) / static_cast<uint128>(unit - here));
    filled = beyond;
  }
  assert(filled == 0 && lane.head == nobody);
}

void Lanes::add_cells(std::span<const std::pair<ExpertIndex, double>> parts) {  // Vose's construction
  double total = 0;
  for (const auto& [item, weight] : parts) total += weight;
  std::vector<double> share(parts.size());
  std::vector<std::size_t> poor;
  std::vector<std::size_t> rich;
  const std::size_t first = cells_.size();
  for (std::size_t i = 0; i < parts.size(); ++i) {
    share[i] = parts[i].second / total * static_cast<double>(parts.size());
    (share[i] < 1 ? poor : rich).push_back(i);
    cells_.push_back({0, {parts[i].first, parts[i].first}});
  }
  while (!poor.empty() && !rich.empty()) {
    const std::size_t small = poor.back();
    const std::size_t large = rich.back();
    poor.pop_back();
    cells_[first + small].threshold = static_cast<std::uint32_t>(std::min(share[small] * 0x1p32, 0x1p32 - 1));
    cells_[first + small].item[0] = parts[large].first;
    share[large] -= 1 - share[small];
    if (share[large] >= 1) continue;
    rich.pop_back();
    poor.push_back(large);
  }
}

}  // namespace moesim::load
