// A study's result as text: 120 columns, best strategy first.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>

#include "study/result.hpp"
#include "study/text_table.hpp"
#include "support/text.hpp"

namespace moesim::study {
namespace {

std::string axes_line(const std::vector<std::pair<std::string, std::string>>& axes) {
  std::string out;
  for (const auto& [key, value] : axes) out += fmt::format("{}{} = {}", out.empty() ? "" : ", ", key, value);
  return out;
}

std::string ratio(double r) { return r > 0 ? fmt::format("{:.2f}x", r) : "-"; }

// "12.5 ms +-9%": the 90 % interval reaches from t / 1.09 to t 1.09. Where that is a factor of two or more the factor
// is printed, since no time lies 100 % below another.
std::string timed(Picoseconds time, const Interval& interval) {
  if (interval.log_sigma <= 0) return human(time);
  if (interval.reach() >= 2) return fmt::format("{} \u00d7/\u00f7{:.1f}", human(time), interval.reach());
  return fmt::format("{} \u00b1{:.0f}%", human(time), 100 * (interval.reach() - 1));
}

std::string fits(const Summary& s) { return s.fits ? "yes" : fmt::format("NO (of {})", human_binary(s.memory_limit)); }

void strategies(const StudyResult& study, const PointResult& point, std::string& out) {
  const std::string baseline = study.baseline.empty() ? "ratio" : "vs " + study.baseline;
  TextTable table({"strategy", point.step, "MoE layer", baseline, "layer", "straggler", "dropped", "sent/rank",
                   "recv/rank", "peak memory", "fits"});
  if (!study.executor.empty()) table.head("spread");
  for (const StrategyResult& s : point.strategies) {
    if (!s.infeasible.empty()) continue;
    const Summary& m = s.summary;
    std::vector<std::string> row{s.label,
                                 timed(m.step, m.step_interval),
                                 timed(m.moe_layer, m.moe_layer_interval),
                                 ratio(s.to_baseline),
                                 ratio(s.layer_to_baseline),
                                 fmt::format("{:.2f}", m.straggler),
                                 m.dropped > 0 ? fmt::format("{:.1f} %", 100 * m.dropped) : "0",
                                 human(m.sent),
                                 human(m.received),
                                 human_binary(m.memory.total),
                                 fits(m)};
    if (s.measured) row.push_back(fmt::format("{:.1f} %", 100 * s.measured->spread()));
    table.add(std::move(row));
  }
  out += table.text();
  std::vector<std::string_view> methods;
  for (const StrategyResult& s : point.strategies)
    if (s.measured && std::ranges::find(methods, s.measured->method) == methods.end())
      methods.push_back(s.measured->method);
  for (const std::string_view m : methods) out += fmt::format("measured by {}: {}\n", study.executor, m);
  for (const StrategyResult& s : point.strategies)
    if (!s.placement.empty()) out += fmt::format("{}: {}\n", s.label, s.placement);
  for (const StrategyResult& s : point.strategies)
    if (!s.infeasible.empty())
      out += fmt::format("{}: {}{}\n", s.label, s.interrupted ? "" : "not possible: ", s.infeasible);
  for (const StrategyResult& s : point.strategies)
    if (!s.summary.outside.empty())
      out += fmt::format("{}: outside the calibrated range: {}\n", s.label, s.summary.outside);
}

void where_time_goes(const PointResult& point, std::string& out) {
  std::vector<std::size_t> shown;
  for (std::size_t p = 0; p < part_count; ++p)
    if (std::ranges::any_of(point.strategies, [&](const StrategyResult& s) { return s.summary.parts[p].value() > 0; }))
      shown.push_back(p);
  std::vector<std::string> head{"where the time goes"};
  for (const std::size_t p : shown) head.emplace_back(to_string(static_cast<Part>(p)));
  TextTable table(std::move(head));
  for (const StrategyResult& s : point.strategies) {
    if (!s.infeasible.empty()) continue;
    std::vector<std::string> row{s.label};
    for (const std::size_t p : shown)
      row.push_back(fmt::format("{:.1f} %", 100 * (s.summary.parts[p] / s.summary.step)));
    table.add(std::move(row));
  }
  out += '\n' + table.text() + '\n';
  for (const StrategyResult& s : point.strategies)
    if (s.infeasible.empty()) out += fmt::format("{}: {}\n", s.label, s.summary.bottleneck);
  for (const StrategyResult& s : point.strategies)
    if (s.infeasible.empty() && (s.summary.network_early + s.summary.network_late).value() > 0)
      out += fmt::format("{}: link sharing solved to within -{:.2f} / +{:.2f} % of the step\n", s.label,
                         100 * (s.summary.network_early / s.summary.step),
                         100 * (s.summary.network_late / s.summary.step));
}

// What the worst rank's memory is made of, where a plan trains.
void memory_by_kind(const PointResult& point, std::string& out) {
  std::set<BufferRole> roles;
  for (const StrategyResult& s : point.strategies)
    for (const auto& [role, bytes] : s.summary.memory.by_role) roles.insert(role);
  if (!roles.contains(BufferRole::optimizer)) return;
  const bool together =
      std::ranges::any_of(point.strategies, [](const StrategyResult& s) { return s.summary.together; });
  std::vector<std::string> head{together ? "memory of all ranks together" : "memory of the rank that needs most"};
  for (const BufferRole role : roles) head.emplace_back(to_string(role));
  TextTable table(std::move(head));
  for (const StrategyResult& s : point.strategies) {
    if (!s.infeasible.empty()) continue;
    std::vector<std::string> row{s.label};
    for (const BufferRole role : roles) {
      const auto found = s.summary.memory.by_role.find(role);
      row.push_back(found == s.summary.memory.by_role.end() ? "0" : human_binary(found->second));
    }
    table.add(std::move(row));
  }
  out += '\n' + table.text();
}

// Means over eight stretches of the run.
void over_time(const PointResult& point, std::string& out) {
  std::size_t n = 0;
  for (const StrategyResult& s : point.strategies) n = std::max(n, s.iterations.size());
  if (n < 2) return;
  const std::size_t stretches = std::min<std::size_t>(8, n);
  std::vector<std::string> head{"iteration, mean over"};
  for (std::size_t i = 0; i < stretches; ++i) {
    const std::size_t from = i * n / stretches;
    const std::size_t to = (i + 1) * n / stretches - 1;
    head.push_back(from == to ? fmt::format("{}", from) : fmt::format("{}-{}", from, to));
  }
  head.insert(head.end(), {"fastest", "slowest"});
  TextTable table(std::move(head));
  for (const StrategyResult& s : point.strategies) {
    if (s.iterations.empty()) continue;
    std::vector<std::string> row{s.label};
    for (std::size_t i = 0; i < stretches; ++i) {
      Picoseconds sum;
      const std::size_t from = i * n / stretches;
      const std::size_t to = (i + 1) * n / stretches;
      for (std::size_t k = from; k < to; ++k) sum += s.iterations[k].step;
      row.push_back(human(sum / static_cast<std::int64_t>(to - from)));
    }
    const auto [fastest, slowest] = std::ranges::minmax_element(s.iterations, {}, &IterationPoint::step);
    row.insert(row.end(), {human(fastest->step), human(slowest->step)});
    table.add(std::move(row));
  }
  out += '\n' + table.text();
}

void published(const StudyResult& study, std::string& out) {
  if (study.published.empty()) return;
  TextTable table({"predicted against published", "at", "published", "predicted", "error", "used for"});
  std::vector<double> errors;
  for (const PublishedRow& row : study.published) {
    std::string error = "-";
    if (row.predicted) {
      const double e = *row.predicted / row.published - 1;
      error = fmt::format("{:+.1f} %", 100 * e);
      if (!row.used_in_fit) errors.push_back(std::abs(e));
    }
    table.add({row.strategy + " " + row.metric, axes_line(row.at), fmt::format("{:.4g} {}", row.published, row.unit),
               row.predicted ? fmt::format("{:.4g} {}", *row.predicted, row.unit) : "-", error,
               row.used_in_fit ? "fit" : "check"});
  }
  out += '\n' + table.text();
  if (errors.empty()) return;
  std::ranges::sort(errors);
  out += fmt::format("of {} figures not used in the fit: median error {:.1f} %, largest {:.1f} %\n", errors.size(),
                     100 * errors[errors.size() / 2], 100 * errors.back());
}

}  // namespace

bool StudyResult::interrupted() const {
  return std::ranges::any_of(
      points, [](const PointResult& p) { return std::ranges::any_of(p.strategies, &StrategyResult::interrupted); });
}

bool StudyResult::feasible() const {
  return !points.empty() && std::ranges::all_of(points, [](const PointResult& p) {
    return std::ranges::any_of(p.strategies,
                               [](const StrategyResult& s) { return s.infeasible.empty() && s.summary.fits; });
  });
}

std::string render(const StudyResult& study) {
  std::string out = fmt::format("{}\n", study.name);
  if (!study.description.empty()) out += study.description + "\n";
  for (const PointResult& point : study.points) {
    out += '\n';
    if (!point.axes.empty()) out += fmt::format("== {} ==\n", axes_line(point.axes));
    out += fmt::format("{}, {}\n{}; routing: {}{}\ncalibration: {}\n\n", point.model, point.cluster, point.workload,
                       point.routing, point.routing_synthetic ? " (synthetic)" : "", point.calibration);
    strategies(study, point, out);
    if (std::ranges::any_of(point.strategies, [](const StrategyResult& s) { return s.infeasible.empty(); }))
      where_time_goes(point, out);
    memory_by_kind(point, out);
    over_time(point, out);
  }
  published(study, out);
  return out;
}

}  // namespace moesim::study
