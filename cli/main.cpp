// moesim: scenario files in, ranked strategies out.
#include <fmt/format.h>

#include <exception>

#include "cli/verbs.hpp"
#include "moesim/error.hpp"
#include "moesim/version.hpp"

namespace {

constexpr const char* about =
    R"(moesim predicts how fast a Mixture-of-Experts model runs on a GPU cluster under each way to shard and
place its experts, before the cluster is rented.)";

constexpr const char* examples = R"(Examples:
  moesim simulate scenarios/moeshard_a100.toml          rank the strategies of a scenario
  moesim simulate my.toml --out results                 the same, with report.json, ops.csv and Perfetto traces
  moesim run my.toml --out measured                     run the same plans on this machine's processors, and measure
  moesim compare results measured                       the error of the prediction, op for op
  moesim bench collective --machine h100_sxm --op all_reduce      one collective by size, as nccl-tests prints it
  moesim check my.toml                                  find every mistake in a scenario, run nothing
  moesim plan my.toml --strategy expert_parallel        what one GPU does under a strategy, op by op
  moesim place my.toml --method eplb --replicas 8 -o eplb.map.json   where to put the experts
  moesim advise my.toml                                 is balancing them worth it
  moesim list machines                                  what can be named in a scenario

Exit codes: 0 done; 1 the study says no (no strategy fits, a comparison is out of tolerance); 2 bad input; 3 a backend is missing.)";

}  // namespace

// NOLINTNEXTLINE(bugprone-exception-escape): outside of the try only memory can be missing
int main(int argc, char** argv) {
  using namespace moesim;
  CLI::App app(about, "moesim");
  app.footer(examples);
  app.set_version_flag("--version", fmt::format("moesim {}", version));
  app.require_subcommand(1);
  cli::Run run;
  cli::add_simulate(app, run);
  cli::add_run(app, run);
  cli::add_compare(app, run);
  cli::add_bench(app, run);
  cli::add_check(app, run);
  cli::add_plan(app, run);
  cli::add_place(app, run);
  cli::add_advise(app, run);
  cli::add_fit(app, run);
  cli::add_calibrate(app, run);
  cli::add_validate(app, run);
  cli::add_list(app, run);
  try {
    app.parse(argc, argv);
    return run();
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? cli::ok : cli::bad_input;
  } catch (const InputError& e) {
    fmt::print(stderr, "{}", e.what());
    return cli::bad_input;
  } catch (const std::exception& e) {
    fmt::print(stderr, "moesim: internal error: {}\nThis is a defect of moesim; please report it with the scenario.\n",
               e.what());
    return cli::failed;
  }
}
