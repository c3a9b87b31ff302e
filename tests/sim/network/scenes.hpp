// Things that the network's tests are made of.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "models/hardware/topology_spec.hpp"
#include "sim/network/network.hpp"
#include "tests/sim/network/reference.hpp"
#include "tests/sim/network/wires.hpp"

namespace moesim {

// Random links and flows: sizes, starts, weights and caps that tie often in every other scene.
struct Scene {
  std::vector<double> capacity;
  std::vector<reference::Flow> flows;

  [[nodiscard]] Wires wires() const {
    std::vector<std::vector<int>> routes;
    for (const auto& f : flows) routes.push_back(f.route);
    return {capacity, routes};
  }
};

inline Scene random_scene(unsigned seed, int most_flows = 40) {
  std::mt19937 random(seed);
  const auto pick = [&](int a, int b) { return a + static_cast<int>(random() % static_cast<unsigned>(b - a + 1)); };
  const bool ties = seed % 2 == 0;
  Scene s;
  const int links = pick(1, 8), flows = pick(1, most_flows);
  for (int l = 0; l < links; ++l) s.capacity.push_back(ties ? 1e9 * pick(1, 3) : 1e6 * pick(1000, 11000));
  for (int f = 0; f < flows; ++f) {
    reference::Flow flow;
    for (int l = 0; l < links; ++l)
      if (pick(0, 2) == 0) flow.route.push_back(l);
    if (flow.route.empty()) flow.route.push_back(pick(0, links - 1));
    flow.bytes = ties ? 1e6 * pick(1, 2) : 1e5 + pick(1, 10'000'000);
    if (seed % 5 == 0) flow.start = 1e-3 * pick(0, 5);
    if (seed % 3 == 0) flow.weight = pick(1, 4);
    if (seed % 7 == 0 && pick(0, 2) == 0) flow.cap = 1e8 * pick(1, 5);
    s.flows.push_back(flow);
  }
  return s;
}

// Flows [first, last) of a scene, as one transfer.
inline std::vector<sim::Flow> transfer(const Scene& scene, const std::vector<std::size_t>& which) {
  std::vector<sim::Flow> out;
  for (const std::size_t f : which)
    out.push_back({.from = Rank(2 * f),
                   .to = Rank(2 * f + 1),
                   .bytes = Bytes(static_cast<std::int64_t>(scene.flows[f].bytes)),
                   .weight = scene.flows[f].weight,
                   .cap = BytesPerSecond(scene.flows[f].cap)});
  return out;
}

// Seconds at which each flow of a scene ends.
inline std::vector<double> run(const Scene& scene, sim::Fidelity fidelity = {}) {
  const Wires wires = scene.wires();
  const auto network = sim::make_network(wires, fidelity);
  std::vector<std::size_t> order(scene.flows.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, {}, [&](std::size_t f) { return scene.flows[f].start; });
  std::vector<sim::Completion> done;
  for (std::size_t i = 0; i < order.size();) {
    const double start = scene.flows[order[i]].start;
    std::vector<std::size_t> together;
    for (; i < order.size() && scene.flows[order[i]].start == start; ++i) together.push_back(order[i]);
    network->advance(from_seconds(start), done);
    network->start(from_seconds(start), transfer(scene, together));
  }
  while (const auto next = network->next()) network->advance(*next, done);
  std::vector<double> finish(scene.flows.size(), -1);
  for (const sim::Completion& c : done) finish[c.rank.index() / 2] = to_seconds(c.time);
  return finish;
}

// Nodes of 8 GPUs on NVSwitch; fabric: "none", "single", "rail", "leaf_spine" (4 nodes a leaf, 2 to 1).
inline hardware::TopologySpec cluster_of(int nodes, const std::string& fabric) {
  using namespace literals;
  hardware::TopologySpec s;
  s.nodes = nodes;
  s.gpus_per_node = 8;
  s.node.gpu_link = {450_GBps, 0.8, {}};
  s.network.nic = {50_GBps, 0.9, {}};
  s.network.nics_per_node = 8;
  s.network.spines = 8;
  s.network.nodes_per_leaf = fabric == "leaf_spine" ? 4 : 0;
  s.network.oversubscription = fabric == "leaf_spine" ? 2 : 1;
  s.network.kind = fabric == "none"     ? hardware::NetworkFabric::Kind::none
                   : fabric == "single" ? hardware::NetworkFabric::Kind::single
                   : fabric == "rail"   ? hardware::NetworkFabric::Kind::rail
                                        : hardware::NetworkFabric::Kind::leaf_spine;
  return s;
}

// All pairs: destinations weighed by rank^-alpha in random order, sizes log-normal around that.
inline std::vector<sim::Flow> all_to_all(int ranks, double alpha, double sigma, unsigned seed,
                                         double mean_bytes = 1e6) {
  std::mt19937_64 random(seed);
  std::vector<double> weight(static_cast<std::size_t>(ranks));
  for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = std::pow(static_cast<double>(i + 1), -alpha);
  std::ranges::shuffle(weight, random);
  const double sum = std::accumulate(weight.begin(), weight.end(), 0.0);
  std::normal_distribution<double> normal;
  std::vector<sim::Flow> out;
  for (int a = 0; a < ranks; ++a)
    for (int b = 0; b < ranks; ++b) {
      if (a == b) continue;
      const double bytes =
          mean_bytes * ranks * weight[static_cast<std::size_t>(b)] / sum * std::exp(sigma * normal(random));
      out.push_back({.from = Rank(a), .to = Rank(b), .bytes = Bytes(static_cast<std::int64_t>(bytes) + 1)});
    }
  return out;
}

}  // namespace moesim
