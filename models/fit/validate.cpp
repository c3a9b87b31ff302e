#include "models/fit/validate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <ostream>
#include <set>

#include "models/fit/calibrate.hpp"
#include "models/fit/csv.hpp"
#include "models/fit/statistics.hpp"
#include "support/files.hpp"
#include "support/toml_reader.hpp"

namespace moesim::fit {
namespace {

constexpr double z90 = 1.6449;

// ln of the time that an entry predicts for every row of a group.
std::vector<double> predict(const Group& group, const cost::FitEntry& entry) {
  std::vector<double> theta;
  for (std::size_t i = 0; i < group.names.size(); ++i) {
    const auto it = entry.parameters.find(group.names[i]);
    theta.push_back(it == entry.parameters.end() ? group.parameters[i].prior : it->second);
  }
  const auto named = std::find(group.variants.begin(), group.variants.end(), entry.variant);
  const auto variant = named == group.variants.end() ? 0 : static_cast<std::size_t>(named - group.variants.begin());
  std::vector<std::size_t> all(group.rows());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
  std::vector<double> out(all.size());
  group.log_model(theta, variant, all, out);
  return out;
}

std::vector<ValidationLine> judge(const Group& group, const cost::FitEntry& entry, const std::string& machine) {
  const std::vector<double> predicted = predict(group, entry);
  HeldOut held;
  held.log_us = predicted;
  held.log_nearest = group.log_roofline;
  held.fold.assign(group.rows(), 0);
  std::vector<ValidationLine> out;
  for (cost::Accuracy a : accuracy(group, held)) {
    if (a.regime == "all" && out.size() == 1 && out.front().accuracy.rows == a.rows) continue;
    std::size_t covered = 0;
    std::size_t rows = 0;
    for (std::size_t i = 0; i < group.rows(); ++i) {
      if (a.regime != "all" && group.regime[i] != a.regime) continue;
      const double reach = z90 * cost::log_sigma(entry, group.regime[i]);
      covered += std::abs(group.log_us[i] - predicted[i]) <= reach ? 1 : 0;
      ++rows;
    }
    a.coverage = rows == 0 ? 0 : static_cast<double>(covered) / static_cast<double>(rows);
    const std::string from =
        entry.transferred_from.empty() ? "" : fmt::format(", transferred from {}", entry.transferred_from);
    out.push_back(
        {machine, group.entry.schema, group.entry.library, group.entry.dtype, "quoted figures" + from, a, false});
  }
  return out;
}

template <class R>
void judge_rows(const std::vector<R>& rows, const std::string& only, std::vector<ValidationLine>& lines,
                std::vector<Group> (*make)(const std::vector<R>&, const hardware::MachineSpec&)) {
  std::map<std::string, std::vector<R>> by_machine;
  for (const R& r : rows) by_machine[r.origin.gpu].push_back(r);
  for (const auto& [machine, members] : by_machine) {
    if (!only.empty() && machine != only) continue;
    const hardware::MachineSpec spec = hardware::load_machine(machine, members.front().origin.place);
    const cost::FitFile fits = fits_for(spec);
    for (const Group& group : make(members, spec)) {
      const cost::FitEntry* entry = cost::find_entry(fits, group.entry.schema, group.entry.dtype, group.entry.library);
      if (!entry) continue;
      for (ValidationLine& line : judge(group, *entry, machine)) lines.push_back(std::move(line));
    }
  }
}

// Every machine's rows are read alone: a validation file holds several.
template <class R>
std::vector<R> read_all(const std::vector<std::string>& files,
                        std::vector<R> (*read)(const std::vector<std::string>&, const std::string&)) {
  std::vector<R> out;
  std::set<std::string> machines;
  for (const std::string& file : files) {
    const CsvTable table(file);
    const auto column = table.find("gpu") ? table.find("gpu") : table.find("system");
    if (!column) throw InputError({file, 1, 1}, "the column 'gpu' is missing");
    for (std::size_t i = 0; i < table.rows(); ++i) machines.emplace(table.cell(i, *column));
  }
  for (const std::string& machine : machines) {
    std::vector<R> rows = read(files, machine);
    out.insert(out.end(), rows.begin(), rows.end());
  }
  return out;
}

void judge_files(const std::vector<std::string>& files, Schema schema, const std::string& only,
                 std::vector<ValidationLine>& lines) {
  switch (schema) {
    case Schema::gemm:
      return judge_rows(read_all(files, read_gemm), only, lines, gemm_groups);
    case Schema::moe_kernel:
      return judge_rows(read_all(files, read_experts), only, lines, expert_groups);
    case Schema::nccl:
      return judge_rows(read_all(files, read_collectives), only, lines, collective_groups);
    case Schema::deepep:
      return judge_rows(read_all(files, read_exchanges), only, lines, exchange_groups);
  }
}

std::string percent(double x) { return fmt::format("{:.1f} %", 100 * x); }

std::vector<std::string> cells(const ValidationLine& l) {
  const cost::Accuracy& a = l.accuracy;
  std::string op = l.schema;
  for (const std::string* part : {&l.library, &l.dtype})
    if (!part->empty()) op += " " + *part;
  return {l.machine,
          op,
          l.what,
          a.regime,
          std::to_string(a.rows),
          percent(a.median),
          percent(a.p90),
          fmt::format("{:+.1f} %", 100 * a.bias),
          fmt::format("{:.0f} %", 100 * a.coverage),
          percent(a.roofline_median) + " / " + percent(a.roofline_p90),
          l.has_nearest ? percent(a.nearest_median) + " / " + percent(a.nearest_p90) : "-"};
}

const std::vector<std::string>& head() {
  static const std::vector<std::string> names{"machine",
                                              "op",
                                              "rows are",
                                              "regime",
                                              "rows",
                                              "median",
                                              "90 %",
                                              "bias",
                                              "coverage",
                                              "roofline median / 90 %",
                                              "nearest rows median / 90 %"};
  return names;
}

}  // namespace

cost::FitFile fits_for(const hardware::MachineSpec& machine) {
  if (const auto path = cost::shipped_fit_file(machine.id)) return cost::read_fit_file(*path);
  std::string nearest;
  double least = 0;
  for (const std::string& name : hardware::machine_names()) {
    const auto path = cost::shipped_fit_file(name);
    if (!path) continue;
    const cost::FitFile fits = cost::read_fit_file(*path);
    if (fits.entries.empty() || !fits.entries.front().transferred_from.empty()) continue;  // measured ones only
    const double away = cost::distance(hardware::load_machine(name).gpu, machine.gpu);
    if (!nearest.empty() && away >= least) continue;
    nearest = name;
    least = away;
  }
  if (nearest.empty()) throw InputError({}, "no fit file ships: models/fitted/ is empty");
  return cost::transfer(cost::read_fit_file(*cost::shipped_fit_file(nearest)), hardware::load_machine(nearest).gpu,
                        machine.gpu, machine.id, transfer_errors());
}

std::vector<cost::TransferError> transfer_errors() {
  TomlDocument document(data_path("models/fitted/transfer.toml"));
  std::vector<cost::TransferError> out;
  for (TomlTable table : document.root().tables("transfer")) {
    cost::TransferError e;
    std::string ignored;
    table.require("schema", e.schema);
    table.require("sigma", e.sigma);
    table.require("distance", e.distance, positive<double>());
    table.maybe("source", ignored);
    out.push_back(std::move(e));
  }
  document.throw_if_errors();
  return out;
}

double transfer_error(const Group& group, const cost::FitEntry& foreign, const cost::FitEntry& own) {
  const auto reach = [&](const cost::FitEntry& entry) {
    const std::vector<double> predicted = predict(group, entry);
    std::vector<double> residuals;
    for (std::size_t i = 0; i < predicted.size(); ++i) residuals.push_back(group.log_us[i] - predicted[i]);
    return spread(residuals).p90 / z90;
  };
  const double wide = reach(foreign);
  const double narrow = reach(own);
  return std::sqrt(std::max(0.0, wide * wide - narrow * narrow));
}

ValidationTable validate(const ValidationOptions& options) {
  ValidationTable table;
  for (const std::string& name : hardware::machine_names()) {
    if (!options.machine.empty() && name != options.machine) continue;
    const auto path = cost::shipped_fit_file(name);
    if (!path || !options.files.empty()) continue;
    for (const cost::FitEntry& e : cost::read_fit_file(*path).entries)
      if (e.transferred_from.empty())
        for (const cost::Accuracy& a : e.accuracy)
          table.lines.push_back({name, e.schema, e.library, e.dtype, "held out by " + e.holdout, a, true});
  }
  if (!options.files.empty()) {
    judge_files(options.files, options.schema, options.machine, table.lines);
  } else {
    for (const Schema schema : {Schema::gemm, Schema::moe_kernel, Schema::nccl, Schema::deepep})
      judge_files({data_path(fmt::format("models/validation/{}.csv", to_string(schema)))}, schema, options.machine,
                  table.lines);
  }
  return table;
}

std::string render(const ValidationTable& table, bool markdown) {
  std::vector<std::vector<std::string>> rows{head()};
  for (const ValidationLine& l : table.lines) rows.push_back(cells(l));
  std::vector<std::size_t> width(head().size());
  for (const auto& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
  std::string out;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    for (std::size_t i = 0; i < rows[r].size(); ++i) {
      const bool number = i >= 4;
      const std::string cell =
          number ? fmt::format("{:>{}}", rows[r][i], width[i]) : fmt::format("{:<{}}", rows[r][i], width[i]);
      out += (markdown ? (i == 0 ? "| " : " | ") : (i == 0 ? "" : "  ")) + cell;
    }
    out += markdown ? " |\n" : "\n";
    if (markdown && r == 0) {
      for (std::size_t i = 0; i < width.size(); ++i) out += i >= 4 ? "|---:" : "|---";
      out += "|\n";
    }
  }
  return out;
}

void write_csv(const ValidationTable& table, const std::string& path) {
  write_file(path, [&](std::ostream& out) {
    out << "machine,schema,library,dtype,rows_are,regime,rows,median,p90,bias,coverage,roofline_median,roofline_p90,"
           "nearest_median,nearest_p90\n";
    for (const ValidationLine& l : table.lines) {
      const cost::Accuracy& a = l.accuracy;
      out << fmt::format("{},{},{},{},\"{}\",\"{}\",{},{:.4f},{:.4f},{:.4f},{:.4f},{:.4f},{:.4f}", l.machine, l.schema,
                         l.library, l.dtype, l.what, a.regime, a.rows, a.median, a.p90, a.bias, a.coverage,
                         a.roofline_median, a.roofline_p90);
      out << (l.has_nearest ? fmt::format(",{:.4f},{:.4f}\n", a.nearest_median, a.nearest_p90) : ",,\n");
    }
  });
}

}  // namespace moesim::fit
