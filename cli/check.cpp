#include <fmt/format.h>

#include <memory>

#include "cli/verbs.hpp"
#include "moesim/error.hpp"
#include "study/resolve.hpp"

namespace moesim::cli {

void add_check(CLI::App& app, Run& run) {
  CLI::App* verb = app.add_subcommand("check", "Find every mistake in scenarios, run nothing");
  const auto paths = std::make_shared<std::vector<std::string>>();
  verb->add_option("scenario", *paths, "Scenario files (docs/scenario.md)")->required();
  verb->footer("Exit codes: 0 all are sound; 2 some are not, with file:line:column of each mistake.");
  verb->callback([paths, &run] {
    run = [paths] {
      int exit = Exit::ok;
      for (const std::string& path : *paths) {
        try {
          const study::Scenario scenario = study::read_scenario(path);
          const std::vector<study::ScenarioPoint> points = study::expand(scenario);
          for (const study::ScenarioPoint& point : points) study::resolve(point.scenario);
          fmt::print("{}: sound; {} point{} x {} strateg{}\n", path, points.size(), points.size() == 1 ? "" : "s",
                     scenario.strategies.size(), scenario.strategies.size() == 1 ? "y" : "ies");
        } catch (const InputError& e) {
          fmt::print(stderr, "{}", e.what());
          exit = Exit::bad_input;
        }
      }
      return exit;
    };
  });
}

}  // namespace moesim::cli
