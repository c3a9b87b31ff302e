#include "models/load/inclusion.hpp"

#include <algorithm>
#include <cassert>
#include <numeric>

namespace moesim::load {

std::vector<double> capped(std::span<const double> weights, double total) {
  std::vector<std::size_t> falling(weights.size());
  std::iota(falling.begin(), falling.end(), std::size_t{0});
  std::stable_sort(falling.begin(), falling.end(),
                   [&](std::size_t a, std::size_t b) { return weights[a] > weights[b]; });
  std::vector<double> rest(weights.size() + 1, 0.0);  // rest[i]: weight of falling[i], falling[i + 1], ...
  for (std::size_t i = weights.size(); i-- > 0;) rest[i] = rest[i + 1] + weights[falling[i]];

  std::vector<double> out(weights.size(), 0.0);
  std::size_t full = 0;  // the heaviest are certain for as long as their scaled weight reaches 1
  while (full < falling.size() && total - static_cast<double>(full) > 0 &&
         weights[falling[full]] * (total - static_cast<double>(full)) >= rest[full])
    out[falling[full++]] = 1.0;
  const double scale = rest[full] > 0 ? std::max(0.0, total - static_cast<double>(full)) / rest[full] : 0.0;
  for (std::size_t i = full; i < falling.size(); ++i) out[falling[i]] = std::min(1.0, scale * weights[falling[i]]);
  return out;
}

RoutingShape simplified(RoutingShape shape) {
  shape.groups_per_token = std::min(shape.groups_per_token, shape.top_k);
  if (shape.groups_per_token == shape.expert_groups) shape.expert_groups = shape.groups_per_token = 1;
  return shape;
}

Inclusion inclusion_of(std::span<const double> shares, const RoutingShape& shape) {
  const auto groups = static_cast<std::size_t>(shape.expert_groups);
  const std::size_t size = shares.size() / groups;
  const double q = static_cast<double>(shape.top_k) / shape.groups_per_token;
  assert(size * groups == shares.size());

  std::vector<double> mass(groups);
  for (std::size_t g = 0; g < groups; ++g) {
    const auto mine = shares.subspan(g * size, size);
    mass[g] = std::accumulate(mine.begin(), mine.end(), 0.0);
  }
  Inclusion out{capped(mass, shape.groups_per_token), {}};
  for (std::size_t g = 0; g < groups; ++g) {
    const std::vector<double> inside = capped(shares.subspan(g * size, size), q);
    out.expert.insert(out.expert.end(), inside.begin(), inside.end());
  }
  return out;
}

}  // namespace moesim::load
