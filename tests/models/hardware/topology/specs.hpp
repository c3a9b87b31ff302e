// Descriptions that the topology tests start from, and what they look at.
#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "models/hardware/topology_spec.hpp"
#include "moesim/error.hpp"

namespace moesim::hardware {

using namespace literals;

inline TopologySpec nvswitch_node(int gpus = 8) {
  TopologySpec s;
  s.gpus_per_node = gpus;
  s.node.gpu_link = {450_GBps, 0.8, 500_ns};
  return s;
}

// Nodes of 8 on NVSwitch with 8 NICs.
inline TopologySpec cluster(NetworkFabric::Kind kind, int nodes) {
  TopologySpec s = nvswitch_node();
  s.nodes = nodes;
  s.network.kind = kind;
  s.network.nic = {50_GBps, 0.9, 1_us};
  s.network.nics_per_node = 8;
  s.network.switch_latency = 300_ns;
  return s;
}

inline std::vector<std::string> names(const Topology& t, int from, int to) {
  std::vector<std::string> out;
  for (const LinkId l : t.route(Rank(from), Rank(to))) out.push_back(t.links()[l.index()].name);
  return out;
}

inline std::size_t hops(const Topology& t, int from, int to) { return t.route(Rank(from), Rank(to)).size(); }

inline const Link& link(const Topology& t, const std::string& name) {
  const auto found = std::ranges::find(t.links(), name, &Link::name);
  if (found == t.links().end()) throw std::out_of_range("no link " + name);
  return *found;
}

}  // namespace moesim::hardware
