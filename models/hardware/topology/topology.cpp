// From a description to a graph, and what is wrong with a description.
#include <fmt/format.h>

#include <algorithm>

#include "models/hardware/topology/wiring.hpp"

namespace moesim::hardware {

namespace {

class Checker {
 public:
  template <class... Args>
  void require(bool ok, std::string hint, fmt::format_string<Args...> message, Args&&... args) {
    if (!ok) faults.push_back({{}, fmt::format(message, std::forward<Args>(args)...), std::move(hint)});
  }
  void at_least(const char* what, int value, int bound) {
    require(value >= bound, "", "{} = {}, must be at least {}", what, value, bound);
  }
  void link(const char* what, const LinkSpec& l) {
    require(l.nominal.value() > 0 && l.nominal.value() < 1e15, "one direction, as the data sheet says",
            "the bandwidth of {} is {} bytes/s, must be above 0", what, l.nominal.value());
    require(l.efficiency > 0 && l.efficiency <= 1, "", "the efficiency of {} is {}, must be in (0, 1]", what,
            l.efficiency);
    require(l.latency.value() >= 0, "", "the latency of {} is negative", what);
  }
  std::vector<Diagnostic> faults;
};

void check_node(Checker& c, const TopologySpec& spec) {
  using Kind = NodeFabric::Kind;
  const NodeFabric& node = spec.node;
  switch (node.kind) {
    case Kind::single:
      c.require(spec.gpus_per_node == 1, "nvswitch, hybrid_cube_mesh and pcie join several GPUs",
                "a node without a fabric has one GPU, not {}", spec.gpus_per_node);
      break;
    case Kind::nvswitch:
      c.link("the GPU's NVLinks", node.gpu_link);
      break;
    case Kind::hybrid_cube_mesh:
      c.require(spec.gpus_per_node == 8, "", "a hybrid cube mesh joins 8 GPUs, not {}", spec.gpus_per_node);
      c.link("one NVLink", node.gpu_link);
      break;
    case Kind::pcie:
      c.at_least("gpus_per_pcie_switch", node.gpus_per_pcie_switch, 1);
      c.at_least("sockets", node.sockets, 1);
      c.link("a GPU's PCIe link", node.gpu_link);
      c.link("host_bridge", node.host_bridge);
      if (node.sockets > 1) c.link("socket_link", node.socket_link);
      break;
  }
}

void check_network(Checker& c, const TopologySpec& spec) {
  using Kind = NetworkFabric::Kind;
  const NetworkFabric& net = spec.network;
  if (net.kind == Kind::none) {
    c.require(spec.nodes == 1, "name a network between them", "{} nodes without a network", spec.nodes);
    return;
  }
  if (net.kind == Kind::nvlink_domain) {
    c.require(spec.node.kind == NodeFabric::Kind::nvswitch, "", "an NVLink domain joins nodes of kind nvswitch");
    c.at_least("nodes_per_domain", net.nodes_per_domain, 0);
    if (net.nodes_per_domain == 0 || net.nodes_per_domain >= spec.nodes) return;  // no NIC is used
  }
  c.link("a NIC", net.nic);
  if (net.nic_pcie.nominal.value() != 0) c.link("nic_pcie", net.nic_pcie);
  c.at_least("nics_per_node", net.nics_per_node, 1);
  c.require(net.nics_per_node <= spec.gpus_per_node || net.nics_per_node % spec.gpus_per_node == 0,
            "every GPU has equally many", "{} NICs do not divide among {} GPUs", net.nics_per_node, spec.gpus_per_node);
  c.at_least("nodes_per_leaf", net.nodes_per_leaf, 0);
  c.at_least("leaves_per_pod", net.leaves_per_pod, 0);
  c.require(net.switch_latency.value() >= 0, "", "switch_latency is negative");
  const bool tree = net.kind != Kind::single && net.kind != Kind::dragonfly;
  if (tree) {
    c.at_least("spines", net.spines, net.kind == Kind::rail ? 0 : 1);
    c.require(net.oversubscription > 0, "1 = as much up as down", "oversubscription = {}, must be above 0",
              net.oversubscription);
  }
  if (net.kind == Kind::rail) {
    c.require(spec.node.kind != NodeFabric::Kind::pcie, "use leaf_spine", "rails need GPUs with NICs of their own");
    const bool groups = net.nodes_per_leaf > 0 && net.nodes_per_leaf < spec.nodes;
    c.require(net.spines > 0 || !groups, "", "rails without spines join one group of nodes: set nodes_per_leaf = 0");
    c.require(net.spines > 0 || spec.node.kind == NodeFabric::Kind::nvswitch || net.nics_per_node == 1, "",
              "rails without spines need an NVSwitch in the node");
  }
  if (net.kind == Kind::fat_tree3 && net.spines > 0)
    c.require(net.cores >= 0 && net.cores % net.spines == 0, "each spine of a pod has as many cores",
              "{} cores do not divide among {} spines", net.cores, net.spines);
  if (net.kind == Kind::dragonfly) {
    c.at_least("groups", net.groups, 1);
    c.at_least("routers_per_group", net.routers_per_group, 1);
    if (net.local_link.nominal.value() != 0) c.link("local_link", net.local_link);
    if (net.global_link.nominal.value() != 0) c.link("global_link", net.global_link);
  }
}

}  // namespace

std::vector<Diagnostic> faults(const TopologySpec& spec) {
  Checker c;
  c.at_least("nodes", spec.nodes, 1);
  c.at_least("gpus_per_node", spec.gpus_per_node, 1);
  c.require(spec.nodes <= 65536 && spec.gpus_per_node <= 1024, "", "{} nodes of {} GPUs are more than this can number",
            spec.nodes, spec.gpus_per_node);
  check_node(c, spec);
  check_network(c, spec);
  for (const Degradation& d : spec.degraded)
    c.require(d.factor >= 0 && d.factor <= 1, "the part of the capacity that is left",
              "degraded links \"{}\" have factor {}, must be in [0, 1]", d.links, d.factor);
  return std::move(c.faults);
}

std::shared_ptr<const Topology> make_topology(const TopologySpec& spec) {
  if (std::vector<Diagnostic> all = faults(spec); !all.empty()) throw InputError(std::move(all));
  const bool broken = std::any_of(spec.degraded.begin(), spec.degraded.end(), [](auto& d) { return d.factor == 0; });
  std::optional<Wiring> detour;
  if (broken) detour = wire(spec, true);
  return route_over(wire(spec, false), std::move(detour));
}

}  // namespace moesim::hardware
