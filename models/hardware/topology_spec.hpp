// The wires of a cluster, described; make_topology turns the description into a graph.
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
    hybrid_cube_mesh,  // DGX-1: 8 GPUs, point-to-point NVLinks (two of the six double), others relay
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
    rail,          // rail-optimized: NIC i of every node on leaf switch i, leaves joined by spines
    leaf_spine,    // two-level fat tree: `nodes_per_leaf` nodes on a leaf, `spines` spines
    fat_tree3,     // three levels: pods of leaves, then a core
    dragonfly,     // groups of routers, all-to-all inside a group and between groups
    nvlink_domain  // NVL72-like: all GPUs of all nodes on one NVLink switch fabric
  };
  Kind kind = Kind::none;
  LinkSpec nic;                 // one NIC
  int nics_per_node = 1;        // GPU g of a node uses NIC g * nics_per_node / gpus_per_node
  LinkSpec nic_pcie;            // GPU to its NIC; nominal 0 = as fast as the NIC
  int nodes_per_leaf = 0;       // leaf_spine, fat_tree3: 0 = all nodes on one leaf
  int leaves_per_pod = 0;       // fat_tree3
  int spines = 1;
  double oversubscription = 1.0;  // downlink capacity of a leaf / its uplink capacity
  Picoseconds switch_latency;
  int groups = 1;               // dragonfly
  int routers_per_group = 1;
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

// Throws InputError for descriptions that no graph fits (a hybrid cube mesh of other than 8 GPUs, a pattern that matches
// no link, a cluster that a removed link cuts in two).
std::shared_ptr<const Topology> make_topology(const TopologySpec& spec);

}  // namespace moesim::hardware
