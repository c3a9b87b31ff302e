// Against SimGrid: the same links and flows, every flow's end.
#include <doctest/doctest.h>

#include "tests/sim/network/scenes.hpp"
#include "tests/sim/network/simgrid_peer.hpp"

using namespace moesim;

TEST_CASE("300 random topologies and flow sets, with caps and staggered starts, end as in SimGrid") {
  // Side by side on links of their own in one simulation: SimGrid knows one per process.
  std::vector<Scene> scenes;
  std::vector<double> capacity;
  std::vector<peer::Flow> flows;
  for (unsigned seed = 0; seed < 300; ++seed) {
    Scene scene = random_scene(seed + 5000);
    for (auto& f : scene.flows) f.weight = 1;  // SimGrid's come from latencies
    const int first = static_cast<int>(capacity.size());
    capacity.insert(capacity.end(), scene.capacity.begin(), scene.capacity.end());
    for (const auto& f : scene.flows) {
      peer::Flow out{f.route, f.bytes, f.start, f.cap};
      for (int& l : out.route) l += first;
      flows.push_back(out);
    }
    scenes.push_back(std::move(scene));
  }
  const peer::Result theirs = peer::simgrid(capacity, flows, 300);
  std::size_t at = 0;
  for (std::size_t s = 0; s < scenes.size(); ++s) {
    const std::vector<double> ours = run(scenes[s]);
    for (std::size_t f = 0; f < ours.size(); ++f, ++at) {
      CAPTURE(s);
      CAPTURE(f);
      // SimGrid's clock and shares have a precision of their own (1e-9 s, 1e-5 of a rate).
      CHECK(ours[f] == doctest::Approx(theirs.finish[at]).epsilon(1e-3));
    }
  }
}

TEST_CASE("an all-to-all among 32 GPUs, uniform and skewed, ends as in SimGrid, flow by flow") {
  for (const double alpha : {0.0, 1.0})
    for (const std::string fabric : {"rail", "leaf_spine"}) {
      CAPTURE(alpha);
      CAPTURE(fabric);
      const auto topology = hardware::make_topology(cluster_of(4, fabric));
      Scene scene;
      for (const Link& l : topology->links()) scene.capacity.push_back(l.capacity.value());
      std::vector<peer::Flow> flows;
      for (const sim::Flow& f : all_to_all(32, alpha, alpha > 0 ? 0.3 : 0, 11)) {
        std::vector<int> route;
        for (const LinkId l : topology->route(f.from, f.to)) route.push_back(l.value());
        scene.flows.push_back({route, static_cast<double>(f.bytes.value())});
        flows.push_back({route, static_cast<double>(f.bytes.value())});
      }
      const std::vector<double> ours = run(scene);
      const peer::Result theirs = peer::simgrid(scene.capacity, flows, 300);
      for (std::size_t f = 0; f < ours.size(); ++f) CHECK(ours[f] == doctest::Approx(theirs.finish[f]).epsilon(1e-3));
    }
}
