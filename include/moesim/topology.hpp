// The wires of a cluster as a directed graph. The graph itself is a Boost.Graph value inside models/hardware; what
// crosses rooms is this: named directed links, and the route that a message takes between two ranks.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "moesim/ids.hpp"
#include "moesim/units.hpp"

namespace moesim {

enum class LinkKind : std::uint8_t { nvlink, pcie, nic, fabric };

struct Link {
  std::string name;  // "n0/gpu3>nvswitch": node, from, to
  LinkKind kind = LinkKind::nvlink;
  BytesPerSecond capacity;  // one direction, what a long transfer achieves (nominal * efficiency)
  BytesPerSecond nominal;   // one direction, data sheet: the bound that no result may beat
  Picoseconds latency;      // of one hop
};

class Topology {
 public:
  virtual ~Topology() = default;
  [[nodiscard]] virtual int ranks() const = 0;
  [[nodiscard]] virtual int nodes() const = 0;
  [[nodiscard]] virtual Node node_of(Rank rank) const = 0;
  [[nodiscard]] virtual std::span<const Link> links() const = 0;
  // Links from one rank to another, in order; empty when from == to. Shortest path by hops; equal paths are chosen by a
  // deterministic hash of (from, to), as ECMP does. The span stays valid for the life of the topology.
  // Throws InputError when the cluster's graph does not connect the two.
  [[nodiscard]] virtual std::span<const LinkId> route(Rank from, Rank to) const = 0;
};

}  // namespace moesim
