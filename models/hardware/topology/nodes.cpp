// What is inside a node.
#include <fmt/format.h>

#include <array>

#include "models/hardware/topology/wiring.hpp"

namespace moesim::hardware {

namespace {

struct Neighbours {
  int a, b;
  double links;
};

// The 24 NVLinks of a DGX-1 with 8 V100 (6 a GPU): NVIDIA DGX-1 With Tesla V100 System Architecture, WP-08437-002,
// figure 4; the same as `nvidia-smi topo -m` prints there.
constexpr std::array<Neighbours, 16> cube_mesh{{{0, 1, 1},
                                                {0, 2, 1},
                                                {0, 3, 2},
                                                {0, 4, 2},
                                                {1, 2, 2},
                                                {1, 3, 1},
                                                {1, 5, 2},
                                                {2, 3, 2},
                                                {2, 6, 1},
                                                {3, 7, 1},
                                                {4, 5, 1},
                                                {4, 6, 1},
                                                {4, 7, 2},
                                                {5, 6, 2},
                                                {5, 7, 1},
                                                {6, 7, 2}}};

bool neighbours_relay(const NetworkFabric& network) {
  return network.kind == NetworkFabric::Kind::rail && (network.pxn || network.spines == 0);
}

void wire_nvswitch(Wiring& w, const TopologySpec& spec, const std::string& scope, std::size_t first, VertexId nvswitch,
                   std::vector<Attachment>& attachments) {
  for (std::size_t r = first; r < w.ports.size(); ++r) {
    const auto [up, down] = w.connect(w.ports[r], {nvswitch, nvswitch}, {LinkKind::nvlink, spec.node.gpu_link});
    if (!neighbours_relay(spec.network)) continue;
    attachments[r].relay = w.add(scope, fmt::format("gpu{}", r - first));
    w.lay(nvswitch, *attachments[r].relay, down);
  }
}

// GPU 2i and 2i+1 below PCIe switch i, the switches dealt to the sockets in order. A NIC sits on its GPU's PCIe switch.
void wire_pcie(Wiring& w, const TopologySpec& spec, const std::string& scope, std::size_t first,
               std::vector<Attachment>& attachments) {
  const NodeFabric& node = spec.node;
  const int switches = (spec.gpus_per_node + node.gpus_per_pcie_switch - 1) / node.gpus_per_pcie_switch;
  std::vector<VertexId> sockets;
  for (int s = 0; s < node.sockets; ++s) sockets.push_back(w.add(scope, fmt::format("socket{}", s)));
  for (int p = 0; p < switches; ++p) {
    const VertexId plx = w.add(scope, fmt::format("pcie{}", p));
    const auto socket = static_cast<std::size_t>(p * node.sockets / switches);
    const std::size_t begin = first + static_cast<std::size_t>(p * node.gpus_per_pcie_switch);
    const std::size_t end = std::min(begin + static_cast<std::size_t>(node.gpus_per_pcie_switch), w.ports.size());
    for (std::size_t r = begin; r < end; ++r) {
      w.connect(w.ports[r], {plx, plx}, {LinkKind::pcie, node.gpu_link});
      attachments[r].port = {plx, plx};
    }
    w.connect(plx, sockets[socket], {LinkKind::pcie, node.host_bridge});
  }
  for (std::size_t a = 0; a < sockets.size(); ++a)
    for (std::size_t b = a + 1; b < sockets.size(); ++b)
      w.connect(sockets[a], sockets[b], {LinkKind::pcie, node.socket_link});
}

}  // namespace

std::vector<Attachment> wire_nodes(Wiring& w, const TopologySpec& spec, bool relays) {
  using Kind = NodeFabric::Kind;
  const bool domains = spec.network.kind == NetworkFabric::Kind::nvlink_domain;
  const int per_domain = spec.network.nodes_per_domain > 0 ? spec.network.nodes_per_domain : spec.nodes;
  std::vector<Attachment> attachments;
  VertexId nvswitch{};
  for (int n = 0; n < spec.nodes; ++n) {
    const std::string scope = fmt::format("n{}/", n);
    const std::size_t first = w.ports.size();
    for (int g = 0; g < spec.gpus_per_node; ++g) {
      w.ports.push_back(w.add_gpu(scope, fmt::format("gpu{}", g), relays || spec.node.kind == Kind::hybrid_cube_mesh));
      attachments.push_back({w.ports.back(), std::nullopt});
    }
    switch (spec.node.kind) {
      case Kind::single:
        break;
      case Kind::nvswitch:
        if (!domains)
          nvswitch = w.add(scope, "nvswitch");
        else if (n % per_domain == 0)
          nvswitch = w.add(fmt::format("rack{}/", n / per_domain), "nvswitch");
        wire_nvswitch(w, spec, scope, first, nvswitch, attachments);
        break;
      case Kind::hybrid_cube_mesh:
        for (const auto& [a, b, links] : cube_mesh)
          w.connect(w.ports[first + static_cast<std::size_t>(a)], w.ports[first + static_cast<std::size_t>(b)],
                    {LinkKind::nvlink, spec.node.gpu_link, links});
        break;
      case Kind::pcie:
        wire_pcie(w, spec, scope, first, attachments);
        break;
    }
  }
  return attachments;
}

}  // namespace moesim::hardware
