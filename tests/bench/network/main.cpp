// bench_network [quick | growth]: the network against SimGrid, and how it grows. quick: without what takes more than
// seconds; growth: without SimGrid.
#include <fmt/format.h>

#include <cstring>
#include <exception>

#include "models/hardware/topology_spec.hpp"
#include "moesim/machine.hpp"
#include "sim/collectives/lowering.hpp"
#include "sim/collectives/predict.hpp"
#include "tests/bench/network/measure.hpp"
#include "tests/sim/network/scenes.hpp"

using namespace moesim;

namespace {

void print_row(int ranks, const char* what, std::size_t flows, const bench::Run& run, double limit_s, double limit_mb) {
  const bool limited = limit_s > 0;
  fmt::print("{:>5} {:<26} {:>9} {:>8.3f} {:>6.0f} {:>10.4f} {:>+7.2f} {:>+6.2f} {:>6}\n", ranks, what, flows,
             run.seconds, run.peak_mb, 1e3 * run.makespan, 100 * (run.low / run.makespan - 1),
             100 * (run.high / run.makespan - 1),
             !limited                                            ? "-"
             : run.seconds <= limit_s && run.peak_mb <= limit_mb ? "yes"
                                                                 : "NO");
  std::fflush(stdout);
}

void grow(bool quick) {
  fmt::print(
      "Zipf (exponent 1, sizes log-normal around it), all flows live, bounded to 1 %: processor seconds, MB, makespan "
      "in ms\n"
      "and its bracket in %. Limit at 1,024: 5 s, 1,000 MB\n"
      "{:>5} {:<26} {:>9} {:>8} {:>6} {:>10} {:>7} {:>6} {:>6}\n",
      "GPUs", "fabric", "flows", "seconds", "MB", "makespan", "low", "high", "kept");
  for (const char* fabric : {"leaf_spine", "rail"})
    for (const int ranks : {64, 128, 256, 512, 1024}) {
      if (quick && ranks > 256) continue;
      const auto topology = hardware::make_topology(cluster_of(ranks / 8, fabric));
      const std::vector<sim::Flow> flows = all_to_all(ranks, 1.0, 0.3, 1);
      print_row(ranks, fabric, flows.size(),
                bench::run_network(*topology, flows, {sim::Fidelity::Kind::bounded, 0.01}, false),
                ranks == 1024 ? 5 : 0, 1000);
    }
}

// Node-level aggregation: between nodes one flow per GPU and node, to the counterpart on the same rail, which forwards.
void aggregated(int ranks) {
  Cluster cluster;
  cluster.nodes = ranks / 8;
  cluster.gpus_per_node = 8;
  cluster.topology = hardware::make_topology(cluster_of(ranks / 8, "rail"));
  std::vector<double> skew;
  for (int r = 0; r < ranks; ++r) skew.push_back(1.0 / (1 + (r * 2654435761U) % static_cast<unsigned>(ranks)));
  const Plan plan = sim::single_collective(Collective::Kind::all_to_all_v, Collective::Algorithm::hierarchical, ranks,
                                           Bytes(std::int64_t{ranks} * 1'000'000), skew);
  const auto stages = sim::lower(plan, std::get<Collective>(plan.ops[0].work), 0, cluster);
  print_row(ranks, "rail, node-aggregated", stages[0].flows.size(),
            bench::run_network(*cluster.topology, stages[0].flows, {sim::Fidelity::Kind::bounded, 0.01}, false), 0, 0);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const bool quick = argc > 1 && std::strcmp(argv[1], "quick") == 0;
    const bool growth = argc > 1 && std::strcmp(argv[1], "growth") == 0;
    if (!growth) bench::against_simgrid(quick);
    grow(quick);
    if (!quick)
      for (const int ranks : {1024, 2048, 4096}) aggregated(ranks);
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
