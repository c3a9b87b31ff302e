#include "study/compare.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

#include "models/fit/statistics.hpp"
#include "moesim/error.hpp"
#include "study/moe_layers.hpp"
#include "support/text.hpp"

namespace moesim::study {
namespace {

constexpr std::size_t mismatches_shown = 5;
constexpr std::array by_names{"kind of op", "layer", "rank", "strategy"};
constexpr std::array judge_names{"end-to-end", "MoE-layer"};

double relative(Picoseconds predicted, Picoseconds measured) {
  if (measured.value() == 0) return predicted.value() == 0 ? 0 : 1;
  return (predicted - measured) / measured;
}

// Collects the spans of one group.
struct Group {
  Picoseconds predicted;
  Picoseconds measured;
  Picoseconds off;
  std::vector<double> errors;
  void add(Picoseconds p, Picoseconds m) {
    predicted += p;
    measured += m;
    off += p > m ? p - m : m - p;
    if (m.value() > 0 || p.value() > 0) errors.push_back(std::abs(relative(p, m)));
  }
  ErrorRow row(std::string name) {
    return {std::move(name),
            static_cast<std::int64_t>(errors.size()),
            predicted,
            measured,
            off,
            relative(predicted, measured),
            fit::quantile(errors, 0.5),
            fit::quantile(errors, 0.9)};
  }
};

std::string name_of(const TimelineFile& file, const Span& span) {
  return fmt::format("op {} '{}' on rank {}", span.op.value(), file.ops[span.op.index()].name, span.rank.value());
}

// The first things that the two files do not agree on; empty where they match op for op.
std::vector<std::string> mismatches(const TimelineFile& p, const TimelineFile& m) {
  std::vector<std::string> out;
  const std::string label = "strategy '" + p.strategy + "': ";
  const bool predicted = on_one_gpu(p.timeline.kind);
  if (predicted != on_one_gpu(m.timeline.kind)) {
    out.push_back(label +
                  fmt::format("all ranks are on one GPU where it is {}, and not where it is {}; 'moesim simulate "
                              "--virtual-ranks' predicts ranks on one GPU",
                              predicted ? "predicted" : "measured", predicted ? "measured" : "predicted"));
    return out;
  }
  for (std::size_t i = 0; i < std::min(p.ops.size(), m.ops.size()) && out.size() < mismatches_shown; ++i)
    if (p.ops[i] != m.ops[i])
      out.push_back(label +
                    fmt::format("op {} is {} '{}' of layer {} when predicted, {} '{}' of layer {} when measured", i,
                                p.ops[i].kind, p.ops[i].name, p.ops[i].layer.value(), m.ops[i].kind, m.ops[i].name,
                                m.ops[i].layer.value()));
  if (p.ops.size() != m.ops.size())
    out.push_back(label + fmt::format("{} ops predicted, {} measured", p.ops.size(), m.ops.size()));
  if (!out.empty()) return out;
  if (p.plan_hash != m.plan_hash) {
    out.push_back(
        label +
        fmt::format("the plans have the same ops and other counts ({} and {}): another workload, routing, iteration or "
                    "number of ranks",
                    p.plan_hash, m.plan_hash));
    return out;
  }
  const auto& a = p.timeline.spans;
  const auto& b = m.timeline.spans;
  const auto key = [](const Span& s) { return std::pair(s.op, s.rank); };
  for (std::size_t i = 0, j = 0; (i < a.size() || j < b.size()) && out.size() < mismatches_shown;) {
    if (j == b.size() || (i < a.size() && key(a[i]) < key(b[j]))) {
      out.push_back(label + name_of(p, a[i++]) + " is predicted only");
    } else if (i == a.size() || key(b[j]) < key(a[i])) {
      out.push_back(label + name_of(m, b[j++]) + " is measured only");
    } else {
      ++i;
      ++j;
    }
  }
  return out;
}

const TimelineFile* find(const std::vector<TimelineFile>& files, const std::string& strategy) {
  const auto found = std::find_if(files.begin(), files.end(), [&](const auto& f) { return f.strategy == strategy; });
  return found == files.end() ? nullptr : &*found;
}

std::vector<std::string> strategies_that_miss(const std::vector<TimelineFile>& has,
                                              const std::vector<TimelineFile>& lacks, const char* how) {
  std::vector<std::string> out;
  for (const TimelineFile& f : has) {
    if (find(lacks, f.strategy) == nullptr) out.push_back(fmt::format("strategy '{}' is {} only", f.strategy, how));
    const auto same = [&](const TimelineFile& g) { return g.strategy == f.strategy; };
    if (&f == find(has, f.strategy) && std::count_if(has.begin(), has.end(), same) > 1)
      out.push_back(fmt::format("strategy '{}' is {} more than once", f.strategy, how));
  }
  return out;
}

std::string group_of(const CompareOptions& options, const TimelineFile& file, const Span& span) {
  const TimelineOp& op = file.ops[span.op.index()];
  switch (options.by) {
    case CompareOptions::By::op:
      return op.kind;
    case CompareOptions::By::layer:
      return op.layer.valid() ? fmt::format("layer {:>3}", op.layer.value()) : "outside";
    case CompareOptions::By::rank:
      return fmt::format("rank {:>4}", span.rank.value());
    case CompareOptions::By::strategy:
      return file.strategy;
  }
  return {};
}

// Adds the absolute error of every layer.
void compare_moe_layers(const TimelineFile& p, const TimelineFile& m, StrategyComparison& out,
                        std::vector<double>& errors) {
  const auto predicted = moe_layers(p.ops, p.timeline);
  for (const auto& [layer, measured] : moe_layers(m.ops, m.timeline)) {
    const Picoseconds other = predicted.at(layer).mean();
    out.moe_predicted += other;
    out.moe_measured += measured.mean();
    errors.push_back(std::abs(relative(other, measured.mean())));
    ++out.moe_layers;
  }
  if (out.moe_layers == 0) return;
  out.moe_predicted = out.moe_predicted / out.moe_layers;
  out.moe_measured = out.moe_measured / out.moe_layers;
  out.moe_error = relative(out.moe_predicted, out.moe_measured);
}

void check_order(Comparison& c) {
  for (std::size_t i = 0; i < c.strategies.size(); ++i)
    for (std::size_t j = i + 1; j < c.strategies.size(); ++j) {
      const StrategyComparison& fast = c.strategies[i];  // as measured
      const StrategyComparison& slow = c.strategies[j];
      const CompareOptions::Judge by = c.options.judge;
      if (slow.judged_predicted(by) >= fast.judged_predicted(by)) continue;
      const double ratio = slow.judged_measured(by) / fast.judged_measured(by);
      const bool apart = ratio > 1 + c.options.tolerance;
      (apart ? c.misordered : c.close)
          .push_back(fmt::format("{} is predicted faster than {}, and measured {:.2f} times as slow", slow.strategy,
                                 fast.strategy, ratio));
    }
}

}  // namespace

bool Comparison::passed() const {
  return misordered.empty() && std::all_of(strategies.begin(), strategies.end(), [&](const StrategyComparison& s) {
           return std::abs(s.judged_error(options.judge)) <= options.tolerance;
         });
}

std::vector<TimelineFile> read_timelines(const std::string& path) {
  namespace fs = std::filesystem;
  constexpr std::string_view ending = ".timeline.json";
  if (!fs::is_directory(path)) return {read_timeline(path)};
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(path)) {
    std::string name = entry.path().string();
    if (entry.is_regular_file() && name.ends_with(ending)) names.push_back(std::move(name));
  }
  if (names.empty())
    throw InputError({path, 0, 0}, "has no *.timeline.json",
                     "'moesim simulate --out' and 'moesim run --out' write them");
  std::sort(names.begin(), names.end());
  std::vector<TimelineFile> out;
  for (const std::string& name : names) out.push_back(read_timeline(name));
  return out;
}

Comparison compare(const std::vector<TimelineFile>& all_predicted, const std::vector<TimelineFile>& all_measured,
                   const CompareOptions& options) {
  std::vector<TimelineFile> predicted = all_predicted;
  std::vector<TimelineFile> measured = all_measured;
  if (options.common) {
    std::erase_if(predicted, [&](const TimelineFile& f) { return find(all_measured, f.strategy) == nullptr; });
    std::erase_if(measured, [&](const TimelineFile& f) { return find(all_predicted, f.strategy) == nullptr; });
    if (predicted.empty())
      throw InputError({"comparison", 0, 0}, "no strategy is both predicted and measured",
                       "compare results of the same scenario");
  }
  std::vector<std::string> wrong = strategies_that_miss(predicted, measured, "predicted");
  std::ranges::move(strategies_that_miss(measured, predicted, "measured"), std::back_inserter(wrong));
  for (const TimelineFile& p : predicted)
    if (const TimelineFile* m = find(measured, p.strategy))
      std::ranges::move(mismatches(p, *m), std::back_inserter(wrong));
  if (!wrong.empty()) {
    std::vector<Diagnostic> all;
    for (const std::string& w : wrong)
      all.push_back({{"comparison", 0, 0}, w, "compare results of the same scenario, strategy by strategy"});
    if (all.size() > mismatches_shown) all.resize(mismatches_shown);
    throw InputError(std::move(all));
  }

  Comparison out;
  out.options = options;
  std::map<std::string, Group> groups;
  std::map<std::string, Group> ops;
  std::vector<double> moe_errors;
  for (const TimelineFile& p : predicted) {
    const TimelineFile& m = *find(measured, p.strategy);
    StrategyComparison& s = out.strategies.emplace_back();
    s.strategy = p.strategy;
    s.method = m.method;
    s.predicted = p.timeline.makespan;
    s.measured = m.timeline.makespan;
    s.error = relative(s.predicted, s.measured);
    compare_moe_layers(p, m, s, moe_errors);
    if (options.judge == CompareOptions::Judge::moe_layer && s.moe_layers == 0)
      throw InputError({"comparison", 0, 0}, fmt::format("strategy '{}' has no MoE layer to be judged by", s.strategy),
                       "judge by end-to-end");
    for (std::size_t i = 0; i < p.timeline.spans.size(); ++i) {
      const Span& a = p.timeline.spans[i];
      const Span& b = m.timeline.spans[i];
      groups[group_of(options, p, a)].add(a.end - a.start, b.end - b.start);
      const std::string& name = p.ops[a.op.index()].name;
      ops[predicted.size() == 1 ? name : p.strategy + "/" + name].add(a.end - a.start, b.end - b.start);
    }
  }
  std::ranges::stable_sort(out.strategies, {},
                           [&](const StrategyComparison& s) { return s.judged_measured(options.judge); });
  out.moe_median = fit::quantile(moe_errors, 0.5);
  out.moe_p90 = fit::quantile(moe_errors, 0.9);
  for (auto& [name, group] : groups) out.rows.push_back(group.row(name));
  if (options.by == CompareOptions::By::op || options.by == CompareOptions::By::strategy)
    std::ranges::stable_sort(out.rows, std::ranges::greater{}, &ErrorRow::measured);
  for (auto& [name, group] : ops) out.worst.push_back(group.row(name));
  std::ranges::stable_sort(out.worst, std::ranges::greater{}, &ErrorRow::off);
  if (out.worst.size() > options.worst) out.worst.resize(options.worst);
  check_order(out);
  return out;
}

std::string render(const Comparison& c) {
  std::string out;
  const auto to = std::back_inserter(out);
  const auto table = [&](const char* title, const std::vector<ErrorRow>& rows) {
    std::size_t width = std::string_view(title).size();
    for (const ErrorRow& r : rows) width = std::max(width, r.name.size());
    fmt::format_to(to, "{:<{}}  {:>8}  {:>11}  {:>11}  {:>8}  {:>8}  {:>8}\n", title, width, "spans", "predicted",
                   "measured", "bias", "median", "90 %");
    for (const ErrorRow& r : rows)
      fmt::format_to(to, "{:<{}}  {:>8}  {:>11}  {:>11}  {:>+7.1f}%  {:>7.1f}%  {:>7.1f}%\n", r.name, width, r.spans,
                     human(r.predicted), human(r.measured), 100 * r.bias, 100 * r.median, 100 * r.p90);
    out += '\n';
  };
  std::size_t width = 8;
  for (const StrategyComparison& s : c.strategies) width = std::max(width, s.strategy.size());
  std::int64_t layers = 0;
  for (const StrategyComparison& s : c.strategies) layers += s.moe_layers;
  fmt::format_to(to, "{:<{}}  {:>11}  {:>11}  {:>8}", "strategy", width, "predicted", "measured", "error");
  if (layers > 0) fmt::format_to(to, "  {:>19}  {:>11}  {:>8}", "MoE layer predicted", "measured", "error");
  out += '\n';
  for (const StrategyComparison& s : c.strategies) {
    fmt::format_to(to, "{:<{}}  {:>11}  {:>11}  {:>+7.1f}%", s.strategy, width, human(s.predicted), human(s.measured),
                   100 * s.error);
    if (layers > 0)
      fmt::format_to(to, "  {:>19}  {:>11}  {:>+7.1f}%", human(s.moe_predicted), human(s.moe_measured),
                     100 * s.moe_error);
    fmt::format_to(to, "{}\n",
                   std::abs(s.judged_error(c.options.judge)) > c.options.tolerance ? "  past the tolerance" : "");
  }
  if (layers > 0)
    fmt::format_to(to, "MoE layers, {} of them: error {:.1f} % (median), {:.1f} % (90 % quantile)\n", layers,
                   100 * c.moe_median, 100 * c.moe_p90);
  if (!c.strategies.empty()) fmt::format_to(to, "measured: {}\n", c.strategies.front().method);
  out += '\n';
  table(by_names[static_cast<std::size_t>(c.options.by)], c.rows);
  table("off by most", c.worst);
  for (const std::string& m : c.misordered) fmt::format_to(to, "wrong order: {}\n", m);
  for (const std::string& m : c.close) fmt::format_to(to, "too close to tell: {}\n", m);
  if (c.strategies.size() > 1 && c.misordered.empty()) out += "the order of the strategies is predicted right\n";
  fmt::format_to(to, "{}: {} errors {} {:.0f} %\n", c.passed() ? "passed" : "FAILED",
                 judge_names[static_cast<std::size_t>(c.options.judge)], c.passed() ? "within" : "or order outside",
                 100 * c.options.tolerance);
  return out;
}

std::string to_json(const Comparison& c) {
  using nlohmann::ordered_json;
  const auto rows = [](const std::vector<ErrorRow>& list) {
    ordered_json out = ordered_json::array();
    for (const ErrorRow& r : list)
      out.push_back({{"name", r.name},
                     {"spans", r.spans},
                     {"predicted_us", to_microseconds(r.predicted)},
                     {"measured_us", to_microseconds(r.measured)},
                     {"off_us", to_microseconds(r.off)},
                     {"bias", r.bias},
                     {"median", r.median},
                     {"p90", r.p90}});
    return out;
  };
  ordered_json strategies = ordered_json::array();
  for (const StrategyComparison& s : c.strategies)
    strategies.push_back({{"strategy", s.strategy},
                          {"predicted_us", to_microseconds(s.predicted)},
                          {"measured_us", to_microseconds(s.measured)},
                          {"error", s.error},
                          {"moe_layers", s.moe_layers},
                          {"moe_layer_predicted_us", to_microseconds(s.moe_predicted)},
                          {"moe_layer_measured_us", to_microseconds(s.moe_measured)},
                          {"moe_layer_error", s.moe_error},
                          {"method", s.method}});
  const ordered_json out = {{"compare_version", 1},
                            {"passed", c.passed()},
                            {"tolerance", c.options.tolerance},
                            {"judged_by", judge_names[static_cast<std::size_t>(c.options.judge)]},
                            {"by", by_names[static_cast<std::size_t>(c.options.by)]},
                            {"strategies", strategies},
                            {"moe_layer_median", c.moe_median},
                            {"moe_layer_p90", c.moe_p90},
                            {"misordered", c.misordered},
                            {"too_close", c.close},
                            {"rows", rows(c.rows)},
                            {"worst", rows(c.worst)}};
  return out.dump(2) + "\n";
}

}  // namespace moesim::study
