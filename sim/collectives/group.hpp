// The members of one group as a collective sees them: where they are, what they say, what a message costs.
#pragma once

#include <cstdint>
#include <vector>

#include "sim/collectives/lowering.hpp"

namespace moesim::sim {

// Members by place: `islands` are joined inside by NVLink or PCIe (a node, or several in one NVLink domain), and with
// each other by NICs. Places are positions in the group.
class Group {
 public:
  Group(const Plan& plan, const Collective& collective, std::size_t group, const Cluster& cluster);

  [[nodiscard]] std::size_t size() const { return ranks_.size(); }
  [[nodiscard]] Rank rank(std::size_t place) const { return ranks_[place]; }
  [[nodiscard]] const std::vector<std::vector<std::size_t>>& islands() const { return islands_; }
  [[nodiscard]] std::size_t island_of(std::size_t place) const { return island_of_[place]; }
  [[nodiscard]] bool crosses(std::size_t a, std::size_t b) const { return island_of_[a] != island_of_[b]; }
  // Members of every island, when all have equally many; else 0.
  [[nodiscard]] std::size_t width() const { return width_; }

  [[nodiscard]] Bytes bytes(std::int64_t rows) const;
  // Of the counts table: what a member contributes, and what it has for another.
  [[nodiscard]] Bytes contribution(std::size_t place) const;
  [[nodiscard]] Bytes for_member(std::size_t from, std::size_t to) const;

  [[nodiscard]] const Plan& plan() const { return plan_; }
  [[nodiscard]] const Collective& collective() const { return collective_; }
  [[nodiscard]] const Cluster& cluster() const { return cluster_; }
  [[nodiscard]] const CollectiveCosts& costs() const { return cluster_.collectives; }
  // Sequential messages, the latency of a chain of them.
  [[nodiscard]] Picoseconds steps(std::int64_t intra, std::int64_t inter) const;

 private:
  const Plan& plan_;
  const Collective& collective_;
  const Cluster& cluster_;
  const std::vector<Rank>& ranks_;
  std::vector<std::vector<std::size_t>> islands_;
  std::vector<std::size_t> island_of_;
  std::size_t width_ = 0;
};

// Rings through all members that together use what the wires offer; shares add up to 1. docs/network.md, "Rings".
struct Ring {
  std::vector<std::size_t> places;
  double share = 1.0;
};
std::vector<Ring> rings(const Group& group);

// Part r of `bytes` dealt over the rings by their shares; parts add up exactly.
Bytes part(Bytes bytes, const std::vector<Ring>& rings, std::size_t r);

// Flows between members, collected in any order; those of one pair become one.
class FlowList {
 public:
  explicit FlowList(const Group& group) : group_(group) {}
  void add(std::size_t from, std::size_t to, Bytes bytes, BytesPerSecond cap = {});
  // One stage of them. messages: that the busiest member sends at once, 0 = count the flows.
  [[nodiscard]] Stage stage(Picoseconds latency, std::int64_t messages = 0) &&;

 private:
  const Group& group_;
  std::vector<Flow> flows_;
};

// One per family; each file has the equations.
std::vector<Stage> all_to_all_direct(const Group& group);
std::vector<Stage> all_to_all_hierarchical(const Group& group);
std::vector<Stage> all_gather_ring(const Group& group);
std::vector<Stage> all_gather_direct(const Group& group);
std::vector<Stage> reduce_scatter_ring(const Group& group);
std::vector<Stage> reduce_scatter_direct(const Group& group);
std::vector<Stage> all_gather_per_root(const Group& group);
std::vector<Stage> reduce_scatter_per_root(const Group& group);
std::vector<Stage> broadcast_ring(const Group& group);
std::vector<Stage> reduce_ring(const Group& group);
std::vector<Stage> all_reduce_ring(const Group& group);
std::vector<Stage> all_reduce_tree(const Group& group);
std::vector<Stage> all_reduce_in_switch(const Group& group);
std::vector<Stage> sparse_all_gather(const Group& group);
std::vector<Stage> sparse_reduce_scatter(const Group& group);

// What the calibration of the cluster knows of this collective, in place of the machine file's latencies. Empty where
// it has no calibration, or none for the kind and algorithm.
std::vector<Stage> measured(const Group& group);

// Latencies, and for each stage its busiest link (or capped flow) alone: no schedule is faster.
Picoseconds least_time(const std::vector<Stage>& stages, const Topology& topology);

}  // namespace moesim::sim
