#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <map>
#include <memory>
#include <optional>

#include "backend/transport.hpp"
#include "cli/interrupt.hpp"
#include "cli/progress.hpp"
#include "cli/validators.hpp"
#include "cli/verbs.hpp"
#include "moesim/error.hpp"
#include "study/runner.hpp"

namespace moesim::cli {
namespace {

using Options = backend::RunOptions;

struct Args {
  std::string scenario;
  std::string backend = "host";
  std::string transport = "threads";
  std::string out;
  std::string plan;
  bool json = false;
  Options measurement;
};

int measure(const Args& args, const backend::Executor& executor) {
  std::unique_ptr<backend::Transport> transport;
  if (args.transport == "mpi") transport = backend::mpi_transport();
  const bool speaks = !transport || transport->rank() == Rank(0);
  // An error that the other processes cannot know of ends them too.
  const auto guarded = [&](const auto& what) {
    try {
      return what();
    } catch (const std::exception& e) {
      if (transport) {
        fmt::print(stderr, "rank {}: {}\n", transport->rank().value(), e.what());
        transport->abort(dynamic_cast<const InputError*>(&e) != nullptr ? Exit::bad_input : Exit::failed);
      }
      throw;
    }
  };
  return guarded([&] {
    const study::Scenario scenario = study::read_scenario(args.scenario);
    study::RunOptions options;
    options.executor = &executor;
    options.plan = args.plan;
    options.measurement = args.measurement;
    options.measurement.transport = transport.get();
    if (speaks) options.out_dir = args.out;
    // An interrupt ends the measurement of a strategy with the runs so far, and a second one the program. Processes
    // leave together, so they do not look.
    std::optional<Interrupt> interrupt;
    if (!transport) {
      interrupt.emplace();
      options.measurement.progress = [&](double) { return !interrupt->came(); };
    }
    {
      Progress progress;
      if (speaks) options.progress = [&](double share, const std::string& what) { progress(share, what); };
      const study::StudyResult result = study::run_study(scenario, options);
      if (speaks) fmt::print("{}", args.json ? study::report_json(result) : study::render(result));
      if (speaks && !args.out.empty()) fmt::print(stderr, "wrote {}\n", args.out);
      return result.feasible() && !result.interrupted() ? Exit::ok : Exit::no;
    }
  });
}

}  // namespace

void add_run(CLI::App& app, Run& run) {
  CLI::App* verb = app.add_subcommand("run", "Run every strategy of a scenario on real data and measure it");
  const auto args = std::make_shared<Args>();
  Options& m = args->measurement;
  const std::map<std::string, Options::Mode> modes{{"auto", Options::Mode::automatic},
                                                   {"threads", Options::Mode::threads},
                                                   {"one-at-a-time", Options::Mode::one_at_a_time}};
  const std::map<std::string, Options::Statistic> statistics{{"median", Options::Statistic::median},
                                                             {"minimum", Options::Statistic::minimum}};
  verb->add_option("scenario", args->scenario, "Scenario file (docs/scenario.md)")->required();
  verb->add_option("--backend", args->backend,
                   fmt::format("What runs the plans: {}", fmt::join(backend::executor_names(), ", ")))
      ->check(CLI::IsMember([] {
        std::vector<std::string> names;
        for (const std::string_view n : backend::executor_names()) names.emplace_back(n);
        return names;
      }()))
      ->capture_default_str();
  verb->add_option("--repeat", m.repeats, "Runs that are measured")->check(CLI::Range(1, 1000))->capture_default_str();
  verb->add_option("--warmup", m.warmup, "Runs before them")->check(CLI::Range(0, 1000))->capture_default_str();
  verb->add_option("--statistic", m.statistic,
                   "Which run is reported: the median, or the minimum (of every op, composed)")
      ->transform(choices(statistics))
      ->default_str("median");
  verb->add_option(
          "--mode", m.mode,
          "Ranks as threads (cuda: a GPU each), or their ops one at a time; auto: threads where every rank has a "
          "core (a GPU)")
      ->transform(choices(modes))
      ->default_str("auto");
  verb->add_flag("--graph", m.graph, "cuda: one CUDA graph per run instead of a launch per kernel");
  verb->add_option("--transport", args->transport, "threads: ranks of this process; mpi: a process each, under mpirun")
      ->check(CLI::IsMember({"threads", "mpi"}))
      ->capture_default_str();
  verb->add_option("--patience", m.patience, "Seconds without a sign of life from a rank that end the run")
      ->check(between(0.1, 86400.0))
      ->capture_default_str();
  verb->add_option("--plan", args->plan, "A plan's file ('moesim plan -o') instead of the scenario's strategies");
  verb->add_option("--out", args->out,
                   "Directory for report.json and, per strategy, ops.csv, trace.json, timeline.json");
  verb->add_flag("--json", args->json, "Print report.json instead of tables");
  verb->footer(R"(Examples:
  moesim run scenarios/host_small.toml --out measured
  moesim run scenarios/host_small.toml --statistic minimum --repeat 20
  mpirun -n 4 moesim run scenarios/host_small.toml --transport mpi
  moesim run scenarios/cuda_mixtral_skewed.toml --backend cuda     predicted by: simulate, --virtual-ranks on one GPU

Exit codes: 0 done; 1 no strategy could be run, or not all because of an interrupt; 2 bad input; 3 the backend or transport is not here.)");
  verb->callback([args, &run] {
    run = [args]() -> int {
      const backend::Executor& executor = *backend::find_executor(args->backend);
      if (const std::string why = executor.unavailable(); !why.empty()) {
        fmt::print(stderr, "{}: {}\n", executor.name(), why);
        return Exit::unavailable;
      }
      try {
        return measure(*args, executor);
      } catch (const backend::Refused& e) {
        fmt::print(stderr, "{}: {}\n", executor.name(), e.what());
        return Exit::unavailable;
      }
    };
  });
}

}  // namespace moesim::cli
