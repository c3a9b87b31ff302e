// Shapes: names, capacities, latencies, hop counts and bisections of every kind.
#include <doctest/doctest.h>

#include "tests/models/hardware/topology/specs.hpp"

using namespace moesim;
using namespace moesim::hardware;
using Net = NetworkFabric::Kind;
using Names = std::vector<std::string>;

namespace {

// Capacity of the links whose name begins with a and goes on to b after '>'.
double capacity(const Topology& t, const std::string& from, const std::string& to) {
  double sum = 0;
  for (const Link& l : t.links()) {
    const auto arrow = l.name.find('>');
    if (l.name.substr(0, arrow).find(from) != std::string::npos && l.name.find(to, arrow) != std::string::npos)
      sum += l.capacity.value();
  }
  return sum;
}

}  // namespace

TEST_CASE("one GPU") {
  TopologySpec s;
  s.node.kind = NodeFabric::Kind::single;
  const auto t = make_topology(s);
  CHECK(t->ranks() == 1);
  CHECK(t->links().empty());
  CHECK(t->route(Rank(0), Rank(0)).empty());
}

TEST_CASE("an NVSwitch node") {
  const auto t = make_topology(nvswitch_node());
  CHECK(t->ranks() == 8);
  CHECK(t->nodes() == 1);
  CHECK(t->links().size() == 16);
  CHECK(names(*t, 0, 3) == Names{"n0/gpu0>nvswitch", "n0/nvswitch>gpu3"});
  const Link& up = link(*t, "n0/gpu5>nvswitch");
  CHECK(up.kind == LinkKind::nvlink);
  CHECK(up.nominal == 450_GBps);
  CHECK(up.capacity.value() == doctest::Approx(360e9));
  CHECK(up.latency == 500_ns);
}

TEST_CASE("DGX-1: 6 NVLinks a GPU, two of four neighbours by two, the others two hops away") {
  TopologySpec s;
  s.gpus_per_node = 8;
  s.node.kind = NodeFabric::Kind::hybrid_cube_mesh;
  s.node.gpu_link = {25_GBps, 1.0, 1_us};
  const auto t = make_topology(s);
  for (int a = 0; a < 8; ++a) {
    double out = 0;
    int neighbours = 0, doubled = 0;
    for (int b = 0; b < 8; ++b) {
      if (a == b) continue;
      CHECK(hops(*t, a, b) <= 2);
      if (hops(*t, a, b) != 1) continue;
      const double c = t->links()[t->route(Rank(a), Rank(b))[0].index()].capacity.value();
      out += c;
      ++neighbours;
      doubled += c == 50e9 ? 1 : 0;
    }
    CHECK(out == 150e9);
    CHECK(neighbours == 4);
    CHECK(doubled == 2);
  }
  // Bisection between the two quads: 0-4 and 1-5 by two, 2-6 and 3-7 by one: 6 links of 25 GB/s.
  double bisection = 0;
  for (int a = 0; a < 4; ++a)
    for (int b = 4; b < 8; ++b)
      if (hops(*t, a, b) == 1) bisection += t->links()[t->route(Rank(a), Rank(b))[0].index()].capacity.value();
  CHECK(bisection == 150e9);
}

TEST_CASE("a PCIe tree: two GPUs a switch, two sockets") {
  TopologySpec s;
  s.gpus_per_node = 8;
  s.node.kind = NodeFabric::Kind::pcie;
  s.node.gpu_link = {32_GBps, 0.8, 1_us};
  s.node.host_bridge = {32_GBps, 0.8, 1_us};
  s.node.socket_link = {20_GBps, 0.8, 1_us};
  const auto t = make_topology(s);
  CHECK(names(*t, 0, 1) == Names{"n0/gpu0>pcie0", "n0/pcie0>gpu1"});
  CHECK(names(*t, 0, 2) == Names{"n0/gpu0>pcie0", "n0/pcie0>socket0", "n0/socket0>pcie1", "n0/pcie1>gpu2"});
  CHECK(names(*t, 1, 6) ==
        Names{"n0/gpu1>pcie0", "n0/pcie0>socket0", "n0/socket0>socket1", "n0/socket1>pcie3", "n0/pcie3>gpu6"});
  CHECK(link(*t, "n0/socket1>socket0").capacity.value() == doctest::Approx(16e9));
}

TEST_CASE("every NIC on one switch") {
  const auto t = make_topology(cluster(Net::single, 2));
  CHECK(t->ranks() == 16);
  CHECK(t->nodes() == 2);
  CHECK(t->node_of(Rank(7)) == Node(0));
  CHECK(t->node_of(Rank(8)) == Node(1));
  CHECK(names(*t, 3, 13) == Names{"n0/nic3>switch", "switch>n1/nic5"});
  CHECK(names(*t, 3, 5) == Names{"n0/gpu3>nvswitch", "n0/nvswitch>gpu5"});
  const Link& up = link(*t, "n0/nic3>switch");
  CHECK(up.kind == LinkKind::nic);
  CHECK(up.nominal == 50_GBps);
  CHECK(up.capacity.value() == doctest::Approx(45e9));
  CHECK(up.latency == 1300_ns);  // its own and the switch's
  CHECK(link(*t, "switch>n0/nic3").latency == 1_us);
}

TEST_CASE("NICs behind PCIe, shared, and several to a GPU") {
  TopologySpec s = cluster(Net::single, 2);
  s.network.nic_pcie = {64_GBps, 0.8, 500_ns};
  CHECK(names(*make_topology(s), 3, 13) == Names{"n0/gpu3>nic3", "n0/nic3>switch", "switch>n1/nic5", "n1/nic5>gpu5"});
  // 4 NICs: GPU g uses NIC g / 2, on a PCIe link of its own.
  s.network.nics_per_node = 4;
  const auto shared = make_topology(s);
  CHECK(names(*shared, 3, 13) == Names{"n0/gpu3>nic1", "n0/nic1>switch", "switch>n1/nic2", "n1/nic2>gpu5"});
  CHECK(names(*shared, 2, 12)[1] == "n0/nic1>switch");
  // Not through the NIC inside a node.
  CHECK(names(*shared, 2, 3) == Names{"n0/gpu2>nvswitch", "n0/nvswitch>gpu3"});
  // 32 NICs of an 8-GPU node: four to a GPU, as one.
  s.network.nics_per_node = 32;
  s.network.nic_pcie = {};
  CHECK(link(*make_topology(s), "n0/nic3>switch").nominal == 200_GBps);
}

TEST_CASE("rails: NIC i on leaf i, other rails over NVLink, or through the spines") {
  TopologySpec s = cluster(Net::rail, 4);
  s.network.spines = 4;
  s.network.nodes_per_leaf = 2;
  const auto t = make_topology(s);
  CHECK(names(*t, 2, 10) == Names{"n0/nic2>leaf2", "leaf2>n1/nic2"});
  CHECK(names(*t, 2, 13) == Names{"n0/gpu2>nvswitch", "n0/nvswitch>gpu5", "n0/nic5>leaf5", "leaf5>n1/nic5"});
  // Nodes 2 and 3 are another group: 8 leaves of their own.
  CHECK(hops(*t, 2, 18) == 4);
  CHECK(names(*t, 2, 18)[0] == "n0/nic2>leaf2");
  CHECK(names(*t, 2, 18)[3] == "leaf10>n2/nic2");
  s.network.pxn = false;
  const auto without = make_topology(s);
  CHECK(names(*without, 2, 13)[0] == "n0/nic2>leaf2");
  CHECK(names(*without, 2, 13)[3] == "leaf5>n1/nic5");
  // No spines: NVLink is the only way between rails.
  s.network.spines = 0;
  s.network.nodes_per_leaf = 0;
  CHECK(names(*make_topology(s), 2, 13).front() == "n0/gpu2>nvswitch");
}

TEST_CASE("two-level fat tree: hops and bisection") {
  TopologySpec s = cluster(Net::leaf_spine, 8);
  s.network.nodes_per_leaf = 2;
  s.network.spines = 4;
  s.network.oversubscription = 2;
  const auto t = make_topology(s);
  CHECK(hops(*t, 0, 8) == 2);   // same leaf
  CHECK(hops(*t, 0, 16) == 4);  // up and down
  // A leaf: 2 nodes of 8 NICs of 45 GB/s below, half of that above, over 4 spines.
  CHECK(capacity(*t, "/nic", "leaf0") == doctest::Approx(16 * 45e9));
  CHECK(capacity(*t, "leaf0", "spine") == doctest::Approx(8 * 45e9));
  CHECK(capacity(*t, "spine", "leaf0") == doctest::Approx(8 * 45e9));
  CHECK(link(*t, "leaf0>spine1").capacity.value() == doctest::Approx(2 * 45e9));
  CHECK(link(*t, "leaf0>spine1").kind == LinkKind::fabric);
}

TEST_CASE("three-level fat tree: hops and bisections") {
  TopologySpec s = cluster(Net::fat_tree3, 16);
  s.network.nodes_per_leaf = 2;
  s.network.leaves_per_pod = 2;
  s.network.spines = 4;
  s.network.cores = 8;
  s.network.oversubscription = 2;
  const auto t = make_topology(s);
  CHECK(hops(*t, 0, 8) == 2);    // leaf
  CHECK(hops(*t, 0, 16) == 4);   // pod
  CHECK(hops(*t, 0, 127) == 6);  // core
  CHECK(names(*t, 0, 16)[0] == "n0/nic0>pod0/leaf0");
  CHECK(names(*t, 0, 16)[3] == "pod0/leaf1>n2/nic0");
  // A pod: 4 nodes of 8 NICs, oversubscribed at the leaf, not again above.
  CHECK(capacity(*t, "pod0/leaf", "spine") == doctest::Approx(32 * 45e9 / 2));
  CHECK(capacity(*t, "pod0/spine", "core") == doctest::Approx(32 * 45e9 / 2));
  CHECK(capacity(*t, "core", "pod0/spine") == doctest::Approx(32 * 45e9 / 2));
  // Plane i of every pod meets at cores 2i and 2i + 1.
  CHECK_NOTHROW(link(*t, "pod3/spine1>core2"));
  CHECK_NOTHROW(link(*t, "pod3/spine1>core3"));
  CHECK_THROWS(link(*t, "pod3/spine1>core4"));
}

TEST_CASE("dragonfly: at most local, global, local") {
  TopologySpec s = cluster(Net::dragonfly, 12);
  s.network.groups = 3;
  s.network.routers_per_group = 2;
  s.network.local_link = {100_GBps, 1.0, 200_ns};
  s.network.global_link = {25_GBps, 1.0, 2_us};
  const auto t = make_topology(s);
  CHECK(hops(*t, 0, 8) == 2);  // nodes 0 and 1 on one router
  CHECK(names(*t, 0, 16)[1] == "group0/router0>router1");
  std::size_t longest = 0;
  for (int b = 8; b < 96; ++b) longest = std::max(longest, hops(*t, 0, b));
  CHECK(longest <= 5);
  // One cable for each of 3 pairs of groups, both ways.
  CHECK(capacity(*t, "group0", ">group1") + capacity(*t, "group0", ">group2") == doctest::Approx(2 * 25e9));
}

TEST_CASE("an NVL72 rack, and two of them") {
  TopologySpec s = cluster(Net::nvlink_domain, 18);
  s.gpus_per_node = 4;
  s.network.nics_per_node = 4;
  const auto rack = make_topology(s);
  CHECK(rack->ranks() == 72);
  CHECK(names(*rack, 0, 71) == Names{"n0/gpu0>rack0/nvswitch", "rack0/nvswitch>n17/gpu3"});
  CHECK(rack->links().size() == 144);
  s.nodes = 36;
  s.network.nodes_per_domain = 18;
  const auto two = make_topology(s);
  CHECK(names(*two, 0, 71) == Names{"n0/gpu0>rack0/nvswitch", "rack0/nvswitch>n17/gpu3"});
  CHECK(names(*two, 0, 72) == Names{"n0/nic0>leaf0", "leaf0>n18/nic0"});
}
