#include <fmt/format.h>

#include <memory>

#include "backend/executor.hpp"
#include "backend/probe.hpp"
#include "cli/interrupt.hpp"
#include "cli/progress.hpp"
#include "cli/validators.hpp"
#include "cli/verbs.hpp"
#include "models/hardware/machine.hpp"
#include "moesim/error.hpp"
#include "plan/names.hpp"
#include "study/calibration.hpp"
#include "study/collective_bench.hpp"
#include "study/kernel_bench.hpp"

namespace moesim::cli {

namespace {

struct Args {
  std::string machine, op, network = "single", algorithm = "automatic", against, calibration = "shipped";
  std::vector<std::string> overlays;
  int gpus = 0;
  std::string sizes = "1KiB..1GiB";
  int factor = 2;
  double skew = 0, error = 0.01;
  bool exact = false, json = false;
};

// Whole nodes, or a part of one.
Cluster cluster_of(const Args& args) {
  hardware::MachineSpec machine = hardware::load_machine(args.machine, {"--machine"});
  for (const std::string& path : args.overlays)
    if (!study::is_fit_file(path)) hardware::apply_overlay(machine, path);
  const int gpus = args.gpus > 0 ? args.gpus : machine.gpus_per_node;
  hardware::ClusterShape shape;
  shape.nodes = std::max(1, gpus / machine.gpus_per_node);
  shape.gpus_per_node = gpus / shape.nodes;
  if (shape.nodes * shape.gpus_per_node != gpus || (shape.nodes > 1 && shape.gpus_per_node != machine.gpus_per_node))
    throw InputError({"--gpus"}, fmt::format("{} GPUs are not whole nodes of {}", gpus, machine.gpus_per_node),
                     fmt::format("a multiple of {}, or fewer", machine.gpus_per_node));
  if (shape.nodes > 1)
    machine.network.kind =
        args.network == "rail" ? hardware::NetworkFabric::Kind::rail : hardware::NetworkFabric::Kind::single;
  study::Scenario scenario;
  scenario.cluster.calibration = args.calibration;
  scenario.cluster.overlays = args.overlays;
  Cluster out = hardware::make_cluster(machine, shape, {"--gpus"});
  out.communication = study::make_communication(study::find_calibration(scenario, machine), machine);
  return out;
}

int run_collective(const Args& args, bool sizes_given) {
  study::CollectiveBench bench;
  bench.kind = study::parse_collective_kind(args.op);
  bench.algorithm = *parse_name<Collective::Algorithm>(algorithm_names, args.algorithm);
  bench.zipf = args.skew;
  bench.fidelity = {args.exact ? sim::Fidelity::Kind::exact : sim::Fidelity::Kind::bounded, args.error};
  bench.sizes = study::parse_sizes(args.sizes, args.factor);
  if (!args.against.empty()) {
    bench.measured = study::read_nccl_tests(args.against);
    if (!sizes_given) {
      bench.sizes.clear();
      for (const study::MeasuredRow& r : bench.measured) bench.sizes.push_back(r.size);
    }
  }
  const Cluster cluster = cluster_of(args);
  const std::vector<study::CollectiveRow> rows = study::predict_collective(bench, cluster);
  if (rows.empty()) throw InputError({args.against}, "measured none of the sizes that --sizes asks for");
  fmt::print("{}",
             args.json ? study::collective_json(bench, rows, cluster) : study::render_collective(bench, rows, cluster));
  return Exit::ok;
}

// An interrupt ends the measurement, and what there is is printed.
int run_kernels(bool json) {
  const std::string why = backend::cuda().unavailable();
  if (!why.empty()) {
    fmt::print(stderr, "cuda: {}\n", why);
    return Exit::unavailable;
  }
  study::KernelBench bench;
  try {
    Progress progress;
    const Interrupt interrupt;
    bench = study::bench_kernels(*backend::cuda_probes(), [&](double share, const std::string& what) {
      progress(share, what);
      return !interrupt.came();
    });
  } catch (const backend::Refused& e) {
    fmt::print(stderr, "cuda: {}\n", e.what());
    return Exit::unavailable;
  }
  fmt::print("{}", json ? study::kernels_json(bench) : study::render_kernels(bench));
  return Exit::ok;
}

void add_kernels(CLI::App& bench, Run& run) {
  CLI::App* verb = bench.add_subcommand(
      "kernels", "The CUDA executor's kernels on this machine's GPU, as shares of its copy bandwidth and cuBLAS");
  const auto json = std::make_shared<bool>(false);
  verb->add_flag("--json", *json, "Print JSON");
  verb->footer("Exit codes: 0 measured; 3 there is no GPU, or no CUDA executor (docs/cuda.md).");
  verb->callback([json, &run] { run = [json] { return run_kernels(*json); }; });
}

}  // namespace

void add_bench(CLI::App& app, Run& run) {
  const auto args = std::make_shared<Args>();
  CLI::App* bench = app.add_subcommand(
      "bench", "Single operations in the shape of their benchmarks: predicted (collective), measured (kernels)");
  bench->require_subcommand(1);
  add_kernels(*bench, run);
  CLI::App* verb = bench->add_subcommand("collective", "One collective by size, as nccl-tests prints it");
  verb->add_option("--machine", args->machine, "A machine of `moesim list machines`, or a machine file")->required();
  verb->add_option("--overlay", args->overlays, "Numbers, or a calibration (FILE.fit.toml), to lay over it");
  verb->add_option("--calibration", args->calibration,
                   "Measured collectives: shipped (the machine's, or its nearest relative's), none (the machine file's "
                   "latencies alone), or a fit file")
      ->capture_default_str();
  verb->add_option("--gpus", args->gpus, "GPUs in all: part of a node, or whole nodes; default one node")
      ->check(CLI::Range(2, 65536));
  verb->add_option("--network", args->network, "What joins several nodes")
      ->check(CLI::IsMember({"single", "rail"}))
      ->capture_default_str();
  verb->add_option("--op", args->op,
                   "all_to_all, all_gather, reduce_scatter, all_reduce, broadcast, reduce or send_recv")
      ->required();
  verb->add_option("--algorithm", args->algorithm, "How it is carried")
      ->check(CLI::IsMember(std::vector<std::string>(algorithm_names.begin(), algorithm_names.end())))
      ->capture_default_str();
  CLI::Option* sizes = verb->add_option("--sizes", args->sizes, "FROM..TO, or one size; of nccl-tests' meaning");
  sizes->capture_default_str();
  verb->add_option("--factor", args->factor, "From one size to the next")->capture_default_str();
  verb->add_option("--skew", args->skew, "all_to_all: destinations by a Zipf law of this exponent")
      ->check(between(0.0, 10.0));
  verb->add_option("--against", args->against, "nccl-tests' output to hold the predictions against, size by size");
  verb->add_flag("--json", args->json, "Print JSON");
  verb->add_flag("--exact", args->exact, "Solve link sharing again at every completion");
  verb->add_option("--network-error", args->error, "Otherwise: largest relative error of a transfer's time")
      ->check(between(1e-6, 0.5))
      ->capture_default_str();
  verb->footer(R"(Examples:
  moesim bench collective --machine h100_sxm --op all_reduce --sizes 1KiB..1GiB
  moesim bench collective --machine h200_sxm --gpus 64 --network rail --op all_to_all --skew 0.8
  all_reduce_perf -b 8 -e 1G -f 2 -g 8 > mine.txt
  moesim bench collective --machine h100_sxm --op all_reduce --against mine.txt

bound: launch, latencies and the busiest link alone; no schedule on these links is faster.)");
  verb->callback(
      [args, sizes, &run] { run = [args, given = sizes->count() > 0] { return run_collective(*args, given); }; });
}

}  // namespace moesim::cli
