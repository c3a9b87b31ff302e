// Fits on part of the rows, and their error on the rest.

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>

#include "models/cost/fitted.hpp"
#include "models/fit/calibrate.hpp"
#include "models/fit/least_squares.hpp"
#include "models/fit/statistics.hpp"

namespace moesim::fit {
namespace {

using Rows = std::vector<std::size_t>;

// At most `most` rows, evenly spread over the file.
Rows thin(const Rows& rows, int most) {
  const auto limit = static_cast<std::size_t>(most);
  if (rows.size() <= limit) return rows;
  Rows out;
  for (std::size_t i = 0; i < limit; ++i) out.push_back(rows[i * rows.size() / limit]);
  return out;
}

struct Fitted {
  std::vector<double> parameters;
  std::size_t variant = 0;
};

// The best of all variants.
Fitted fit(const Group& group, const Rows& rows, std::size_t first, std::size_t last) {
  Fitted best;
  double least = 0;
  for (std::size_t v = first; v < last; ++v) {
    Problem problem;
    problem.parameters = group.parameters;
    for (const std::size_t i : rows) problem.log_measured.push_back(group.log_us[i]);
    problem.log_model = [&](std::span<const double> theta, std::span<double> out) {
      group.log_model(theta, v, rows, out);
    };
    Solution solution = solve(problem);
    if (v != first && solution.loss >= least) continue;
    least = solution.loss;
    best = {std::move(solution.parameters), v};
  }
  return best;
}

std::vector<double> predict(const Group& group, const Fitted& fitted, const Rows& rows) {
  std::vector<double> out(rows.size());
  group.log_model(fitted.parameters, fitted.variant, rows, out);
  return out;
}

// The nearest-row baseline: ln t of the four nearest rows in logarithmic coordinates, each scaled by the data sheet's
// bound from its shape to the one asked for, weighted by the inverse of their distance.
std::vector<double> nearest(const Group& group, const Rows& known, const Rows& asked) {
  constexpr std::size_t neighbours = 4;
  std::vector<double> out;
  for (const std::size_t i : asked) {
    std::array<std::pair<double, std::size_t>, neighbours> best;
    best.fill({1e300, known.front()});
    for (const std::size_t j : known) {
      double distance = 0;
      for (std::size_t c = 0; c < group.coordinates[i].size(); ++c) {
        const double d = group.coordinates[i][c] - group.coordinates[j][c];
        distance += d * d;
      }
      if (distance >= best.back().first) continue;
      std::size_t at = neighbours - 1;
      for (; at > 0 && best[at - 1].first > distance; --at) best[at] = best[at - 1];
      best[at] = {distance, j};
    }
    double sum = 0;
    double weights = 0;
    for (const auto& [distance, j] : best) {
      if (distance > 1e299) continue;
      const double weight = 1 / (std::sqrt(distance) + 1e-3);
      sum += weight * (group.log_us[j] + group.log_roofline[i] - group.log_roofline[j]);
      weights += weight;
    }
    out.push_back(sum / weights);
  }
  return out;
}

Rows rows_of(const Group& group, const std::vector<int>& fold, int asked, bool inside) {
  Rows out;
  for (std::size_t i = 0; i < group.rows(); ++i)
    if ((fold[i] == asked) == inside && (inside || group.train[i])) out.push_back(i);
  return out;
}

}  // namespace

void fit_all(Group& group, int most_rows) {
  Rows rows;
  for (std::size_t i = 0; i < group.rows(); ++i)
    if (group.train[i]) rows.push_back(i);
  const Fitted fitted = fit(group, thin(rows, most_rows), 0, group.variants.size());
  group.entry.variant = group.variants[fitted.variant];
  group.entry.rows = static_cast<int>(rows.size());
  for (std::size_t i = 0; i < group.names.size(); ++i) group.entry.parameters[group.names[i]] = fitted.parameters[i];
}

HeldOut hold_out(const Group& group, Holdout holdout, int most_rows, const std::function<void(double)>& progress) {
  HeldOut out;
  out.fold = folds(group, holdout);
  out.log_us.resize(group.rows());
  out.log_nearest.resize(group.rows());
  const int count = 1 + *std::max_element(out.fold.begin(), out.fold.end());
  // The variant is that of the whole fit, where there is one.
  const auto named = std::find(group.variants.begin(), group.variants.end(), group.entry.variant);
  const bool known_variant = !group.entry.parameters.empty() && named != group.variants.end();
  const auto first = known_variant ? static_cast<std::size_t>(named - group.variants.begin()) : 0;
  const std::size_t last = known_variant ? first + 1 : group.variants.size();
  for (int f = 0; f < count; ++f) {
    const Rows known = rows_of(group, out.fold, f, false);
    const Rows asked = rows_of(group, out.fold, f, true);
    if (known.empty() || asked.empty()) continue;
    const Fitted fitted = fit(group, thin(known, most_rows), first, last);
    const std::vector<double> model = predict(group, fitted, asked);
    const std::vector<double> near = nearest(group, known, asked);
    for (std::size_t i = 0; i < asked.size(); ++i) {
      out.log_us[asked[i]] = model[i];
      out.log_nearest[asked[i]] = near[i];
    }
    if (progress) progress((f + 1.0) / count);
  }
  return out;
}

namespace {

// ln(measured / predicted) of a model, its baselines and its folds, for one line of the table.
struct Line {
  std::vector<double> model, roofline, nearest;
  std::vector<int> fold;
};

// `everything`: of all regimes.
cost::Accuracy summarize(const std::string& regime, const Line& line, const Line& everything) {
  cost::Accuracy a;
  a.regime = regime;
  a.rows = static_cast<int>(line.model.size());
  const Spread model = spread(line.model);
  a.median = model.median;
  a.p90 = model.p90;
  a.bias = -model.bias;
  a.low = -model.p90;
  a.high = model.p90;
  const Spread roofline = spread(line.roofline);
  a.roofline_median = roofline.median;
  a.roofline_p90 = roofline.p90;
  const Spread near = spread(line.nearest);
  a.nearest_median = near.median;
  a.nearest_p90 = near.p90;
  // The interval around a prediction holds 90 % of the others' |ln(measured / predicted)|: two-sided, because a bias of
  // one fold need not be the bias of the next. As predictions have it (cost::log_sigma): of all regimes where this one
  // has few rows, wider where it was held out whole (several nodes).
  constexpr std::size_t few = 30;
  std::size_t covered = 0;
  const std::set<int> all(line.fold.begin(), line.fold.end());
  for (const int f : all) {
    std::vector<double> others;
    const Line& source = all.size() > 1 && line.model.size() >= few ? line : everything;
    for (std::size_t i = 0; i < source.model.size(); ++i)
      if (source.fold[i] != f) others.push_back(source.model[i]);
    const bool beyond = all.size() == 1 && regime.ends_with("nodes");
    const double reach = spread(others.empty() ? line.model : others).p90 * (beyond ? cost::beyond_nodes : 1);
    for (std::size_t i = 0; i < line.model.size(); ++i)
      if (line.fold[i] == f && std::abs(line.model[i]) <= reach) ++covered;
  }
  a.coverage = static_cast<double>(covered) / static_cast<double>(line.model.size());
  return a;
}

}  // namespace

std::vector<cost::Accuracy> accuracy(const Group& group, const HeldOut& held) {
  const std::string in_order = ", in order";
  std::map<std::string, Line> lines;
  const auto push = [&](Line& line, std::size_t i) {
    line.model.push_back(group.log_us[i] - held.log_us[i]);
    line.roofline.push_back(group.log_us[i] - group.log_roofline[i]);
    line.nearest.push_back(group.log_us[i] - held.log_nearest[i]);
    line.fold.push_back(held.fold[i]);
  };
  for (std::size_t i = 0; i < group.rows(); ++i) {
    push(lines[group.regime[i]], i);
    push(lines["all"], i);
    if (!group.in_order.empty() && group.in_order[i]) push(lines[group.regime[i] + in_order], i);
  }
  // Where nearly all rows are in order, that line says nothing.
  std::erase_if(lines, [&](const auto& line) {
    if (!line.first.ends_with(in_order)) return false;
    const auto& all = lines.at(line.first.substr(0, line.first.size() - in_order.size())).fold;
    return line.second.fold.size() * 50 > all.size() * 49;
  });
  for (const auto& [base, skew] : group.skewed) {
    Line& line = lines["slowdown under skew"];
    line.model.push_back((group.log_us[skew] - group.log_us[base]) - (held.log_us[skew] - held.log_us[base]));
    line.roofline.push_back((group.log_us[skew] - group.log_us[base]) -
                            (group.log_roofline[skew] - group.log_roofline[base]));
    line.nearest.push_back((group.log_us[skew] - group.log_us[base]) -
                           (held.log_nearest[skew] - held.log_nearest[base]));
    line.fold.push_back(held.fold[skew]);
  }
  std::vector<cost::Accuracy> out;
  for (const auto& [regime, line] : lines) out.push_back(summarize(regime, line, lines.at("all")));
  return out;
}

}  // namespace moesim::fit
