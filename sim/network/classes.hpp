// Flows of one component sorted into classes: flows whose shares are always equal.
//
// Flows on the same links (a path) with the same weight and cap are a class. With `join`, paths that differ only where
// they are far from full are one class too: eight GPUs of a node that send to the same GPU elsewhere share the NICs on
// both sides, and their own NVLinks, which differ, would carry many times what the NICs let through. What the class
// puts on each link is counted, so no link is left out; should one that is not common to all of a class saturate first,
// WaterFill::fill says so, and the flows have to be sorted again without `join`. docs/network.md, "Classes".
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sim/network/route_book.hpp"
#include "sim/network/transfers.hpp"

namespace moesim::sim {

// A flow that drains, on its way into or out of a component.
struct Entry {
  std::uint32_t route;
  double weight;
  double cap;     // bytes per second, infinity = none
  Member member;  // target = bytes left
  // Of bounded batches so far, ps. Had they released early, the flow would end so much sooner, and late, later; links
  // on its way idled so long.
  double early = 0;
  double late = 0;
  double lost = 0;
};

struct Classes {
  std::vector<LinkId> links;          // that the flows cross
  std::vector<std::uint32_t> merged;  // by these: the link as it is known here: links with the same flows are merged
  std::vector<double> capacity;       // of merged links: the least

  // By path.
  std::vector<std::uint32_t> route;
  std::vector<std::uint32_t> path_begin{0}, path_hops;
  std::vector<double> early, late, lost;  // of Entry, the worst of its flows

  // By class. hop_load: weight * flows of the class that cross the link.
  std::vector<std::uint32_t> begin{0}, hops;
  std::vector<double> hop_load;
  std::vector<double> load, caps, weight;  // weight * flows; cap / weight; of one flow
  std::vector<std::uint32_t> first, end;   // of its flows
  std::vector<Member> members;             // class by class, in each by target; Member::path is set

  [[nodiscard]] std::size_t size() const { return load.size(); }
};

// entries: not empty; they are sorted. scratch: [links of the topology], all 2^32 - 1 before and after.
Classes classify(std::vector<Entry>& entries, const RouteBook& routes, const Topology& topology,
                 std::vector<std::uint32_t>& scratch, bool join);

}  // namespace moesim::sim
