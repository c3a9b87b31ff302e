#include <fmt/format.h>

#include <memory>

#include "cli/verbs.hpp"
#include "moesim/error.hpp"
#include "study/runner.hpp"

namespace moesim::cli {

void add_plan(CLI::App& app, Run& run) {
  struct Args {
    std::string scenario;
    std::string strategy;
    std::string out;
    int rank = 0;
  };
  CLI::App* verb = app.add_subcommand("plan", "Print or save what a strategy makes of a scenario");
  const auto args = std::make_shared<Args>();
  verb->add_option("scenario", args->scenario, "Scenario file; a sweep gives its first point")->required();
  verb->add_option("--strategy", args->strategy, "Name of one of the scenario's strategies")->required();
  verb->add_option("-o,--output", args->out, "Save the plan (docs/plan_format.md) instead of printing it");
  verb->add_option("--rank", args->rank, "Print what this rank does")->capture_default_str();
  verb->footer(R"(Examples:
  moesim plan scenarios/mixtral_h100.toml --strategy expert_parallel
  moesim plan scenarios/mixtral_h100.toml --strategy expert_parallel -o ep.plan.json)");
  verb->callback([args, &run] {
    run = [args] {
      const study::Scenario scenario = study::read_scenario(args->scenario);
      const study::Setup setup = study::resolve(study::expand(scenario).front().scenario);
      const SourcePlace place{args->scenario, 0, 0};
      std::vector<std::string_view> names;
      for (const study::ResolvedStrategy& s : setup.strategies) {
        names.emplace_back(s.label);
        if (s.label != args->strategy) continue;
        if (args->rank < 0 || args->rank >= setup.cluster.ranks())
          throw InputError(place, fmt::format("there is no rank {}: the cluster has ranks 0 to {}", args->rank,
                                              setup.cluster.ranks() - 1));
        const Plan plan = [&] {
          try {
            return study::make_plan(setup, s);
          } catch (const strategies::Infeasible& e) {
            throw InputError(place, fmt::format("strategy '{}' is not possible: {}", s.label, e.what()));
          }
        }();
        if (args->out.empty()) {
          fmt::print("{}", describe(plan, Rank(args->rank)));
        } else {
          write_plan(plan, args->out);
        }
        return Exit::ok;
      }
      const std::string_view near = nearest_name(args->strategy, names);
      throw InputError(place,
                       fmt::format("there is no strategy '{}'; there are: {}", args->strategy, fmt::join(names, ", ")),
                       near.empty() ? std::string() : fmt::format("did you mean '{}'?", near));
    };
  });
}

}  // namespace moesim::cli
