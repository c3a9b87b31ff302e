// The sections of a scenario that are lists: strategies, sweep, published figures; and what the report shows.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "study/scenario_reader.hpp"

namespace moesim::study {

const std::vector<Metric>& metrics() {
  static const std::vector<Metric> list{
      {"step_ms", "ms", "one step, end to end: TTFT of a prefill, TPOT of a decode step, the pass of an encoder"},
      {"moe_layer_ms", "ms", "one MoE layer from gate to combine, mean over layers and ranks"},
      {"speedup", "x", "the baseline's step / this step"},
      {"moe_layer_speedup", "x", "the baseline's MoE layer / this MoE layer"},
      {"straggler", "x", "token copies that experts compute: most of any rank / mean"},
      {"memory_gb", "GB", "peak memory of the rank that needs most, 10^9 bytes"},
      {"sent_bytes", "B", "by collectives in one step, most of any rank"},
      {"received_bytes", "B", "by collectives in one step, most of any rank"},
      {"dropped", "", "share of token copies over capacity"}};
  return list;
}

std::vector<std::string_view> ScenarioReader::strategy_names() const {
  std::vector<std::string_view> names;
  for (const StrategyChoice& s : s_.strategies) names.emplace_back(s.name);
  return names;
}

namespace {

// A fault where `name` is none of the strategies' names.
void check_name(TomlTable& t, std::string_view key, const std::string& name,
                const std::vector<std::string_view>& names) {
  if (std::find(names.begin(), names.end(), name) != names.end()) return;
  const std::string_view near = nearest_name(name, names);
  t.error_at(key, fmt::format("no strategy here is named '{}'; there are: {}", name, fmt::join(names, ", ")),
             near.empty() ? "" : fmt::format("did you mean '{}'?", near));
}

}  // namespace

void ScenarioReader::strategies() {
  TomlTable root = doc_.root();
  for (TomlTable t : root.tables("strategy")) {
    StrategyChoice s;
    s.place = t.place();
    t.require("kind", s.kind);
    s.name = s.kind;
    t.maybe("name", s.name);
    s.options = t.rest();
    if (t.has("name") && !s.name.empty() && !names_a_file(s.name))
      t.error_at("name", fmt::format("'{}' cannot name a strategy: files are named after it", printable(s.name)),
                 "use letters, digits, '.', '_', '-' and '+', a letter or digit first");
    const auto same = std::find_if(s_.strategies.begin(), s_.strategies.end(),
                                   [&](const StrategyChoice& other) { return other.name == s.name; });
    if (same != s_.strategies.end() && !s.name.empty())
      t.error_at(t.has("name") ? "name" : "kind",
                 fmt::format("a second strategy is named '{}'; the first is at line {}", s.name, same->place.line),
                 "give one of them a name of its own");
    s_.strategies.push_back(std::move(s));
  }
  if (!root.has("strategy"))
    root.error("the file has no [[strategy]]", "name at least one, as in: kind = \"expert_parallel\"");
}

void ScenarioReader::simulation(TomlTable t) {
  SimulationChoice& c = s_.simulation;
  t.one_of("network", c.exact, {{"bounded", false}, {"exact", true}});
  if (c.exact)
    t.forbid("network_error", "network = \"exact\" has none");
  else
    t.maybe("network_error", c.network_error, {1e-6, 0.5});
}

void ScenarioReader::report(TomlTable t) {
  using Sort = ReportChoice::Sort;
  if (t.maybe("baseline", s_.report.baseline)) check_name(t, "baseline", s_.report.baseline, strategy_names());
  t.one_of(
      "sort", s_.report.sort,
      {{"step", Sort::step}, {"moe_layer", Sort::moe_layer}, {"memory", Sort::memory}, {"scenario", Sort::scenario}});
}

void ScenarioReader::read_sweep() {
  for (TomlTable t : doc_.root().tables("sweep")) {
    SweepAxis axis;
    axis.place = t.place("key");
    if (t.require("key", axis.key)) {
      const auto same =
          std::find_if(s_.sweep.begin(), s_.sweep.end(), [&](const SweepAxis& a) { return a.key == axis.key; });
      if (same != s_.sweep.end())
        t.error_at("key", fmt::format("'{}' is swept already, at line {}", axis.key, same->place.line));
      for (const std::string_view own : {"sweep", "published", "report"})
        if (axis.key.starts_with(std::string(own) + ".")) t.error_at("key", fmt::format("[{}] cannot be swept", own));
    }
    if (t.list("values", axis.values, Need::required) && axis.values.empty())
      t.error_at("values", "an axis has at least one value");
    std::vector<std::string> seen;
    for (const RawValue& v : axis.values) {
      if (std::find(seen.begin(), seen.end(), to_text(v)) != seen.end())
        doc_.error(v.place, fmt::format("'{}': {} stands here twice", t.path("values"), to_text(v)));
      seen.push_back(to_text(v));
    }
    if (!axis.key.empty() && !axis.values.empty()) s_.sweep.push_back(std::move(axis));
  }
}

void ScenarioReader::published() {
  for (TomlTable t : doc_.root().tables("published")) {
    Published p;
    if (t.require("strategy", p.strategy)) check_name(t, "strategy", p.strategy, strategy_names());
    NamesOf<const Metric*> names;
    for (const Metric& m : metrics()) names.emplace_back(m.name, &m);
    const Metric* metric = nullptr;
    if (t.one_of("metric", metric, names, Need::required)) {
      p.metric = metric->name;
      p.unit = metric->unit;
      if (std::string unit; t.maybe("unit", unit) && unit != p.unit)
        t.error_at("unit", fmt::format("{} is in '{}', not in '{}'", p.metric, p.unit, unit), "convert the figure");
      if (p.metric.ends_with("speedup") && s_.report.baseline.empty())
        t.error_at("metric", fmt::format("{} needs a baseline", p.metric), "name it in [report]: baseline = \"...\"");
    } else {
      t.forbid("unit", "its metric is not known");
    }
    t.require("value", p.value, {0, 1e18, true});
    t.one_of("use", p.used_in_fit, {{"fit", true}, {"predict", false}}, Need::required);
    t.require("source", p.source);
    published_at(t.table("at"), p);
    s_.published.push_back(std::move(p));
  }
}

void ScenarioReader::published_at(TomlTable t, Published& p) {
  for (const RawValue& at : t.rest()) {
    const auto axis =
        std::find_if(s_.sweep.begin(), s_.sweep.end(), [&](const SweepAxis& a) { return a.key == at.key; });
    if (axis == s_.sweep.end()) {
      std::vector<std::string_view> keys;
      for (const SweepAxis& a : s_.sweep) keys.emplace_back(a.key);
      const std::string_view near = nearest_name(at.key, keys);
      doc_.error(at.place, fmt::format("'{}' is not swept", at.key),
                 !near.empty()  ? fmt::format("did you mean '{}'?", near)
                 : keys.empty() ? "the scenario has no [[sweep]]"
                                : fmt::format("one of: {}", fmt::join(keys, ", ")));
      continue;
    }
    std::vector<std::string> values;
    for (const RawValue& v : axis->values) values.push_back(to_text(v));
    if (std::find(values.begin(), values.end(), to_text(at)) == values.end())
      doc_.error(at.place,
                 fmt::format("{} is not among the values of '{}': {}", to_text(at), at.key, fmt::join(values, ", ")));
    p.at.emplace_back(at.key, to_text(at));
  }
}

void ScenarioReader::read() {
  TomlTable root = doc_.root();
  root.require("name", s_.name);
  root.maybe("description", s_.description);
  model(root.require_table("model"));
  cluster(root.require_table("cluster"));
  workload(root.require_table("workload"));
  routing(root.require_table("routing"));
  strategies();
  simulation(root.table("simulation"));
  report(root.table("report"));
  published();
}

}  // namespace moesim::study
