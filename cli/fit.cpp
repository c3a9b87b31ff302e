#include "study/fit.hpp"

#include <fmt/format.h>

#include <memory>

#include "cli/progress.hpp"
#include "cli/verbs.hpp"
#include "support/files.hpp"

namespace moesim::cli {

void add_fit(CLI::App& app, Run& run) {
  struct Args {
    std::string scenario;
    std::vector<std::string> keys;
    std::string out;
  };
  CLI::App* verb = app.add_subcommand("fit", "Fit numbers of the machine to a scenario's published figures");
  const auto args = std::make_shared<Args>();
  verb->add_option("scenario", args->scenario, "Scenario with [[published]] figures marked use = \"fit\"")->required();
  verb->add_option("--free", args->keys, fmt::format("Numbers to fit: {}", fmt::join(study::fit_keys(), ", ")))
      ->required()
      ->delimiter(',');
  verb->add_option("-o,--output", args->out, "Overlay to write (FILE.fit.toml); otherwise it is printed");
  verb->footer(R"(Example:
  moesim fit scenarios/moeshard_a100.toml --free gpu.launch,gpu.matrix_efficiency -o a100.fit.toml
  moesim simulate scenarios/moeshard_a100.toml --machine a100.fit.toml)");
  verb->callback([args, &run] {
    run = [args] {
      const study::Scenario scenario = study::read_scenario(args->scenario);
      study::FitResult fit;
      {
        Progress progress;
        fit = study::fit_machine(scenario, args->keys, [&](int n) { progress(0, fmt::format("run {}", n)); });
      }
      for (const study::FitParameter& p : fit.parameters)
        fmt::print(stderr, "{:<26} {:.4g} -> {:.4g} {}\n", p.key, p.initial, p.fitted, p.unit);
      fmt::print(stderr, "{} figures, rms of ln(predicted / published) {:.3f}\n", fit.figures, fit.rms_error);
      if (args->out.empty()) {
        fmt::print("{}", fit.overlay);
      } else {
        write_file(args->out, fit.overlay);
      }
      return Exit::ok;
    };
  });
}

}  // namespace moesim::cli
