#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "cli/progress.hpp"
#include "cli/validators.hpp"
#include "cli/verbs.hpp"
#include "study/runner.hpp"

namespace moesim::cli {

void add_simulate(CLI::App& app, Run& run) {
  struct Args {
    std::vector<std::string> scenarios;
    std::string out;
    std::vector<std::string> machines;
    bool force = false;
    bool json = false;
    std::optional<double> error;
    bool exact = false;
    bool one_gpu = false;
    std::string plan;
  };
  CLI::App* verb = app.add_subcommand("simulate", "Predict every strategy of a scenario and rank them");
  const auto args = std::make_shared<Args>();
  verb->add_option("scenario", args->scenarios, "Scenario files (docs/scenario.md)")->required();
  verb->add_option(
      "--out", args->out,
      "Directory for report.json and, per strategy, ops.csv, trace.json (ui.perfetto.dev) and timeline.json");
  verb->add_option("--machine", args->machines, "Calibration (FILE.fit.toml) to lay over the scenario's machine");
  verb->add_flag("--force", args->force, "Use a calibration of another machine or processor all the same");
  verb->add_flag("--json", args->json, "Print report.json instead of tables");
  CLI::Option* exact = verb->add_flag("--exact", args->exact,
                                      "Solve link sharing again at every completion, whatever the scenario says");
  verb->add_option("--network-error", args->error,
                   "Largest relative error of a transfer's time, whatever the scenario says (there 0.01 by default)")
      ->check(between(1e-6, 0.5))
      ->excludes(exact);
  verb->add_option("--plan", args->plan, "A plan's file ('moesim plan -o') instead of the scenario's strategies");
  verb->add_flag("--virtual-ranks", args->one_gpu,
                 "Predict all ranks on one GPU, one op at a time, as 'run --backend cuda' runs them where there are "
                 "fewer GPUs than ranks")
      ->excludes(exact)
      ->excludes("--network-error");
  verb->footer(R"(Examples:
  moesim simulate scenarios/mixtral_h100.toml
  moesim simulate a.toml b.toml --out results           results/a, results/b
  moesim simulate a.toml --json | jq '.points[0].strategies[0].strategy'
  moesim plan a.toml --strategy ep -o ep.plan.json; moesim simulate a.toml --plan ep.plan.json

Exit codes: 0 every point has a strategy that fits; 1 some point has none; 2 bad input.)");
  verb->callback([args, &run] {
    run = [args] {
      bool feasible = true;
      for (const std::string& path : args->scenarios) {
        const study::Scenario scenario = study::read_scenario(path);
        study::RunOptions options;
        options.overlays = args->machines;
        options.force = args->force;
        options.one_gpu = args->one_gpu;
        options.plan = args->plan;
        if (args->exact) options.fidelity = {.kind = sim::Fidelity::Kind::exact};
        if (args->error) options.fidelity = {sim::Fidelity::Kind::bounded, *args->error};
        if (!args->out.empty()) {
          options.out_dir = args->out;
          if (args->scenarios.size() > 1) options.out_dir += "/" + std::filesystem::path(path).stem().string();
        }
        const auto progress = std::make_shared<Progress>();
        options.progress = [progress](double share, const std::string& what) { (*progress)(share, what); };
        const study::StudyResult result = study::run_study(scenario, options);
        options.progress = nullptr;
        feasible = feasible && result.feasible();
        fmt::print("{}", args->json ? study::report_json(result) : study::render(result));
        if (!args->out.empty()) fmt::print(stderr, "wrote {}\n", options.out_dir);
      }
      return feasible ? Exit::ok : Exit::no;
    };
  });
}

}  // namespace moesim::cli
