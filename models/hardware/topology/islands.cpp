#include "models/hardware/islands.hpp"

#include <algorithm>
#include <numeric>

namespace moesim::hardware {

static bool by_nic(const Topology& topology, Rank a, Rank b) {
  const auto kind = [&](LinkId l) { return topology.links()[l.index()].kind; };
  return std::ranges::any_of(topology.route(a, b),
                             [&](LinkId l) { return kind(l) == LinkKind::nic || kind(l) == LinkKind::fabric; });
}

std::vector<std::vector<std::size_t>> islands(const Topology& topology, std::span<const Rank> group) {
  std::vector<std::size_t> order(group.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t place) { return group[place]; });
  std::vector<std::vector<std::size_t>> out;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const Rank here = group[order[i]];
    const bool same = i > 0 && (topology.node_of(here) == topology.node_of(group[order[i - 1]]) ||
                                !by_nic(topology, group[order[i - 1]], here));
    if (!same) out.emplace_back();
    out.back().push_back(order[i]);
  }
  for (auto& island : out) std::ranges::sort(island);
  return out;
}

}  // namespace moesim::hardware
