// Descriptions that no graph fits are refused with all their faults.
#include <doctest/doctest.h>

#include "tests/models/hardware/topology/specs.hpp"

using namespace moesim;
using namespace moesim::hardware;
using Net = NetworkFabric::Kind;

namespace {

std::vector<Diagnostic> refused(const TopologySpec& s) {
  try {
    (void)make_topology(s);
  } catch (const InputError& e) {
    return e.diagnostics();
  }
  return {};
}

bool says(const TopologySpec& s, const std::string& words) {
  return std::ranges::any_of(refused(s),
                             [&](const Diagnostic& d) { return d.message.find(words) != std::string::npos; });
}

}  // namespace

TEST_CASE("shapes that do not exist") {
  TopologySpec mesh = nvswitch_node(4);
  mesh.node.kind = NodeFabric::Kind::hybrid_cube_mesh;
  CHECK(says(mesh, "a hybrid cube mesh joins 8 GPUs, not 4"));

  TopologySpec alone = nvswitch_node();
  alone.nodes = 2;
  CHECK(says(alone, "2 nodes without a network"));

  TopologySpec single = nvswitch_node();
  single.node.kind = NodeFabric::Kind::single;
  CHECK(says(single, "has one GPU, not 8"));

  TopologySpec odd = cluster(Net::single, 2);
  odd.network.nics_per_node = 12;
  CHECK(says(odd, "12 NICs do not divide among 8 GPUs"));

  TopologySpec cores = cluster(Net::fat_tree3, 4);
  cores.network.spines = 4;
  cores.network.cores = 6;
  CHECK(says(cores, "6 cores do not divide among 4 spines"));

  TopologySpec apart = cluster(Net::rail, 4);
  apart.network.spines = 0;
  apart.network.nodes_per_leaf = 2;
  CHECK(says(apart, "rails without spines join one group"));

  TopologySpec domain = cluster(Net::nvlink_domain, 2);
  domain.node.kind = NodeFabric::Kind::pcie;
  CHECK(says(domain, "an NVLink domain joins nodes of kind nvswitch"));
}

TEST_CASE("numbers out of range, all at once") {
  TopologySpec s = cluster(Net::leaf_spine, 0);
  s.node.gpu_link.efficiency = 1.5;
  s.network.nic.nominal = BytesPerSecond(0);
  s.network.oversubscription = 0;
  s.network.spines = 0;
  s.degraded = {{"*", 2.0}};
  CHECK(says(s, "nodes = 0"));
  CHECK(says(s, "efficiency of the GPU's NVLinks is 1.5"));
  CHECK(says(s, "bandwidth of a NIC is 0"));
  CHECK(says(s, "oversubscription = 0"));
  CHECK(says(s, "spines = 0"));
  CHECK(says(s, "factor 2"));
  CHECK(refused(s).size() == 6);
  TopologySpec nan = nvswitch_node();
  nan.node.gpu_link.nominal = BytesPerSecond(std::numeric_limits<double>::quiet_NaN());
  CHECK_FALSE(refused(nan).empty());
  TopologySpec negative = nvswitch_node();
  negative.node.gpu_link.latency = Picoseconds(-1);
  CHECK(says(negative, "latency"));
}

TEST_CASE("a pattern that matches nothing gets the nearest name") {
  TopologySpec s = cluster(Net::single, 2);
  s.degraded = {{"n0/nic3>swich", 0.5}, {"n9/*", 0.5}};
  const std::vector<Diagnostic> all = refused(s);
  REQUIRE(all.size() == 2);
  CHECK(all[0].hint.find("n0/nic3>switch") != std::string::npos);
  CHECK(all[1].message.find("n9/*") != std::string::npos);
}

TEST_CASE("a cluster that a removed link cuts in two") {
  TopologySpec s = cluster(Net::single, 2);
  s.degraded = {{"n1/nic*>switch", 0}};
  CHECK(says(s, "leave no way from rank 8 to rank 0"));
  TopologySpec node = nvswitch_node();
  node.degraded = {{"n0/nvswitch>gpu2", 0}};
  CHECK(says(node, "leave no way from rank 0 to rank 2"));
}
