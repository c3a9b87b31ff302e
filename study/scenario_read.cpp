// The sections of a scenario that say what is run; scenario_tables.cpp reads the lists.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include "study/scenario_reader.hpp"

namespace moesim::study {
namespace fs = std::filesystem;

namespace {

using Kind = hardware::NetworkFabric::Kind;
const NamesOf<Kind> network_kinds{{"none", Kind::none},
                                  {"single", Kind::single},
                                  {"rail", Kind::rail},
                                  {"leaf_spine", Kind::leaf_spine},
                                  {"fat_tree3", Kind::fat_tree3},
                                  {"dragonfly", Kind::dragonfly},
                                  {"nvlink_domain", Kind::nvlink_domain}};

NamesOf<DType> dtype_names() {
  NamesOf<DType> names;
  for (const DType t : all_dtypes)
    if (t != DType::i32) names.emplace_back(to_string(t), t);
  return names;
}
NamesOf<Math> math_names() {
  NamesOf<Math> names;
  for (const Math m : all_maths) names.emplace_back(to_string(m), m);
  return names;
}

// An optional one: absent stays absent.
template <class E>
void one_of(TomlTable& t, std::string_view key, std::optional<E>& out, const NamesOf<E>& names) {
  E value{};
  if (t.one_of(key, value, names)) out = value;
}

}  // namespace

std::string ScenarioReader::resolved(TomlTable& table, std::string_view key, const std::string& path) {
  const fs::path full = fs::path(path).is_absolute() ? fs::path(path) : fs::path(s_.path).parent_path() / path;
  std::error_code ec;
  if (!fs::exists(full, ec))
    table.error_at(key, fmt::format("no such file: {}", full.string()), "paths are relative to the scenario file");
  else if (fs::is_directory(full, ec))
    table.error_at(key, fmt::format("is a directory, not a file: {}", full.string()));
  return full.string();
}

void ScenarioReader::model(TomlTable t) {
  ModelChoice& m = s_.model;
  std::string config;
  const bool named = t.maybe("name", m.name);
  if (m.name.ends_with(".json"))
    t.error_at("name", fmt::format("'{}' is a file, not a name", m.name), fmt::format("write config = \"{}\"", m.name));
  if (t.maybe("config", config)) {
    m.name = resolved(t, "config", config);
    if (!config.ends_with(".json")) t.error_at("config", fmt::format("'{}' does not end in .json", config));
    if (named) t.error_at("config", "a model has a name or a config, not both");
  } else if (t && !t.has("name") && !t.has("config")) {
    t.error("[model] is missing 'name'", "a model of `moesim list models`, or config = \"config.json\"");
  }
  arch::Overrides& o = m.overrides;
  t.maybe("experts", o.experts, {1, 65535});
  t.maybe("top_k", o.top_k, {1, 65535});
  t.maybe("layers", o.layers, {1, 100'000});
  if (o.experts && o.top_k && *o.top_k > *o.experts)
    t.error_at("top_k", fmt::format("a token cannot use {} of {} experts", *o.top_k, *o.experts));
  one_of(t, "weights", o.weights, dtype_names());
  one_of(t, "expert_weights", o.expert_weights, dtype_names());
  Workload& w = s_.workload.workload;
  t.one_of("activations", w.activations, dtype_names());
  t.one_of("kv_cache", w.kv_cache, dtype_names());
  one_of(t, "math", w.math, math_names());
}

void ScenarioReader::cluster(TomlTable t) {
  ClusterChoice& c = s_.cluster;
  if (t.require("machine", c.machine) && c.machine.ends_with(".toml")) c.machine = resolved(t, "machine", c.machine);
  t.strings("overlays", c.overlays);
  for (std::string& overlay : c.overlays) overlay = resolved(t, "overlays", overlay);
  t.maybe("calibration", c.calibration);
  if (c.calibration != "shipped" && c.calibration != "none") {
    if (c.calibration.ends_with(".toml"))
      c.calibration = resolved(t, "calibration", c.calibration);
    else
      t.error_at("calibration", fmt::format("'{}' is no calibration", c.calibration),
                 "shipped, none, or the path of a fit file that ends in .toml");
  }
  t.maybe("library", c.library);
  t.maybe("nodes", c.shape.nodes, {1, 65536});
  t.maybe("gpus_per_node", c.shape.gpus_per_node, {1, 1024});
  for (TomlTable d : t.tables("degraded")) {
    hardware::Degradation& one = c.shape.degraded.emplace_back();
    d.require("links", one.links);
    d.require("factor", one.factor, {0, 1});
  }
  network(t.table("network"));
}

void ScenarioReader::network(TomlTable t) {
  NetworkChoice& n = s_.cluster.network;
  hardware::NetworkFabric& f = n.shape;
  f.kind = Kind::single;
  t.one_of("kind", f.kind, network_kinds);
  if (f.kind == Kind::none && s_.cluster.shape.nodes > 1)
    t.error_at("kind", fmt::format("{} nodes need a network between them", s_.cluster.shape.nodes));
  const Range<BytesPerSecond> rate = positive(BytesPerSecond(1e15));
  t.maybe("nic", n.nic, rate);
  t.maybe("nics_per_node", n.nics_per_node, {1, 1024});
  t.maybe("switch_latency", n.switch_latency, {Picoseconds(0), Picoseconds(1'000'000'000'000)});

  // A key is read where it means something, and refused elsewhere instead of being passed over.
  const auto only = [&](std::string_view key, std::initializer_list<Kind> kinds) {
    if (std::find(kinds.begin(), kinds.end(), f.kind) != kinds.end()) return true;
    std::vector<std::string_view> names;
    for (const auto& [name, kind] : network_kinds)
      if (std::find(kinds.begin(), kinds.end(), kind) != kinds.end()) names.push_back(name);
    t.forbid(key, fmt::format("it belongs to a network of kind {}", fmt::join(names, ", ")));
    return false;
  };
  const auto trees = {Kind::rail, Kind::leaf_spine, Kind::fat_tree3, Kind::nvlink_domain};
  if (only("nodes_per_leaf", trees)) t.maybe("nodes_per_leaf", f.nodes_per_leaf, {1, 65536});
  if (only("spines", trees)) t.maybe("spines", f.spines, {f.kind == Kind::rail ? 0 : 1, 65536});
  if (only("oversubscription", trees)) t.maybe("oversubscription", f.oversubscription, {0, 1000, true});
  if (only("pxn", {Kind::rail})) t.maybe("pxn", f.pxn);
  if (only("leaves_per_pod", {Kind::fat_tree3})) t.maybe("leaves_per_pod", f.leaves_per_pod, {1, 65536});
  if (only("cores", {Kind::fat_tree3})) t.maybe("cores", f.cores, {1, 65536});
  if (only("groups", {Kind::dragonfly})) t.maybe("groups", f.groups, {1, 65536});
  if (only("routers_per_group", {Kind::dragonfly})) t.maybe("routers_per_group", f.routers_per_group, {1, 65536});
  if (only("local_link", {Kind::dragonfly})) t.maybe("local_link", n.local_link, rate);
  if (only("global_link", {Kind::dragonfly})) t.maybe("global_link", n.global_link, rate);
  if (only("nodes_per_domain", {Kind::nvlink_domain})) t.maybe("nodes_per_domain", f.nodes_per_domain, {1, 65536});
}

void ScenarioReader::workload(TomlTable t) {
  using Phase = Workload::Phase;
  Workload& w = s_.workload.workload;
  std::string phase;
  if (t.require("phase", phase)) {
    const NamesOf<Phase> names{
        {"encode", Phase::encode}, {"prefill", Phase::prefill}, {"decode", Phase::decode}, {"train", Phase::train}};
    t.one_of("phase", w.phase, names);
  }
  const Range<std::int64_t> counts{1, std::int64_t{1} << 40};
  const bool all = t.maybe("sequences", w.sequences, counts);
  const bool each = t.maybe("sequences_per_gpu", s_.workload.sequences_per_gpu, counts);
  if (all && each) t.error_at("sequences_per_gpu", "give sequences of all GPUs together or of each one, not both");
  if (t && !t.has("sequences") && !t.has("sequences_per_gpu"))
    t.error("[workload] is missing 'sequences'", "of all GPUs together; or sequences_per_gpu");

  const bool decode = w.phase == Phase::decode;
  const Range<std::int64_t> tokens{1, 1 << 30};
  t.read("sequence_length", w.sequence_length, decode ? Need::optional : Need::required, tokens);
  if (w.phase == Phase::train) {
    t.maybe("recompute", w.recompute);
    t.maybe("iterations", s_.workload.iterations, {1, 1'000'000});
  } else {
    for (const std::string_view key : {"recompute", "iterations"}) t.forbid(key, "it belongs to phase \"train\"");
  }
  if (w.phase == Phase::encode || w.phase == Phase::train)
    t.forbid("kv_length", w.phase == Phase::train ? "training has no cache" : "an encoder has no cache");
  else
    t.read("kv_length", w.kv_length, decode ? Need::required : Need::optional, tokens);
  if (w.phase == Phase::prefill && w.kv_length > 0 && w.kv_length < w.sequence_length)
    t.error_at("kv_length",
               fmt::format("{} is less than the sequence_length of {}: it counts the cached prefix and the new tokens",
                           w.kv_length, w.sequence_length));
  check_tokens(t, std::max(w.sequences, s_.workload.sequences_per_gpu.value_or(0)));
}

void ScenarioReader::check_tokens(TomlTable& t, std::int64_t sequences) {
  const std::int64_t each = s_.workload.workload.new_tokens();
  if (sequences > 0 && each > most_tokens / sequences)
    t.error_at(t.has("sequences") ? "sequences" : "sequences_per_gpu",
               fmt::format("{} sequences of {} tokens are more than 2^40 tokens", sequences, each));
}

void ScenarioReader::routing(TomlTable t) {
  RoutingChoice& r = s_.routing;
  std::int64_t seed = 0;
  if (t.maybe("seed", seed)) r.synthetic.seed = static_cast<std::uint64_t>(seed);
  dynamics(t);
  if (!t.has("trace")) {
    for (const std::string_view key : {"repeat", "layers", "window", "plan_window"})
      t.forbid(key, "it belongs to a trace");
    law(t);
    return;
  }
  if (t.maybe("trace", r.trace)) r.trace = resolved(t, "trace", r.trace);
  t.maybe("repeat", r.repeat);
  t.one_of("layers", r.cycle_layers, {{"exact", false}, {"cycle", true}});
  TomlTable window = t.table("window");
  constexpr std::int64_t end = std::numeric_limits<std::int64_t>::max();
  window.maybe("first", r.window_first, {-end, end});
  window.maybe("count", r.window_count, {1, end});
  if (t.has("plan_window")) {
    TomlTable plan = t.table("plan_window");
    r.plan_window.emplace();
    plan.maybe("first", r.plan_window->first, {-end, end});
    plan.maybe("count", r.plan_window->count, {1, end});
  }
  t.forbid("law", "routing comes from a law or from a trace, not from both");
  for (const std::string_view key : {"order", "sampling", "affinity"})
    t.forbid(key, "a trace says itself what the router decided");
  if (t.has("law")) (void)t.rest();  // its parameters are not faults of their own
}

void ScenarioReader::dynamics(TomlTable& t) {
  if (!t.has("dynamics")) return;
  if (s_.workload.workload.phase != Workload::Phase::train)
    return t.forbid("dynamics", "loads change between iterations of phase \"train\"");
  if (t.has("trace")) return t.forbid("dynamics", "a trace says itself how loads change");
  load::Dynamics& d = s_.routing.dynamics.emplace();
  TomlTable table = t.table("dynamics");
  table.maybe("drift", d.drift, {0, 1e12, true});
  table.maybe("jump", d.jump, {0, 1});
  table.maybe("spread", d.spread, {0, 10});
}

void ScenarioReader::law(TomlTable& t) {
  load::SyntheticSpec& spec = s_.routing.synthetic;
  std::vector<std::pair<std::string_view, const load::LawInfo*>> names;
  for (const load::LawInfo& info : load::laws()) names.emplace_back(info.name, &info);
  const load::LawInfo* info = nullptr;
  const bool known = t.one_of("law", info, names, Need::required);
  using load::Order;
  using load::Sampling;
  t.one_of("order", spec.order, {{"natural", Order::natural}, {"first", Order::first}, {"shuffled", Order::shuffled}});
  t.one_of("sampling", spec.sampling, {{"random", Sampling::random}, {"expected", Sampling::expected}});
  t.maybe("affinity", spec.affinity, {0, 1});
  if (!known) {
    (void)t.rest();  // the parameters of a law that is not known are not faults of their own
    return;
  }
  spec.law.name = info->name;
  for (const load::LawParameter& p : info->parameters) {
    double value = p.fallback;
    if (t.maybe(p.name, value, {p.minimum, p.maximum})) spec.law.parameters[std::string(p.name)] = value;
  }
}

}  // namespace moesim::study
