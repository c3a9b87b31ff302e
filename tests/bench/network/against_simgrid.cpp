// The same links and flows in both: completion of every flow, makespan, processor time.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "models/hardware/topology_spec.hpp"
#include "tests/bench/network/measure.hpp"
#include "tests/sim/network/scenes.hpp"
#include "tests/sim/network/simgrid_peer.hpp"

namespace moesim::bench {

namespace {

struct Case {
  int ranks;
  double alpha;  // Zipf exponent over destinations
  double sigma;  // of log-normal sizes around that; 0: all flows to one GPU are of one size
  const char* fabric;
  sim::Fidelity fidelity;
  double flow_limit, makespan_limit, faster;  // what docs/network.md promises
};

bool compare(const Case& c) {
  const auto topology = hardware::make_topology(cluster_of(c.ranks / 8, c.fabric));
  const std::vector<sim::Flow> flows = all_to_all(c.ranks, c.alpha, c.sigma, 1);
  std::vector<double> capacity;
  for (const Link& l : topology->links()) capacity.push_back(l.capacity.value());
  std::vector<peer::Flow> theirs_in;
  for (const sim::Flow& f : flows) {
    peer::Flow& out = theirs_in.emplace_back();
    for (const LinkId l : topology->route(f.from, f.to)) out.route.push_back(l.value());
    out.bytes = static_cast<double>(f.bytes.value());
  }
  const bool exact = c.fidelity.kind == sim::Fidelity::Kind::exact;
  const Run ours = run_network(*topology, flows, c.fidelity, exact);
  peer::Result theirs;
  try {
    theirs = peer::simgrid(capacity, theirs_in, 1800);
  } catch (const std::runtime_error& e) {
    fmt::print("{:>5} {:>9} {:<11} {:<8} {:>8.3f} {}\n", c.ranks, c.alpha > 0 ? "zipf" : "uniform", c.fabric,
               exact ? "exact" : "bounded", ours.seconds, e.what());
    return false;
  }
  const double makespan = *std::ranges::max_element(theirs.finish);
  double worst = 0;
  for (std::size_t f = 0; f < ours.finish.size(); ++f)
    worst = std::max(worst, std::abs(ours.finish[f] / theirs.finish[f] - 1));
  const double off = std::abs(ours.makespan / makespan - 1), faster = theirs.seconds / ours.seconds;
  const bool ok = worst <= c.flow_limit && off <= c.makespan_limit && faster >= c.faster;
  fmt::print("{:>5} {:>9} {:<11} {:<8} {:>8.3f} {:>8.2f} {:>7.0f}x {:>6.0f} {:>6.0f} {:>10} {:>10.4f} {:>5}\n", c.ranks,
             fmt::format("{}{}", c.alpha > 0 ? fmt::format("zipf {}", c.alpha) : "uniform", c.sigma > 0 ? " +" : ""),
             c.fabric, exact ? "exact" : "bounded", ours.seconds, theirs.seconds, faster, ours.peak_mb, theirs.peak_mb,
             exact ? fmt::format("{:.4f}", 100 * worst) : "-", 100 * off, ok ? "yes" : "NO");
  std::fflush(stdout);
  return ok;
}

}  // namespace

bool against_simgrid(bool quick) {
  fmt::print(
      "Against SimGrid 3.32 (CM02, TCP window off), one all-to-all, all flows live from 0; processor seconds, MB,\n"
      "largest difference in the end of a flow, and in the makespan. +: sizes vary log-normally (0.3)\n"
      "{:>5} {:>9} {:<11} {:<8} {:>8} {:>8} {:>8} {:>6} {:>6} {:>10} {:>10} {:>5}\n",
      "GPUs", "law", "fabric", "solver", "moesim", "SimGrid", "faster", "MB", "MB", "flows, %", "span, %", "kept");
  const sim::Fidelity exact{sim::Fidelity::Kind::exact}, bounded{sim::Fidelity::Kind::bounded, 0.01};
  std::fflush(stdout);  // before processes fork
  bool ok = true;
  for (const char* fabric : {"rail", "leaf_spine"}) {
    for (const double alpha : {0.0, 1.0}) ok = compare({64, alpha, 0.3, fabric, exact, 1e-3, 1e-3, 1}) && ok;
    if (quick) continue;
    for (const double alpha : {0.0, 1.0}) ok = compare({128, alpha, 0, fabric, exact, 1e-3, 1e-3, 1}) && ok;
  }
  if (!quick) {  // leaf/spine under Zipf is more than SimGrid does in half an hour
    ok = compare({256, 1.0, 0, "rail", bounded, 1, 5e-3, 300}) && ok;
    ok = compare({256, 0.0, 0, "leaf_spine", bounded, 1, 5e-3, 300}) && ok;
  }
  fmt::print("\n");
  return ok;
}

}  // namespace moesim::bench
