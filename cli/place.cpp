#include <fmt/format.h>

#include <memory>

#include "cli/progress.hpp"
#include "cli/validators.hpp"
#include "cli/verbs.hpp"
#include "moesim/error.hpp"
#include "study/placing.hpp"
#include "support/files.hpp"
#include "support/quantity.hpp"

namespace moesim::cli {
namespace {

struct Args {
  std::string scenario;
  study::TraceInput trace;
  std::string method = "local_search";
  study::PlacingRequest request;
  std::string mode = "return_home";
  std::string replica_choice = "local_first";
  std::string time_limit = "60 s";
  std::string memory;
  double train = 0.5;
  int steps = 8;
  std::string out;
  std::string format = "moesim";
  std::string table;
  std::string programs;
  bool uneven_memory = false;
  bool json = false;
};

template <class Q>
Q quantity(const std::string& option, const std::string& text, const Range<Q>& range) {
  const std::variant<Q, Fault> parsed = parse_quantity<Q>(text, range);
  if (const auto* fault = std::get_if<Fault>(&parsed)) throw InputError({option, 0, 0}, fault->message, fault->hint);
  return std::get<Q>(parsed);
}

study::PlacingInput input_of(const Args& a) {
  if (a.scenario.empty() == a.trace.trace.empty())
    throw InputError({}, "place needs a scenario or a trace, one of them",
                     "moesim place SCENARIO, or --trace FILE --gpus N");
  if (a.scenario.empty()) return study::placing_input(a.trace, a.train);
  for (const auto& [given, name] : {std::pair{!a.trace.model.empty(), "--model"},
                                    {a.trace.experts != 0, "--experts"},
                                    {a.trace.gpus != 0, "--gpus"},
                                    {a.trace.nodes != 1, "--nodes"},
                                    {!a.trace.machine.empty(), "--machine"}})
    if (given) throw InputError({}, fmt::format("{} goes with --trace: a scenario says it itself", name));
  return study::placing_input(study::read_scenario(a.scenario), a.train, a.steps);
}

int place(Args a) {
  a.request.method = *placement::parse_method(a.method);
  a.request.mode = a.mode == "stay" ? placement::Mode::stay : placement::Mode::return_home;
  a.request.dispatch = a.replica_choice == "even" ? placement::Dispatch::even : placement::Dispatch::local_first;
  a.request.moetuner.seconds = to_seconds(quantity("--time-limit", a.time_limit, positive(from_seconds(86400))));
  a.request.moetuner.equal_memory = !a.uneven_memory;
  if (!a.memory.empty()) a.request.memory_per_gpu = quantity("--memory-per-gpu", a.memory, positive<Bytes>());
  if (!a.programs.empty() && a.request.method != placement::Method::moetuner)
    throw InputError({}, fmt::format("--programs goes with --method moetuner, not {}", a.method));
  study::Placing placing;
  {
    const Waiting waiting(fmt::format("placing experts: {}", a.request.map.empty() ? a.method : a.request.map));
    placing = study::place_experts(input_of(a), a.request);
  }
  placing.input.info.method = a.request.map.empty() ? a.method : a.request.map;
  // Text first: a format that cannot hold the map must leave no files.
  const auto& maps = placing.plan.maps;
  const auto format = *placement::parse_map_format(a.format);
  const std::string map = a.out.empty() ? std::string() : map_text(maps, placing.input.info, format);
  if (!a.out.empty()) write_file(a.out, map);
  if (!a.table.empty()) write_file(a.table, map_table(maps, placing.input.info, &placing.train_loads));
  if (!a.programs.empty())
    for (const std::string& file : study::export_programs(placing, a.programs, false))
      fmt::print(stderr, "wrote {}\n", file);
  fmt::print("{}", a.json ? study::placing_json(placing) : study::render(placing));
  for (const std::string& file : {a.out, a.table})
    if (!file.empty()) fmt::print(stderr, "wrote {}\n", file);
  return Exit::ok;
}

}  // namespace

void add_place(CLI::App& app, Run& run) {
  CLI::App* verb =
      app.add_subcommand("place", "Find a placement of the experts, and judge it on tokens it was not made for");
  const auto a = std::make_shared<Args>();
  std::vector<std::string> methods;
  for (const placement::MethodInfo& m : placement::methods()) methods.emplace_back(m.name);
  verb->add_option("scenario", a->scenario, "Scenario file: model, cluster and routing are taken from its first point");
  verb->add_option("--trace", a->trace.trace, "Instead: recorded routing (.npy, .jsonl, .csv; docs/scenario.md)");
  verb->add_option("--gpus", a->trace.gpus, "With --trace: GPUs that share the experts")->check(CLI::Range(1, 65536));
  verb->add_option("--nodes", a->trace.nodes, "With --trace: nodes that they are on")->check(CLI::Range(1, 65536));
  verb->add_option("--model", a->trace.model, "With --trace: model of `moesim list models`, or a config.json");
  verb->add_option("--experts", a->trace.experts, "With --trace, without --model: routed experts of a layer")
      ->check(CLI::Range(1, 65535));
  verb->add_option("--machine", a->trace.machine, "With --trace: machine whose links are taken");
  verb->add_option("--step-tokens", a->trace.tokens_per_step,
                   "With --trace: tokens of one step; default the whole window")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40));
  verb->add_option("--method", a->method, "How: docs/placement.md")
      ->check(CLI::IsMember(methods))
      ->capture_default_str();
  verb->add_option("--map", a->request.map, "Judge the map in this file instead of finding one");
  verb->add_option("--replicas", a->request.replicas, "Slots of a layer beyond one per expert")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  verb->add_option("--mode", a->mode, "Tokens return home after every layer, or stay at their first expert's GPU")
      ->check(CLI::IsMember({"return_home", "stay"}))
      ->capture_default_str();
  verb->add_option("--replica-choice", a->replica_choice, "Which replica a copy takes")
      ->check(CLI::IsMember({"even", "local_first"}))
      ->capture_default_str();
  verb->add_option("--tolerance", a->request.tolerance,
                   "local_search: fullest GPU above the lower bound that is allowed")
      ->check(between(0.0, 10.0));
  verb->add_option("--time-limit", a->time_limit, "moetuner: for all programs together")->capture_default_str();
  verb->add_flag("--equal-sizes", a->request.moetuner.equal_sizes,
                 "moetuner: as many experts on every GPU, layer by layer");
  verb->add_flag("--uneven-memory", a->uneven_memory,
                 "moetuner: GPUs may hold different numbers of experts over all layers");
  verb->add_option("--memory-per-gpu", a->memory,
                   "For routed experts of all layers: fewer replicas where they do not fit");
  verb->add_option("--from", a->request.from, "Map file that says where experts are now, for the cost of moving");
  verb->add_option("--train", a->train, "Share of the routing that the map is made on; the rest judges it")
      ->check(between(0.01, 0.99))
      ->capture_default_str();
  verb->add_option("--steps", a->steps, "Laws: steps whose tokens are planned on, and as many to judge on")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  verb->add_option("-o,--output", a->out, "Write the map");
  verb->add_option("--format", a->format, "Of the map: moesim, or as the engine takes it")
      ->check(CLI::IsMember({"moesim", "sglang", "vllm"}))
      ->capture_default_str();
  verb->add_option("--table", a->table, "Write the map as a table (.csv): a line per slot");
  verb->add_option("--programs", a->programs, "moetuner: write its integer programs as PREFIX.*.lp for other solvers");
  verb->add_flag("--json", a->json, "Print figures as JSON");
  verb->footer(R"(Examples:
  moesim place scenarios/mixtral_h100.toml --method eplb --replicas 8 -o eplb.json --format sglang
  moesim place --trace routes.npy --model deepseek-v3 --gpus 32 --nodes 4 --replicas 32 -o ours.json
  moesim place scenarios/mixtral_h100.toml --map eplb.json --from ours.json      judge a map; what moving to it costs

Exit codes: 0 done; 2 bad input.)");
  verb->callback([a, &run] { run = [a] { return place(*a); }; });
}

}  // namespace moesim::cli
