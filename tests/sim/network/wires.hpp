// A topology given as plain links and one route per flow: flow f goes from rank 2f to rank 2f + 1.
#pragma once

#include <fmt/format.h>

#include <vector>

#include "moesim/topology.hpp"

namespace moesim {

class Wires final : public Topology {
 public:
  Wires(const std::vector<double>& capacity, const std::vector<std::vector<int>>& routes,
        const std::vector<std::int64_t>& latency = {}) {
    for (std::size_t l = 0; l < capacity.size(); ++l)
      links_.push_back({.name = fmt::format("l{}", l),
                        .capacity = BytesPerSecond(capacity[l]),
                        .nominal = BytesPerSecond(capacity[l]),
                        .latency = Picoseconds(latency.empty() ? 0 : latency[l])});
    for (const auto& r : routes) {
      routes_.emplace_back();
      for (const int l : r) routes_.back().emplace_back(l);
    }
  }
  [[nodiscard]] int ranks() const override { return 2 * static_cast<int>(routes_.size()); }
  [[nodiscard]] int nodes() const override { return 1; }
  [[nodiscard]] Node node_of(Rank) const override { return Node(0); }
  [[nodiscard]] std::span<const Link> links() const override { return links_; }
  [[nodiscard]] std::span<const LinkId> route(Rank from, Rank) const override { return routes_[from.index() / 2]; }

 private:
  std::vector<Link> links_;
  std::vector<std::vector<LinkId>> routes_;
};

}  // namespace moesim
