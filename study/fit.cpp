#include "study/fit.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <unsupported/Eigen/NonLinearOptimization>
#include <unsupported/Eigen/NumericalDiff>

#include "support/files.hpp"

namespace moesim::study {
namespace {

// A number of a machine: how it is read, and what it is written in.
struct Key {
  std::string_view name;
  std::string_view unit;  // empty: an efficiency
  double (*read)(const hardware::MachineSpec&);
};

constexpr auto in_us = [](Picoseconds t) { return to_microseconds(t); };
const std::vector<Key>& keys() {
  using M = hardware::MachineSpec;
  static const std::vector<Key> list{
      {"gpu.launch", "us", [](const M& m) { return in_us(m.gpu.launch); }},
      {"gpu.host_sync", "us", [](const M& m) { return in_us(m.gpu.host_sync); }},
      {"gpu.matrix_efficiency", "", [](const M& m) { return m.gpu.matrix_efficiency; }},
      {"gpu.memory_efficiency", "", [](const M& m) { return m.gpu.memory_efficiency; }},
      {"gpu.attention_efficiency", "", [](const M& m) { return m.gpu.attention_efficiency; }},
      {"node.gpu_link.efficiency", "", [](const M& m) { return m.node.gpu_link.efficiency; }},
      {"network.nic.efficiency", "", [](const M& m) { return m.network.nic.efficiency; }},
      {"collectives.launch", "us", [](const M& m) { return in_us(m.collectives.launch); }},
  };
  return list;
}

// A number that moves by a factor e from the machine file's costs as much as a figure missed by 3 %: enough to hold
// what the figures do not determine, too little to bend what they do.
constexpr double prior_weight = 0.03;

double to_free(const Key& k, double v) { return k.unit.empty() ? std::log(v / (1 - v)) : std::log(v); }
double to_value(const Key& k, double u) { return k.unit.empty() ? 1 / (1 + std::exp(-u)) : std::exp(u); }

std::string overlay_text(const hardware::MachineSpec& machine, const std::vector<const Key*>& free,
                         const Eigen::VectorXd& u, const std::string& source) {
  std::string out = fmt::format("machine = \"{}\"\n\n[sources]\nfit = \"{}\"\n", machine.id, source);
  std::string_view open_table;
  for (std::size_t i = 0; i < free.size(); ++i) {
    const Key& k = *free[i];
    const double v = to_value(k, u[static_cast<Eigen::Index>(i)]);
    const std::string_view table = k.name.substr(0, k.name.rfind('.'));
    if (table != open_table) out += fmt::format("\n[{}]\n", table);
    open_table = table;
    out += fmt::format("{} = {{ value = {}, source = \"fit\" }}\n", k.name.substr(k.name.rfind('.') + 1),
                       k.unit.empty() ? fmt::format("{:.5g}", v) : fmt::format("\"{:.5g} {}\"", v, k.unit));
  }
  return out;
}

// TOML allows a table once: keys of one table are written together.
std::vector<const Key*> grouped_by_table(std::vector<const Key*> free) {
  std::ranges::stable_sort(free, {}, [](const Key* k) { return k->name.substr(0, k->name.rfind('.')); });
  return free;
}

struct Residuals {
  using Scalar = double;
  using InputType = Eigen::VectorXd;
  using ValueType = Eigen::VectorXd;
  using JacobianType = Eigen::MatrixXd;
  enum { InputsAtCompileTime = Eigen::Dynamic, ValuesAtCompileTime = Eigen::Dynamic };

  std::function<Eigen::VectorXd(const Eigen::VectorXd&)> evaluate;
  int unknowns = 0;
  int figures = 0;
  [[nodiscard]] int inputs() const { return unknowns; }
  [[nodiscard]] int values() const { return figures; }
  int operator()(const Eigen::VectorXd& u, Eigen::VectorXd& r) const {
    r = evaluate(u);
    return 0;
  }
};

}  // namespace

std::vector<std::string> fit_keys() {
  std::vector<std::string> out;
  for (const Key& k : keys()) out.emplace_back(k.name);
  return out;
}

FitResult fit_machine(const Scenario& scenario, const std::vector<std::string>& names,
                      const std::function<void(int)>& progress) {
  const SourcePlace place{scenario.path, 0, 0};
  std::vector<const Key*> free;
  for (const std::string& name : names) {
    const auto found = std::ranges::find(keys(), name, &Key::name);
    if (found == keys().end()) {
      std::vector<std::string_view> known;
      for (const Key& k : keys()) known.push_back(k.name);
      const std::string_view near = nearest_name(name, known);
      throw InputError(place, fmt::format("'{}' cannot be fitted; what can: {}", name, fmt::join(known, ", ")),
                       near.empty() ? std::string() : fmt::format("did you mean '{}'?", near));
    }
    free.push_back(&*found);
  }
  free = grouped_by_table(std::move(free));
  const auto figures = std::ranges::count_if(scenario.published, &Published::used_in_fit);
  if (figures < static_cast<std::ptrdiff_t>(free.size()) || free.empty())
    throw InputError(place,
                     fmt::format("{} figures are marked use = \"fit\", too few for {} numbers", figures, free.size()));

  // Only the points that have figures to fit are run.
  const hardware::MachineSpec machine = resolved_machine(scenario);
  const std::string temporary =
      (std::filesystem::temp_directory_path() / fmt::format("moesim-fit-{}.toml", static_cast<const void*>(&machine)))
          .string();
  Eigen::VectorXd u(static_cast<Eigen::Index>(free.size()));
  for (std::size_t i = 0; i < free.size(); ++i)
    u[static_cast<Eigen::Index>(i)] = to_free(*free[i], free[i]->read(machine));
  const Eigen::VectorXd start = u;
  int evaluations = 0;
  const auto evaluate = [&](const Eigen::VectorXd& trial) {
    if (progress) progress(++evaluations);
    write_file(temporary, overlay_text(machine, free, trial, "fit under way"));
    RunOptions options;
    options.overlays = {temporary};
    options.fidelity = sim::Fidelity{};  // exact: differences are taken
    const StudyResult result = run_study(scenario, options);
    Eigen::VectorXd r(figures + trial.size());
    r.tail(trial.size()) = prior_weight * (trial - start);
    Eigen::Index i = 0;
    for (const PublishedRow& row : result.published) {
      if (!row.used_in_fit) continue;
      if (!row.predicted)
        throw InputError(place,
                         fmt::format("there is no prediction for the published {} of {}", row.metric, row.strategy));
      r[i++] = std::log(*row.predicted / row.published);
    }
    return r;
  };

  Residuals residuals{evaluate, static_cast<int>(free.size()), static_cast<int>(figures + u.size())};
  // Predictions are rounded to picoseconds and branch at kernel floors: differences well above that.
  Eigen::NumericalDiff<Residuals, Eigen::Central> differences(residuals, 1e-6);
  Eigen::LevenbergMarquardt<decltype(differences)> solver(differences);
  solver.parameters.maxfev = 200;
  solver.parameters.xtol = solver.parameters.ftol = 1e-5;
  solver.minimize(u);

  FitResult out;
  out.figures = static_cast<int>(figures);
  out.rms_error = std::sqrt(evaluate(u).head(figures).squaredNorm() / static_cast<double>(figures));
  for (std::size_t i = 0; i < free.size(); ++i) {
    const auto at = static_cast<Eigen::Index>(i);
    out.parameters.push_back({std::string(free[i]->name), std::string(free[i]->unit), to_value(*free[i], start[at]),
                              to_value(*free[i], u[at])});
  }
  out.overlay =
      overlay_text(machine, free, u,
                   fmt::format("fitted by 'moesim fit {}' on {} published figures, rms of ln(predicted / "
                               "published) {:.3f}",
                               std::filesystem::path(scenario.path).filename().string(), figures, out.rms_error));
  std::error_code ignored;
  std::filesystem::remove(temporary, ignored);
  return out;
}

}  // namespace moesim::study
