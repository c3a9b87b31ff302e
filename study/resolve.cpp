#include "study/resolve.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "models/arch/zoo.hpp"
#include "models/fit/device.hpp"
#include "models/load/part.hpp"
#include "models/load/trace.hpp"
#include "study/scenario_reader.hpp"

namespace moesim::study {
namespace {

// Loads of a million tokens are exact to a fraction of a percent; more only cost time.
constexpr std::int64_t most_planned_tokens = std::int64_t{1} << 20;

// Runs every step, whatever went wrong in others, and then throws all faults together.
class Faults {
 public:
  template <class Step>
  bool attempt(Step&& step) {
    try {
      step();
      return true;
    } catch (const InputError& e) {
      all_.insert(all_.end(), e.diagnostics().begin(), e.diagnostics().end());
      return false;
    }
  }
  void add(SourcePlace place, std::string message, std::string hint = {}) {
    all_.push_back({std::move(place), std::move(message), std::move(hint)});
  }
  void throw_if_any() {
    if (!all_.empty()) throw InputError(std::move(all_));
  }

 private:
  std::vector<Diagnostic> all_;
};

// Faults of overrides come at the model's place and begin with the key that they are about.
Model load_model(const Scenario& s) {
  const SourcePlace place = s.place("model.name");
  try {
    return arch::load(s.model.name, s.model.overrides, place);
  } catch (const InputError& e) {
    std::vector<Diagnostic> placed = e.diagnostics();
    for (Diagnostic& d : placed)
      for (const char* key : {"experts", "top_k", "layers"})
        if (d.place.file == s.path && d.message.starts_with(key)) d.place = s.place(fmt::format("model.{}", key));
    throw InputError(std::move(placed));
  }
}

// Faults of degraded links name their pattern.
Cluster load_cluster(const Scenario& s, const hardware::MachineSpec& machine) {
  try {
    return hardware::make_cluster(machine, s.cluster.shape, s.place("cluster.gpus_per_node"));
  } catch (const InputError& e) {
    std::vector<Diagnostic> placed = e.diagnostics();
    for (Diagnostic& d : placed)
      for (std::size_t i = 0; i < s.cluster.shape.degraded.size(); ++i)
        if (d.message.find(fmt::format("\"{}\"", s.cluster.shape.degraded[i].links)) != std::string::npos)
          d.place = s.place(fmt::format("cluster.degraded[{}].links", i));
    throw InputError(std::move(placed));
  }
}

void check_phase(const Scenario& s, const Model& model, const Workload& w, Faults& faults) {
  using Phase = Workload::Phase;
  if (w.phase == Phase::encode && !model.has_encoder())
    faults.add(s.place("workload.phase"), fmt::format("{} has no encoder", model.name),
               "its phases are prefill and decode");
  if (w.phase != Phase::encode && w.phase != Phase::train && !model.has_decoder())
    faults.add(s.place("workload.phase"), fmt::format("{} has no decoder", model.name), "its phase is encode");
  const bool both = model.has_encoder() && model.has_decoder();
  if (w.phase == Phase::decode && both && w.sequence_length == 0)
    faults.add(s.place("workload"),
               fmt::format("[workload] is missing 'sequence_length': {} attends to an encoded input", model.name));
  if (w.phase == Phase::decode && !both && w.sequence_length != 0)
    faults.add(s.place("workload.sequence_length"),
               fmt::format("{} has no encoded input to attend to in phase \"decode\"", model.name),
               "kv_length counts the tokens in the cache, the new one included");
  if (model.positions > 0 && w.context() > model.positions)
    faults.add(s.place(w.kv_length > 0 ? "workload.kv_length" : "workload.sequence_length"),
               fmt::format("{} tokens are more than the {} positions of {}", w.context(), model.positions, model.name));
}

void check_math(const Scenario& s, const Gpu& gpu, Faults& faults) {
  std::vector<std::string_view> has;
  for (const Math m : all_maths)
    if (gpu.peak_of(m)) has.push_back(to_string(m));
  const auto check = [&](const char* key, Math math) {
    if (!gpu.peak_of(math))
      faults.add(s.place(key), fmt::format("{} has no {} pipeline", gpu.name, to_string(math)),
                 fmt::format("it has: {}", fmt::join(has, ", ")));
  };
  const std::optional<Math> math = s.workload.workload.math;
  if (math) check("model.math", *math);
  // Attention multiplies activations, float32 ones as `math` says.
  if (!math || s.workload.workload.activations != DType::f32)
    check("model.activations", natural_math(s.workload.workload.activations));
}

Workload whole_workload(const Scenario& s, int gpus) {
  Workload w = s.workload.workload;
  if (!s.workload.sequences_per_gpu) return w;
  const std::int64_t each = *s.workload.sequences_per_gpu;
  if (each > most_tokens / w.new_tokens() / gpus)
    throw InputError(s.place("workload.sequences_per_gpu"),
                     fmt::format("{} sequences of {} tokens on each of {} GPUs are more than 2^40 tokens", each,
                                 w.new_tokens(), gpus));
  w.sequences = each * gpus;
  return w;
}

load::RoutingShape routing_shape(const Scenario& s, const Model& model, const Workload& w) {
  const auto first =
      std::find_if(model.layers.begin(), model.layers.end(), [](const auto& l) { return l.moe.has_value(); });
  if (first == model.layers.end()) throw InputError(s.place("model"), fmt::format("{} has no MoE layer", model.name));
  const MoeBlock& moe = *first->moe;
  load::RoutingShape shape;
  shape.moe_layers = model.moe_layers();
  shape.experts = static_cast<int>(moe.experts);
  shape.top_k = static_cast<int>(moe.top_k);
  shape.expert_groups = static_cast<int>(moe.expert_groups);
  shape.groups_per_token = static_cast<int>(moe.groups_per_token);
  shape.tokens = w.sequences * w.new_tokens();
  return shape;
}

load::TraceSpec trace_spec(const Scenario& s, const load::RoutingShape& shape) {
  const RoutingChoice& r = s.routing;
  load::TraceSpec trace;
  trace.path = r.trace;
  trace.shape = shape;
  trace.repeat = r.repeat;
  trace.layers = r.cycle_layers ? load::LayerMap::cycle : load::LayerMap::exact;
  trace.window = {r.window_first, r.window_count};
  trace.seed = r.synthetic.seed;
  return trace;
}

std::unique_ptr<const Routing> make_routing(const Scenario& s, const Model& model, const Workload& w) {
  const load::RoutingShape shape = routing_shape(s, model, w);
  if (!s.routing.trace.empty()) return load::open_trace(trace_spec(s, shape));
  load::SyntheticSpec spec = s.routing.synthetic;
  spec.shape = shape;
  std::vector<Diagnostic> faults = load::faults(spec);
  for (Diagnostic& d : faults) d.place = s.place("routing.law");
  if (!faults.empty()) throw InputError(std::move(faults));
  return load::make_synthetic(spec);
}

// A law's other tokens, or the trace's other window. Without noise a law has no other tokens.
std::unique_ptr<const Routing> make_history(const Scenario& s, const Model& model, const Workload& w) {
  load::RoutingShape shape = routing_shape(s, model, w);
  if (!s.routing.trace.empty()) {
    if (!s.routing.plan_window) return nullptr;
    load::TraceSpec trace = trace_spec(s, shape);
    trace.shape.tokens = 0;
    trace.window = *s.routing.plan_window;
    return load::open_trace(trace);
  }
  if (s.routing.synthetic.sampling == load::Sampling::expected) return nullptr;
  load::SyntheticSpec spec = s.routing.synthetic;
  spec.shape = shape;
  spec.law_tokens = shape.tokens;
  spec.shape.tokens *= 2;
  return std::make_unique<load::Part>(load::make_synthetic(spec), shape.tokens,
                                      std::min(shape.tokens, most_planned_tokens));
}

// Paths are relative to the scenario.
std::string file_path(const Scenario& s, const OptionValue& option) {
  namespace fs = std::filesystem;
  const fs::path given = std::get<std::string>(option.value);
  const fs::path full = given.is_absolute() ? given : fs::path(s.path).parent_path() / given;
  std::error_code ec;
  if (!fs::is_regular_file(full, ec))
    throw InputError(option.place, fmt::format("'{}': no such file: {}", option.key, full.string()),
                     "paths are relative to the scenario file");
  return full.string();
}

// What makes the loads of each iteration; empty where one iteration has one routing.
std::function<std::unique_ptr<load::LoadSequence>()> make_loads(const Scenario& s, const Model& model,
                                                                const Workload& w) {
  const RoutingChoice& r = s.routing;
  const load::RoutingShape shape = routing_shape(s, model, w);
  const int iterations = s.workload.iterations;
  if (r.dynamics) {
    if (shape.groups_per_token < shape.expert_groups)
      throw InputError(
          s.place("routing.dynamics"),
          fmt::format("{} limits a token to groups of experts, which loads that drift do not", model.name));
    const std::vector<Diagnostic> faults = load::faults(r.synthetic.law);
    if (!faults.empty()) return {};  // reported with the routing
    return [=, law = r.synthetic.law, dynamics = *r.dynamics, seed = r.synthetic.seed] {
      return load::make_drifting(shape, w.sequence_length, law, dynamics, seed);
    };
  }
  const bool counts = r.trace.ends_with(".csv") || r.trace.ends_with(".csv.gz");
  if (counts && w.phase == Workload::Phase::train) {
    const load::RecordedLoads recorded{r.trace, {r.window_first, r.window_count}, iterations, r.repeat, r.cycle_layers};
    static_cast<void>(load::open_recorded(shape, w.sequence_length, recorded));  // its faults, now
    return [=] { return load::open_recorded(shape, w.sequence_length, recorded); };
  }
  if (iterations > 1)
    throw InputError(s.place("workload.iterations"),
                     fmt::format("{} iterations would all have the same load", iterations),
                     r.trace.empty() ? "say in [routing.dynamics] how it changes"
                                     : "a .csv of tokens per expert and iteration has a load for each");
  return {};
}

std::vector<ResolvedStrategy> resolve_strategies(const Scenario& s) {
  std::vector<std::string_view> kinds;
  for (const strategies::Strategy& known : strategies::all()) kinds.emplace_back(known.name);
  Faults faults;
  std::vector<ResolvedStrategy> out;
  for (std::size_t i = 0; i < s.strategies.size(); ++i) {
    const StrategyChoice& choice = s.strategies[i];
    const strategies::Strategy* strategy = strategies::find(choice.kind);
    if (!strategy) {
      const std::string_view near = nearest_name(choice.kind, kinds);
      faults.add(s.place(fmt::format("strategy[{}].kind", i)),
                 fmt::format("there is no strategy '{}'; there are: {}", choice.kind, fmt::join(kinds, ", ")),
                 near.empty() ? "" : fmt::format("did you mean '{}'?", near));
      continue;
    }
    std::vector<std::string_view> names;
    for (const strategies::OptionSpec& spec : strategy->options) names.emplace_back(spec.name);
    std::map<std::string, strategies::OptionValue> given;
    for (const OptionValue& option : choice.options) {
      const auto spec = std::ranges::find(strategy->options, option.key, &strategies::OptionSpec::name);
      if (spec == strategy->options.end()) {
        const std::string_view near = nearest_name(option.key, names);
        faults.add(option.place, fmt::format("{} has no option '{}'", choice.kind, option.key),
                   !near.empty() ? fmt::format("did you mean '{}'?", near)
                                 : fmt::format("its options: {}", fmt::join(names, ", ")));
      } else if (const std::string why = strategies::misfit(*spec, option.value); !why.empty()) {
        faults.add(option.place, fmt::format("'{}' {}", option.key, why));
      } else if (spec->file) {
        faults.attempt([&] { given.emplace(option.key, file_path(s, option)); });
      } else {
        given.emplace(option.key, option.value);
      }
    }
    out.push_back({choice.name, strategy, strategies::Options(strategy->options, std::move(given))});
  }
  faults.throw_if_any();
  return out;
}

}  // namespace

std::shared_ptr<const Routing> long_routing(const Scenario& s, const Model& model, const Workload& w,
                                            std::int64_t tokens) {
  load::RoutingShape shape = routing_shape(s, model, w);
  if (!s.routing.trace.empty()) {
    load::TraceSpec trace = trace_spec(s, shape);
    trace.shape.tokens = 0;
    return load::open_trace(trace);
  }
  load::SyntheticSpec spec = s.routing.synthetic;
  spec.shape = shape;
  spec.shape.tokens = tokens;
  spec.law_tokens = shape.tokens;
  return load::make_synthetic(spec);
}

hardware::MachineSpec resolved_machine(const Scenario& s) {
  hardware::MachineSpec m = hardware::load_machine(s.cluster.machine, s.place("cluster.machine"));
  for (const std::string& overlay : s.cluster.overlays)
    if (is_fit_file(overlay)) {
      apply_transfers(m, cost::read_fit_file(overlay), overlay);
    } else {
      hardware::apply_overlay(m, overlay);
    }
  // Launches, waits and copies, where the calibration that the scenario runs on has measured them.
  if (const Calibration c = find_calibration(s, m); c.fits) fit::apply_device(m, *c.fits, "calibration");
  const NetworkChoice& choice = s.cluster.network;
  hardware::NetworkFabric shape = choice.shape;
  shape.nic = m.network.nic;
  shape.nic_pcie = m.network.nic_pcie;
  shape.nics_per_node = choice.nics_per_node.value_or(m.network.nics_per_node);
  shape.switch_latency = choice.switch_latency.value_or(m.network.switch_latency);
  if (choice.nic) shape.nic.nominal = *choice.nic;
  // A dragonfly's cables are as efficient as the NICs.
  shape.local_link = shape.global_link = shape.nic;
  shape.local_link.nominal = choice.local_link.value_or(BytesPerSecond(0));
  shape.global_link.nominal = choice.global_link.value_or(BytesPerSecond(0));
  m.network = shape;
  for (const auto& [key, number] : {std::pair{"nic", "nic.nominal"}, std::pair{"nics_per_node", "nics_per_node"},
                                    std::pair{"switch_latency", "switch_latency"}}) {
    const auto at = s.places.find(fmt::format("cluster.network.{}", key));
    if (at != s.places.end())
      m.sources[fmt::format("network.{}", number)] = fmt::format("the scenario, {}:{}", s.path, at->second.line);
  }
  return m;
}

Setup resolve(const Scenario& s) {
  Setup out;
  out.simulation = s.simulation;
  Faults faults;
  const bool model = faults.attempt([&] { out.model = load_model(s); });
  bool cluster = false;
  faults.attempt([&] {
    const hardware::MachineSpec machine = resolved_machine(s);
    check_math(s, machine.gpu, faults);
    out.cluster = load_cluster(s, machine);
    cluster = true;
    out.calibration = find_calibration(s, machine);
    out.cluster.communication = make_communication(out.calibration, machine);
  });
  bool workload = false;
  if (cluster) workload = faults.attempt([&] { out.workload = whole_workload(s, out.cluster.ranks()); });
  if (model) check_phase(s, out.model, s.workload.workload, faults);
  if (model && workload)
    faults.attempt([&] {
      out.iterations = s.workload.iterations;
      out.loads = make_loads(s, out.model, out.workload);
      out.routing = out.loads ? out.loads()->routing() : make_routing(s, out.model, out.workload);
      if (!out.loads) out.history = make_history(s, out.model, out.workload);
    });
  faults.attempt([&] { out.strategies = resolve_strategies(s); });
  faults.throw_if_any();
  return out;
}

ResolvedStrategy strategy_of_plan(const std::string& path, const Setup& setup) {
  auto plan = std::make_shared<const Plan>(read_plan(path));
  std::vector<Diagnostic> wrong;
  const auto same = [&](const char* what, const std::string& of_plan, const std::string& of_setup) {
    if (of_plan != of_setup)
      wrong.push_back({{path, 0, 0},
                       fmt::format("was made for the {} '{}', and the scenario's is '{}'", what, of_plan, of_setup),
                       "give the scenario that the plan was made from"});
  };
  same("model", plan->model, setup.model.name);
  same("workload", plan->workload, to_string(setup.workload));
  same("routing", plan->routing, setup.routing->description());
  if (!names_a_file(plan->strategy))
    wrong.push_back({{path, 0, 0},
                     fmt::format("has a strategy '{}', and files are named after it", printable(plan->strategy)),
                     "use letters, digits, '.', '_', '-' and '+', a letter or digit first"});
  if (plan->ranks > setup.cluster.ranks())
    wrong.push_back({{path, 0, 0},
                     fmt::format("has {} ranks, and the scenario's cluster {}", plan->ranks, setup.cluster.ranks()),
                     {}});
  if (!wrong.empty()) throw InputError(std::move(wrong));
  return {plan->strategy, nullptr, strategies::Options({}, {}), plan};
}

}  // namespace moesim::study
