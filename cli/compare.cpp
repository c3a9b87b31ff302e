#include "study/compare.hpp"

#include <fmt/format.h>

#include <map>
#include <memory>

#include "cli/validators.hpp"
#include "cli/verbs.hpp"

namespace moesim::cli {

void add_compare(CLI::App& app, Run& run) {
  struct Args {
    std::string predicted;
    std::string measured;
    study::CompareOptions options;
    bool json = false;
  };
  using By = study::CompareOptions::By;
  CLI::App* verb = app.add_subcommand("compare", "Join predicted with measured times, op for op");
  const auto args = std::make_shared<Args>();
  const std::map<std::string, By> by{
      {"op", By::op}, {"layer", By::layer}, {"rank", By::rank}, {"strategy", By::strategy}};
  verb->add_option("predicted", args->predicted, "A .timeline.json, or a directory of them ('moesim simulate --out')")
      ->required();
  verb->add_option("measured", args->measured, "The same of 'moesim run --out'")->required();
  using Judge = study::CompareOptions::Judge;
  const std::map<std::string, Judge> judges{{"end-to-end", Judge::end_to_end}, {"moe-layer", Judge::moe_layer}};
  verb->add_option("--judge", args->options.judge,
                   "Whose error and order pass or fail: the whole step's, or the MoE layers' where the rest is not "
                   "comparable (attention on --backend cuda)")
      ->transform(choices(judges))
      ->default_str("end-to-end");
  verb->add_flag("--common", args->options.common, "Leave out strategies that only one side has");
  verb->add_option("--tolerance", args->options.tolerance,
                   "Largest error of what is judged; strategies closer to each other than this have no order")
      ->check(between(0.0, 10.0))
      ->capture_default_str();
  verb->add_option("--by", args->options.by, "Rows: kinds of op, layers, ranks or strategies")
      ->transform(choices(by))
      ->default_str("op");
  verb->add_option("--worst", args->options.worst, "Ops listed by name")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  verb->add_flag("--json", args->json, "Print JSON instead of tables");
  verb->footer(R"(Example, as a regression test:
  moesim simulate s.toml --machine this.fit.toml --out predicted
  moesim run s.toml --out measured
  moesim compare predicted measured --tolerance 0.25

Exit codes: 0 every error judged is within the tolerance and no two strategies farther apart than it are predicted the
wrong way round; 1 otherwise; 2 files that cannot be read or do not match op for op.)");
  verb->callback([args, &run] {
    run = [args] {
      const study::Comparison c =
          study::compare(study::read_timelines(args->predicted), study::read_timelines(args->measured), args->options);
      fmt::print("{}", args->json ? study::to_json(c) : study::render(c));
      return c.passed() ? Exit::ok : Exit::no;
    };
  });
}

}  // namespace moesim::cli
