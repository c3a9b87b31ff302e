// Routes: connected, shortest, deterministic, spread by ECMP, and round what is broken.
#include <doctest/doctest.h>

#include <map>
#include <thread>

#include "tests/models/hardware/topology/specs.hpp"

using namespace moesim;
using namespace moesim::hardware;
using Net = NetworkFabric::Kind;
using Names = std::vector<std::string>;

namespace {

TopologySpec fat_tree() {
  TopologySpec s = cluster(Net::leaf_spine, 8);
  s.network.nodes_per_leaf = 2;
  s.network.spines = 8;
  return s;
}

// "n0/gpu3>nvswitch" leads from "n0/gpu3" to "n0/nvswitch".
std::pair<std::string, std::string> ends(const std::string& name) {
  const auto arrow = name.find('>'), slash = name.find('/');
  std::string to = name.substr(arrow + 1);
  const std::string from = name.substr(0, arrow);
  const auto starts = [&](const char* word) { return to.rfind(word, 0) == 0; };
  const bool in_pod = from.rfind("pod", 0) == 0 && (starts("leaf") || starts("spine"));
  const bool in_node = !starts("leaf") && !starts("spine") && !starts("switch") && !starts("core");
  const bool inside = slash < arrow && to.find('/') == std::string::npos && (in_pod || in_node);
  return {from, inside ? from.substr(0, slash + 1) + to : to};
}

}  // namespace

TEST_CASE("every pair of every kind is connected, link by link, and never through its own link twice") {
  for (const Net kind : {Net::single, Net::rail, Net::leaf_spine, Net::fat_tree3}) {
    TopologySpec s = cluster(kind, 6);
    s.network.nodes_per_leaf = 2;
    s.network.leaves_per_pod = 2;
    s.network.spines = 2;
    s.network.nic_pcie = {64_GBps, 0.8, 500_ns};
    const auto t = make_topology(s);
    for (int a = 0; a < t->ranks(); ++a)
      for (int b = 0; b < t->ranks(); ++b) {
        const Names route = names(*t, a, b);
        CHECK(route.empty() == (a == b));
        CHECK(std::set<std::string>(route.begin(), route.end()).size() == route.size());
        for (std::size_t i = 1; i < route.size(); ++i) CHECK(ends(route[i - 1]).second == ends(route[i]).first);
      }
  }
}

TEST_CASE("the same description routes the same, in whatever order and on whatever thread it is asked") {
  const auto once = make_topology(fat_tree()), again = make_topology(fat_tree());
  const auto collect = [](const Topology& t, bool backward) {
    std::map<std::pair<int, int>, Names> out;
    for (int i = 0; i < t.ranks() * t.ranks(); ++i) {
      const int k = backward ? t.ranks() * t.ranks() - 1 - i : i;
      out[{k / t.ranks(), k % t.ranks()}] = names(t, k / t.ranks(), k % t.ranks());
    }
    return out;
  };
  std::map<std::pair<int, int>, Names> forward, backward;
  std::thread one([&] { forward = collect(*once, false); }), two([&] { collect(*once, true); });
  one.join();
  two.join();
  backward = collect(*again, true);
  CHECK(forward == backward);
}

TEST_CASE("a route's span stays where it is") {
  const auto t = make_topology(fat_tree());
  const auto first = t->route(Rank(0), Rank(40));
  const LinkId* data = first.data();
  for (int b = 0; b < 64; ++b) (void)t->route(Rank(0), Rank(b));
  CHECK(t->route(Rank(0), Rank(40)).data() == data);
}

TEST_CASE("ECMP spreads pairs over spines about evenly") {
  const auto t = make_topology(fat_tree());
  std::map<std::string, int> uses;
  for (int a = 0; a < 16; ++a)
    for (int b = 16; b < 64; ++b) ++uses[names(*t, a, b)[1]];
  // 768 routes up from leaf 0 over 8 spines: 96 each; binomial with p = 1/8 has sigma 9.2.
  CHECK(uses.size() == 8);
  for (const auto& [name, n] : uses) {
    CAPTURE(name);
    CHECK(n > 96 - 5 * 9.2);
    CHECK(n < 96 + 5 * 9.2);
  }
}

TEST_CASE("a NIC at half rate") {
  TopologySpec s = fat_tree();
  s.degraded = {{"n3/nic1>*", 0.5}, {"leaf?>n3/nic1", 0.5}};
  const auto t = make_topology(s);
  CHECK(link(*t, "n3/nic1>leaf1").capacity.value() == doctest::Approx(22.5e9));
  CHECK(link(*t, "n3/nic1>leaf1").nominal == 25_GBps);
  CHECK(link(*t, "leaf1>n3/nic1").capacity.value() == doctest::Approx(22.5e9));
  CHECK(link(*t, "n3/nic2>leaf1").nominal == 50_GBps);
  CHECK(names(*t, 25, 0)[0] == "n3/nic1>leaf1");  // still the way out
}

TEST_CASE("a removed spine is gone round") {
  TopologySpec s = fat_tree();
  s.degraded = {{"*spine3*", 0}};
  const auto t = make_topology(s);
  CHECK(t->links().size() == make_topology(fat_tree())->links().size() - 8);  // 4 leaves, both ways
  for (int a = 0; a < 64; ++a)
    for (int b = 0; b < 64; ++b)
      for (const std::string& name : names(*t, a, b)) CHECK(name.find("spine3") == std::string::npos);
}

TEST_CASE("a removed NIC: its GPU goes through a neighbour's") {
  TopologySpec s = fat_tree();
  s.degraded = {{"n0/nic0>*", 0}, {"*>n0/nic0", 0}};
  const auto t = make_topology(s);
  const Names out = names(*t, 0, 16), in = names(*t, 16, 0);
  REQUIRE(out.size() == 6);
  CHECK(out[0] == "n0/gpu0>nvswitch");
  CHECK(in.back() == "n0/nvswitch>gpu0");
  CHECK(names(*t, 1, 16)[0] == "n0/nic1>leaf0");  // the others as before
}

TEST_CASE("DGX-1 with a cut NVLink relays") {
  TopologySpec s;
  s.gpus_per_node = 8;
  s.node.kind = NodeFabric::Kind::hybrid_cube_mesh;
  s.node.gpu_link = {25_GBps, 1.0, 1_us};
  s.degraded = {{"n0/gpu0>gpu3", 0}, {"n0/gpu3>gpu0", 0}};
  const auto t = make_topology(s);
  CHECK(hops(*t, 0, 3) == 2);
  CHECK(hops(*t, 3, 0) == 2);
}
