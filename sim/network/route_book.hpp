// Routes by number. Pairs of ranks whose routes are the same links share a number: their flows can be one class.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "moesim/topology.hpp"

namespace moesim::sim {

class RouteBook {
 public:
  explicit RouteBook(const Topology& topology);

  // from != to.
  std::uint32_t number(Rank from, Rank to);
  [[nodiscard]] std::span<const LinkId> links(std::uint32_t route) const {
    return std::span(links_).subspan(begin_[route], begin_[route + 1] - begin_[route]);
  }
  [[nodiscard]] Picoseconds latency(std::uint32_t route) const { return latency_[route]; }
  [[nodiscard]] std::size_t size() const { return latency_.size(); }

 private:
  std::uint32_t intern(std::span<const LinkId> route);
  void grow();

  const Topology& topology_;
  std::vector<std::vector<std::uint32_t>> by_pair_;  // [from][to], rows on demand
  std::vector<std::uint64_t> begin_{0};
  std::vector<LinkId> links_;
  std::vector<Picoseconds> latency_;
  std::vector<std::uint32_t> slots_;  // open addressing over routes, by their links
};

}  // namespace moesim::sim
