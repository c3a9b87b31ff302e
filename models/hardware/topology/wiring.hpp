// The graph that a description becomes, while it is being built: vertices with names, cables, and the links they are.
#pragma once

#include <boost/graph/adjacency_list.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/hardware/topology_spec.hpp"
#include "moesim/error.hpp"

namespace moesim::hardware {

struct Vertex {
  std::string scope;  // "n0/", "pod1/", or empty
  std::string name;   // inside the scope: "gpu3", "nvswitch", "leaf0"
};

// Several edges may stand for one link: a GPU that relays is a second vertex on the cables of the first.
struct Wire {
  LinkId link;
};

using Graph = boost::adjacency_list<boost::vecS, boost::vecS, boost::bidirectionalS, Vertex, Wire>;
using VertexId = Graph::vertex_descriptor;

// Where traffic of a GPU enters and leaves the graph: two vertices, so that no route passes through, or twice the same.
struct Port {
  VertexId out;
  VertexId in;
};

// What a NIC is plugged into.
struct Attachment {
  Port port;
  std::optional<VertexId> relay;  // the GPU once more, passing on what its neighbours send to this NIC's rail
};

struct Cable {
  LinkKind kind = LinkKind::nvlink;
  LinkSpec spec;
  double count = 1;       // parallel cables, as one link
  Picoseconds into = {};  // crossing the switch at the far end,
  Picoseconds back = {};  // and at the near end, in the opposite direction
};

struct Wiring {
  Graph graph;
  std::vector<Link> links;
  std::vector<Port> ports;  // [ranks]
  int nodes = 1;

  VertexId add(std::string scope, std::string name);
  Port add_gpu(const std::string& scope, const std::string& name, bool relays);
  // One direction: a link, an edge on a link, both.
  LinkId link(const Vertex& from, const Vertex& to, const Cable& cable, Picoseconds crossing);
  void lay(VertexId from, VertexId to, LinkId link);
  LinkId wire(VertexId from, VertexId to, const Cable& cable, Picoseconds crossing);
  // Both directions.
  struct Duplex {
    LinkId there;
    LinkId back;
  };
  Duplex connect(Port a, Port b, const Cable& cable);
  Duplex connect(VertexId a, VertexId b, const Cable& cable) { return connect(Port{a, a}, Port{b, b}, cable); }
};

// Wires the whole description. `relays`: every GPU passes traffic on, the way round a broken link. Links are numbered
// the same either way.
Wiring wire(const TopologySpec& spec, bool relays);
// Inside the nodes: fills ports, and returns what the NIC of each rank is plugged into.
std::vector<Attachment> wire_nodes(Wiring& wiring, const TopologySpec& spec, bool relays);
// Between the nodes.
void wire_network(Wiring& wiring, const TopologySpec& spec, const std::vector<Attachment>& attachments);
// Scales links; drops those at 0 and renumbers the rest. Throws InputError.
void degrade(Wiring& wiring, const std::vector<Degradation>& degraded);

// Every fault of a description; empty = it can be wired.
std::vector<Diagnostic> faults(const TopologySpec& spec);

// The finished graph with its routes; those that it does not have are looked for in `detour`.
std::shared_ptr<const Topology> route_over(Wiring wiring, std::optional<Wiring> detour);

// * is any run of characters, ? is any one.
bool glob_match(std::string_view pattern, std::string_view text);

}  // namespace moesim::hardware
