// What is between nodes. docs/network.md draws each kind.
#include <fmt/format.h>

#include <algorithm>

#include "models/hardware/topology/wiring.hpp"

namespace moesim::hardware {

namespace {

int ceil_div(int a, int b) { return (a + b - 1) / b; }
int or_all(int n, int all) { return n > 0 ? std::min(n, all) : all; }

// A network as it grows: NICs below switches, switches below switches.
class Fabric {
 public:
  Fabric(Wiring& w, const TopologySpec& spec, const std::vector<Attachment>& attachments)
      : w_(w), spec_(spec), net_(spec.network), attachments_(attachments) {}

  // NICs as GPUs see them: more NICs than GPUs work together, several to a GPU, as one.
  [[nodiscard]] int nics() const { return std::min(net_.nics_per_node, spec_.gpus_per_node); }
  [[nodiscard]] double cables() const { return static_cast<double>(net_.nics_per_node) / nics(); }

  void plug(int node, int nic, VertexId into);
  void plug_all(int node, VertexId into) {
    for (int nic = 0; nic < nics(); ++nic) plug(node, nic, into);
  }
  VertexId add(const std::string& scope, const char* what, int index) {
    return w_.add(scope, fmt::format("{}{}", what, index));
  }
  // Every lower switch to every upper one; a lower switch has `down` NICs' worth below it, `ratio` times what goes up.
  void raise(const std::vector<VertexId>& lower, const std::vector<VertexId>& upper, double down, double ratio);
  void join(VertexId a, VertexId b, LinkSpec cable) {
    if (cable.nominal.value() == 0) cable = net_.nic;
    w_.connect(a, b, {LinkKind::fabric, cable, 1, net_.switch_latency, net_.switch_latency});
  }

 private:
  Wiring& w_;
  const TopologySpec& spec_;
  const NetworkFabric& net_;
  const std::vector<Attachment>& attachments_;
};

void Fabric::plug(int node, int nic, VertexId into) {
  const Vertex name{fmt::format("n{}/", node), fmt::format("nic{}", nic)};
  const Cable cable{LinkKind::nic, net_.nic, cables()};
  const LinkId up = w_.link(name, w_.graph[into], cable, net_.switch_latency);
  const LinkId down = w_.link(w_.graph[into], name, cable, {});

  // With a PCIe cable, the NIC is two vertices: what arrives from a GPU goes out, and what comes in goes to a GPU.
  const bool cabled = net_.nic_pcie.nominal.value() > 0;
  Port port{into, into};
  if (cabled) {
    port = {w_.add(name.scope, name.name), w_.add(name.scope, name.name)};
    w_.lay(port.in, into, up);
    w_.lay(into, port.out, down);
  }
  for (int g = 0; g < spec_.gpus_per_node; ++g) {
    if (g * nics() / spec_.gpus_per_node != nic) continue;
    const int rank = node * spec_.gpus_per_node + g;
    const Attachment& at = attachments_[static_cast<std::size_t>(rank)];
    LinkId out = up, in = down;
    if (cabled) {
      const auto [there, back] = w_.connect(at.port, port, {LinkKind::pcie, net_.nic_pcie, cables()});
      out = there;
      in = back;
    } else {
      w_.lay(at.port.out, into, up);
      w_.lay(into, at.port.in, down);
    }
    if (at.relay) w_.lay(*at.relay, port.in, out);
    // On a PCIe switch, the NIC is reached through the switch of the first GPU that uses it.
    if (spec_.node.kind == NodeFabric::Kind::pcie) break;
  }
}

void Fabric::raise(const std::vector<VertexId>& lower, const std::vector<VertexId>& upper, double down, double ratio) {
  LinkSpec up = net_.nic;
  up.nominal = net_.nic.nominal * (down * cables() / ratio / static_cast<double>(upper.size()));
  up.latency = {};
  for (const VertexId a : lower)
    for (const VertexId b : upper)
      w_.connect(a, b, {LinkKind::fabric, up, 1, net_.switch_latency, net_.switch_latency});
}

std::vector<VertexId> add_all(Fabric& fabric, const std::string& scope, const char* what, int count, int first = 0) {
  std::vector<VertexId> out;
  for (int i = 0; i < count; ++i) out.push_back(fabric.add(scope, what, first + i));
  return out;
}

void wire_leaf_spine(Fabric& fabric, const TopologySpec& spec) {
  const int per_leaf = or_all(spec.network.nodes_per_leaf, spec.nodes);
  const std::vector<VertexId> leaves = add_all(fabric, "", "leaf", ceil_div(spec.nodes, per_leaf));
  for (int n = 0; n < spec.nodes; ++n) fabric.plug_all(n, leaves[static_cast<std::size_t>(n / per_leaf)]);
  if (leaves.size() > 1)
    fabric.raise(leaves, add_all(fabric, "", "spine", spec.network.spines), per_leaf * fabric.nics(),
                 spec.network.oversubscription);
}

void wire_rails(Fabric& fabric, const TopologySpec& spec) {
  const int per_leaf = or_all(spec.network.nodes_per_leaf, spec.nodes);
  const int rails = fabric.nics();
  const std::vector<VertexId> leaves = add_all(fabric, "", "leaf", ceil_div(spec.nodes, per_leaf) * rails);
  for (int n = 0; n < spec.nodes; ++n)
    for (int r = 0; r < rails; ++r) {
      const int leaf = n / per_leaf * rails + r;
      fabric.plug(n, r, leaves[static_cast<std::size_t>(leaf)]);
    }
  if (leaves.size() > 1 && spec.network.spines > 0)
    fabric.raise(leaves, add_all(fabric, "", "spine", spec.network.spines), per_leaf, spec.network.oversubscription);
}

// Leaf to every aggregation switch of its pod; aggregation switch i of every pod to cores i * cores / spines and on.
void wire_fat_tree3(Fabric& fabric, const TopologySpec& spec) {
  const NetworkFabric& net = spec.network;
  const int per_leaf = or_all(net.nodes_per_leaf, spec.nodes);
  const int leaf_count = ceil_div(spec.nodes, per_leaf);
  const int per_pod = or_all(net.leaves_per_pod, leaf_count);
  const int pods = ceil_div(leaf_count, per_pod);
  const int planes = net.spines;
  const int cores = net.cores > 0 ? net.cores : planes;
  const std::vector<VertexId> core = pods > 1 ? add_all(fabric, "", "core", cores) : std::vector<VertexId>{};
  int node = 0;
  for (int p = 0; p < pods; ++p) {
    const std::string scope = fmt::format("pod{}/", p);
    const std::vector<VertexId> leaves = add_all(fabric, scope, "leaf", std::min(per_pod, leaf_count - p * per_pod));
    for (const VertexId leaf : leaves)
      for (int i = 0; i < per_leaf && node < spec.nodes; ++i) fabric.plug_all(node++, leaf);
    const std::vector<VertexId> spines = add_all(fabric, scope, "spine", planes);
    const double down = per_leaf * fabric.nics();
    fabric.raise(leaves, spines, down, net.oversubscription);
    const auto plane_cores = static_cast<std::ptrdiff_t>(core.size()) / planes;
    for (std::ptrdiff_t s = 0; plane_cores > 0 && s < planes; ++s)
      fabric.raise({spines[static_cast<std::size_t>(s)]},
                   {core.begin() + s * plane_cores, core.begin() + (s + 1) * plane_cores},
                   per_pod * down / net.oversubscription / planes, 1.0);
  }
}

// Groups a < b are joined by one cable between router (b - 1) mod R of a and router a mod R of b, so that the G - 1
// cables of a group are dealt over its R routers. Kim, Dally, Scott, Abts: Technology-Driven, Highly-Scalable Dragonfly
// Topology, ISCA 2008. Routes are minimal.
void wire_dragonfly(Fabric& fabric, const TopologySpec& spec) {
  const NetworkFabric& net = spec.network;
  const int routers = net.routers_per_group;
  const int per_router = ceil_div(spec.nodes, net.groups * routers);
  std::vector<std::vector<VertexId>> group;
  for (int g = 0; g < net.groups; ++g) {
    group.push_back(add_all(fabric, fmt::format("group{}/", g), "router", routers));
    for (std::size_t a = 0; a < group.back().size(); ++a)
      for (std::size_t b = a + 1; b < group.back().size(); ++b)
        fabric.join(group.back()[a], group.back()[b], net.local_link);
  }
  for (int a = 0; a < net.groups; ++a)
    for (int b = a + 1; b < net.groups; ++b)
      fabric.join(group[static_cast<std::size_t>(a)][static_cast<std::size_t>((b - 1) % routers)],
                  group[static_cast<std::size_t>(b)][static_cast<std::size_t>(a % routers)], net.global_link);
  for (int n = 0; n < spec.nodes; ++n) {
    const int router = n / per_router;
    fabric.plug_all(n, group[static_cast<std::size_t>(router / routers)][static_cast<std::size_t>(router % routers)]);
  }
}

}  // namespace

void wire_network(Wiring& w, const TopologySpec& spec, const std::vector<Attachment>& attachments) {
  using Kind = NetworkFabric::Kind;
  Fabric fabric(w, spec, attachments);
  switch (spec.network.kind) {
    case Kind::none:
      break;
    case Kind::single: {
      const VertexId all = w.add("", "switch");
      for (int n = 0; n < spec.nodes; ++n) fabric.plug_all(n, all);
      break;
    }
    case Kind::rail:
      wire_rails(fabric, spec);
      break;
    case Kind::leaf_spine:
      wire_leaf_spine(fabric, spec);
      break;
    case Kind::fat_tree3:
      wire_fat_tree3(fabric, spec);
      break;
    case Kind::dragonfly:
      wire_dragonfly(fabric, spec);
      break;
    case Kind::nvlink_domain:
      if (or_all(spec.network.nodes_per_domain, spec.nodes) < spec.nodes) wire_leaf_spine(fabric, spec);
      break;
  }
}

}  // namespace moesim::hardware
