#include "models/fit/validate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <set>

#include "models/fit/calibrate.hpp"
#include "models/fit/csv.hpp"
#include "models/fit/device.hpp"
#include "models/fit/shipped.hpp"
#include "models/fit/statistics.hpp"
#include "support/files.hpp"

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

std::string first_word(const std::string& text) { return text.substr(0, text.find(' ')); }

// The entry of the rows' library; of a library that the fits do not know, all of the pipeline: the fastest predicts.
std::vector<const cost::FitEntry*> entries_for(const cost::FitFile& fits, const cost::FitEntry& rows) {
  const cost::FitEntry* own = cost::find_entry(fits, rows.schema, rows.dtype, rows.library);
  const bool kernels = rows.schema == "gemm" || rows.schema == "moe_kernel";
  if (!own || !kernels || first_word(own->library) == first_word(rows.library))
    return own ? std::vector{own} : std::vector<const cost::FitEntry*>{};
  std::vector<const cost::FitEntry*> out;
  for (const cost::FitEntry& e : fits.entries)
    if (e.schema == rows.schema && e.dtype.substr(0, 3) == rows.dtype.substr(0, 3)) out.push_back(&e);
  return out;
}

void judge(const Group& group, const std::vector<const cost::FitEntry*>& entries, const std::string& machine,
           ValidationTable& table) {
  std::vector<double> predicted = predict(group, *entries.front());
  std::vector<const cost::FitEntry*> chosen(group.rows(), entries.front());
  for (const cost::FitEntry* other : entries) {
    const std::vector<double> again = predict(group, *other);
    for (std::size_t i = 0; i < again.size(); ++i)
      if (again[i] < predicted[i]) {
        predicted[i] = again[i];
        chosen[i] = other;
      }
  }
  HeldOut held;
  held.log_us = predicted;
  held.log_nearest = group.log_roofline;
  held.fold.assign(group.rows(), 0);
  std::vector<double> reach;
  for (std::size_t i = 0; i < group.rows(); ++i) {
    reach.push_back(z90 * cost::log_sigma(*chosen[i], group.regime[i]));
    table.rows.push_back(predicted_row(group, i, machine, predicted[i], reach.back()));
  }
  for (cost::Accuracy a : accuracy(group, held)) {
    std::size_t covered = 0;
    std::size_t rows = 0;
    for (std::size_t i = 0; i < group.rows(); ++i) {
      if (a.regime != "all" && group.regime[i] != a.regime) continue;
      covered += std::abs(group.log_us[i] - predicted[i]) <= reach[i] ? 1 : 0;
      ++rows;
    }
    a.coverage = rows == 0 ? 0 : static_cast<double>(covered) / static_cast<double>(rows);
    const std::string& source = entries.front()->transferred_from;
    const std::string from = source.empty() ? "" : fmt::format(", transferred from {}", source);
    table.lines.push_back(
        {machine, group.entry.schema, group.entry.library, group.entry.dtype, "quoted figures" + from, a, false});
  }
}

std::optional<cost::FitFile> fits_of(const ValidationOptions& options, const hardware::MachineSpec& machine) {
  if (options.fit.empty()) return fits_for(machine);
  cost::FitFile fits = cost::read_fit_file(options.fit);
  if (fits.machine == machine.id) return fits;
  return cost::transfer(fits, hardware::load_machine(fits.machine).gpu, machine.gpu, machine.id, transfer_errors());
}

// Every GPU's rows are read alone: a validation file holds several.
template <class R>
void judge_rows(const std::vector<std::string>& files, const ValidationOptions& options, ValidationTable& table,
                std::vector<R> (*read)(const std::vector<std::string>&, const std::string&),
                std::vector<Group> (*make)(const std::vector<R>&, const hardware::MachineSpec&)) {
  std::set<std::string> gpus;
  for (const std::string& file : files) {
    const CsvTable csv(file);
    const auto column = csv.find("gpu") ? csv.find("gpu") : csv.find("system");
    if (!column) throw InputError({file, 1, 1}, "the column 'gpu' is missing");
    for (std::size_t i = 0; i < csv.rows(); ++i) gpus.emplace(csv.cell(i, *column));
  }
  for (const std::string& gpu : gpus) {
    const std::string machine = options.gpu.empty() || options.machine.empty() ? gpu : options.machine;
    if (!options.gpu.empty() && gpu != options.gpu) continue;
    if (!options.machine.empty() && machine != options.machine) continue;
    const std::vector<R> rows = read(files, gpu);
    const SourcePlace place = rows.front().origin.place;
    const hardware::MachineSpec spec = hardware::load_machine(machine, place);
    const std::optional<cost::FitFile> fits = fits_of(options, spec);
    if (!fits)
      throw InputError(place,
                       fmt::format("machine '{}' has no fit, and no machine that has one is near enough", machine));
    for (const Group& group : make(rows, spec)) {
      const std::vector<const cost::FitEntry*> entries = entries_for(*fits, group.entry);
      if (entries.empty()) continue;
      judge(group, entries, machine, table);
    }
  }
}

void judge_files(const std::vector<std::string>& files, Schema schema, const ValidationOptions& options,
                 ValidationTable& table) {
  switch (schema) {
    case Schema::gemm:
      return judge_rows(files, options, table, read_gemm, gemm_groups);
    case Schema::moe_kernel:
      return judge_rows(files, options, table, read_experts, expert_groups);
    case Schema::nccl:
      return judge_rows(files, options, table, read_collectives, collective_groups);
    case Schema::deepep:
      return judge_rows(files, options, table, read_exchanges, exchange_groups);
    case Schema::device:
      return judge_rows(files, options, table, read_device, device_groups);
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
    judge_files(options.files, options.schema, options, table);
  } else {
    for (const Schema schema : {Schema::gemm, Schema::nccl})
      judge_files({data_path(fmt::format("models/validation/{}.csv", to_string(schema)))}, schema, options, table);
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

std::string to_json(const ValidationTable& table) {
  nlohmann::ordered_json lines = nlohmann::ordered_json::array();
  for (const ValidationLine& l : table.lines) {
    const cost::Accuracy& a = l.accuracy;
    nlohmann::ordered_json line = {{"machine", l.machine},
                                   {"schema", l.schema},
                                   {"library", l.library},
                                   {"dtype", l.dtype},
                                   {"rows_are", l.what},
                                   {"regime", a.regime},
                                   {"rows", a.rows},
                                   {"median", a.median},
                                   {"p90", a.p90},
                                   {"bias", a.bias},
                                   {"coverage", a.coverage},
                                   {"roofline_median", a.roofline_median},
                                   {"roofline_p90", a.roofline_p90}};
    if (l.has_nearest) {
      line["nearest_median"] = a.nearest_median;
      line["nearest_p90"] = a.nearest_p90;
    }
    lines.push_back(std::move(line));
  }
  return nlohmann::ordered_json{{"validation_version", 1}, {"lines", std::move(lines)}}.dump(2) + "\n";
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
