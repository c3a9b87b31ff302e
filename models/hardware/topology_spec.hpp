// The wires of a cluster, described; make_topology turns the description into a graph. docs/network.md draws each kind.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "moesim/topology.hpp"

namespace moesim::hardware {

// One direction of a cable or a group of parallel cables.
struct LinkSpec {
  BytesPerSecond nominal;   // data sheet, one direction
  double efficiency = 1.0;  // what a long transfer achieves, 0 < e <= 1
  Picoseconds latency;      // one hop
};

// Inside a node.
struct NodeFabric {
  enum class Kind : std::uint8_t {
    single,            // one GPU
    nvswitch,          // every GPU has one link (all its NVLinks together) to a non-blocking switch
    hybrid_cube_mesh,  // DGX-1: 8 GPUs, point-to-point NVLinks (two of a GPU's four neighbours by two), others relay
    pcie,              // GPUs on PCIe switches below CPU sockets, sockets joined by `socket_link`
  };
  Kind kind = Kind::nvswitch;
  LinkSpec gpu_link;     // nvswitch: GPU to switch; hybrid_cube_mesh: one NVLink; pcie: GPU to its PCIe switch
  LinkSpec host_bridge;  // pcie: PCIe switch to its socket
  LinkSpec socket_link;  // pcie: socket to socket
  int gpus_per_pcie_switch = 2;
  int sockets = 2;
};

// Between nodes.
struct NetworkFabric {
  enum class Kind : std::uint8_t {
    none,          // one node
    single,        // every NIC on one non-blocking switch
    rail,          // rail-optimized: NIC i of a node on leaf i of its group of nodes, leaves joined by spines
    leaf_spine,    // two-level fat tree: `nodes_per_leaf` nodes on a leaf, `spines` spines
    fat_tree3,     // three levels: pods of leaves below `spines` aggregation switches, pods joined by `cores`
    dragonfly,     // groups of routers, all-to-all inside a group and between groups
    nvlink_domain  // NVL72-like: the GPUs of `nodes_per_domain` nodes on one NVLink switch; several domains: leaf_spine
  };
  Kind kind = Kind::none;
  LinkSpec nic;                   // one NIC
  int nics_per_node = 1;          // GPU g of a node uses NIC g * nics_per_node / gpus_per_node
  LinkSpec nic_pcie;              // GPU to its NIC; nominal 0 = never the bottleneck, and not a link of the graph
  int nodes_per_leaf = 0;         // rail, leaf_spine, fat_tree3: 0 = all nodes
  int leaves_per_pod = 0;         // fat_tree3: 0 = all leaves
  int spines = 1;                 // rail without spines (0): other rails are reached over NVLink only
  int cores = 0;                  // fat_tree3: a multiple of spines; 0 = as many as spines
  double oversubscription = 1.0;  // downlink capacity of a leaf / its uplink capacity
  // rail: a message to another rail goes over NVLink to the sender's neighbour on that rail first, as NCCL's PXN does,
  // instead of through the spines.
  bool pxn = true;
  Picoseconds switch_latency;  // of crossing one switch, added to the link that enters it
  int groups = 1;              // dragonfly: nodes are dealt to groups, then to the routers of a group, in order
  int routers_per_group = 1;
  LinkSpec local_link;       // dragonfly: router to router of a group; nominal 0 = as `nic`
  LinkSpec global_link;      // dragonfly: group to group, one per pair; nominal 0 = as `nic`
  int nodes_per_domain = 0;  // nvlink_domain: 0 = all nodes
};

// "One NIC of node 3 at half rate": links whose name matches the pattern (a glob with * and ?) keep `factor` of their
// capacity; 0 removes the link, and routes go round it.
struct Degradation {
  std::string links;
  double factor = 1.0;
};

struct TopologySpec {
  int nodes = 1;
  int gpus_per_node = 1;
  NodeFabric node;
  NetworkFabric network;
  std::vector<Degradation> degraded;
};

// Ranks are numbered node by node. Thread-safe; routes are worked out when they are first asked for.
// Throws InputError, with every fault at once, for descriptions that no graph fits (a hybrid cube mesh of other than 8
// GPUs, a pattern that matches no link, a cluster that a removed link cuts in two).
std::shared_ptr<const Topology> make_topology(const TopologySpec& spec);

}  // namespace moesim::hardware
