#include "study/advise.hpp"

#include <fmt/format.h>

#include <memory>

#include "cli/progress.hpp"
#include "cli/validators.hpp"
#include "cli/verbs.hpp"

namespace moesim::cli {

void add_advise(CLI::App& app, Run& run) {
  struct Args {
    std::string scenario;
    study::AdviseRequest request;
    std::string replica_choice = "local_first";
    std::vector<std::string> machines;
    bool json = false;
  };
  CLI::App* verb =
      app.add_subcommand("advise", "Is balancing experts worth it here: by how much, and what does it cost");
  const auto a = std::make_shared<Args>();
  verb->add_option("scenario", a->scenario, "Scenario file; a sweep gives its first point")->required();
  verb->add_option("--replicas", a->request.replicas, "Slots of a layer beyond one per expert; default one more a GPU")
      ->check(CLI::Range(0, 1'000'000));
  verb->add_option("--replica-choice", a->replica_choice, "Which replica a copy takes")
      ->check(CLI::IsMember({"even", "local_first"}))
      ->capture_default_str();
  verb->add_option("--train", a->request.train_share,
                   "Share of the routing that maps are made on; the rest judges them")
      ->check(between(0.01, 0.99))
      ->capture_default_str();
  verb->add_option("--steps", a->request.steps, "Steps to judge on, at most")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  verb->add_option("--machine", a->machines, "Calibration (FILE.fit.toml) to lay over the scenario's machine");
  verb->add_flag("--json", a->json, "Print figures as JSON");
  verb->footer(R"(Examples:
  moesim advise scenarios/deepseek_v3_h200_decode.toml
  moesim advise scenarios/mixtral_h100.toml --replicas 16 --json | jq .verdict

Exit codes: 0 done; 1 nothing fits in memory; 2 bad input.)");
  verb->callback([a, &run] {
    run = [a] {
      a->request.dispatch = a->replica_choice == "even" ? placement::Dispatch::even : placement::Dispatch::local_first;
      study::RunOptions options;
      options.overlays = a->machines;
      const auto progress = std::make_shared<Progress>();
      options.progress = [progress](double share, const std::string& what) { (*progress)(share, what); };
      const study::Advice advice = study::advise(a->scenario, a->request, options);
      options.progress = nullptr;
      fmt::print("{}", a->json ? study::advice_json(advice) : study::render(advice));
      return std::ranges::any_of(advice.contenders,
                                 [](const study::Contender& c) { return c.infeasible.empty() && c.fits; })
                 ? Exit::ok
                 : Exit::no;
    };
  });
}

}  // namespace moesim::cli
