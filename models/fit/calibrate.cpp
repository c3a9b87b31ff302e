#include "models/fit/calibrate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <ostream>
#include <tuple>

#include "models/fit/device.hpp"
#include "support/files.hpp"

namespace moesim::fit {
namespace {

std::string name_of_files(const std::vector<std::string>& files) {
  std::string out;
  for (const std::string& f : files) out += (out.empty() ? "" : ", ") + std::filesystem::path(f).filename().string();
  return out;
}

template <class R>
std::string gpu_of(const std::vector<R>& rows) {
  return rows.front().origin.gpu;
}

hardware::MachineSpec machine_of(const CalibrationOptions& options, const std::string& gpu) {
  if (!options.machine.empty()) return hardware::load_machine(options.machine);
  const std::vector<std::string> names = hardware::machine_names();
  if (std::find(names.begin(), names.end(), gpu) != names.end()) return hardware::load_machine(gpu);
  std::string list;
  for (const std::string& n : names) list += (list.empty() ? "" : ", ") + n;
  throw InputError({}, fmt::format("the rows are of GPU '{}', and no machine file has that name", gpu),
                   fmt::format("say whose data sheet holds, as in --machine h100_sxm; there are {}", list));
}

template <class R>
std::vector<R> of_library(std::vector<R> rows, const std::string& library) {
  if (library.empty()) return rows;
  std::string seen;
  for (const R& r : rows)
    if (seen.find(r.origin.library) == std::string::npos) seen += (seen.empty() ? "" : ", ") + r.origin.library;
  std::erase_if(rows, [&](const R& r) { return !r.origin.library.starts_with(library); });
  if (rows.empty())
    throw InputError({}, fmt::format("no row's library begins with '{}'", library), "there are: " + seen);
  return rows;
}

void exclude(Group& group, const std::vector<std::string>& shapes) {
  for (const std::string& shape : shapes) {
    std::size_t n = 0;
    for (std::size_t i = 0; i < group.rows(); ++i)
      if (group.shape[i] == shape) {
        group.train[i] = false;
        ++n;
      }
    if (n > 0) group.entry.notes.push_back(fmt::format("{} rows of {} were kept for validation", n, shape));
  }
}

// Too few rows say nothing about so many parameters; the priors would be what is written.
std::string too_few(const Group& group) {
  const std::size_t least = 2 * group.parameters.size();
  const auto rows = static_cast<std::size_t>(std::count(group.train.begin(), group.train.end(), true));
  if (rows >= least) return {};
  return fmt::format("{} {} {}: {} row{}, and {} parameters need at least {}", group.entry.schema, group.entry.library,
                     group.entry.dtype, rows, rows == 1 ? "" : "s", group.parameters.size(), least);
}

// Rows that were timed with the host's launches in them crowd around a few times whatever the shape. They say nothing
// about the kernel.
std::string host_bound(const Group& group) {
  constexpr double width = 0.6;    // of the crowd, in ln t: a factor of 1.8
  constexpr double shortest = 30;  // us: device-side floors are below
  constexpr double most = 0.4;     // of the rows, over shapes of very different work; kernels alone have 0.1 to 0.2
  std::vector<double> times;
  for (const double t : group.log_us)
    if (t > std::log(shortest)) times.push_back(t);
  std::sort(times.begin(), times.end());
  std::size_t crowd = 0;
  std::size_t begin = 0;
  for (std::size_t end = 0; end < times.size(); ++end) {
    while (times[end] - times[begin] > width) ++begin;
    crowd = std::max(crowd, end + 1 - begin);
  }
  if (group.entry.schema != "gemm" && group.entry.schema != "moe_kernel") return {};  // exchanges have long floors
  const double share = static_cast<double>(crowd) / static_cast<double>(group.rows());
  const auto [low, high] = std::minmax_element(group.log_bound.begin(), group.log_bound.end());
  if (share < most || *high - *low < 5) return {};
  return fmt::format(
      "{} {} {}: {:.0f} % of the times are above {} us and within a factor of {:.1f} of each other whatever the shape: "
      "the host's launches were timed, not the kernel",
      group.entry.schema, group.entry.library, group.entry.dtype, 100 * share, shortest, std::exp(width));
}

struct Loaded {
  hardware::MachineSpec machine;
  std::vector<Group> groups;
};

template <class R>
Loaded load(std::vector<R> rows, const CalibrationOptions& options,
            std::vector<Group> (*make)(const std::vector<R>&, const hardware::MachineSpec&)) {
  rows = of_library(std::move(rows), options.library);
  Loaded out{machine_of(options, gpu_of(rows)), {}};
  out.groups = make(rows, out.machine);
  return out;
}

Loaded load(const CalibrationOptions& o) {
  switch (o.schema) {
    case Schema::gemm:
      return load(read_gemm(o.files, o.gpu), o, gemm_groups);
    case Schema::moe_kernel:
      return load(read_experts(o.files, o.gpu), o, expert_groups);
    case Schema::nccl:
      return load(read_collectives(o.files, o.gpu), o, collective_groups);
    case Schema::deepep:
      return load(read_exchanges(o.files, o.gpu), o, exchange_groups);
    case Schema::device:
      return load(read_device(o.files, o.gpu), o, device_groups);
  }
  return {};
}

void merge(cost::FitFile& file, cost::FitEntry entry) {
  for (cost::FitEntry& e : file.entries)
    if (e.schema == entry.schema && e.library == entry.library && e.dtype == entry.dtype) {
      e = std::move(entry);
      return;
    }
  file.entries.push_back(std::move(entry));
}

}  // namespace

CalibrationReport calibrate(const CalibrationOptions& options) {
  const auto say = [&](double fraction, const std::string& what) {
    if (options.progress) options.progress(fraction, what);
  };
  say(0, "reading " + name_of_files(options.files));
  Loaded loaded = load(options);
  CalibrationReport report;
  report.file.machine = loaded.machine.id;
  if (options.update && !options.output.empty() && std::filesystem::exists(options.output)) {
    report.file = cost::read_fit_file(options.output);
    if (report.file.machine != loaded.machine.id)
      throw InputError({options.output, 1, 1}, fmt::format("the file is of machine '{}', the rows are of '{}'",
                                                           report.file.machine, loaded.machine.id));
  }
  std::vector<Group> usable;
  for (Group& g : loaded.groups) {
    exclude(g, options.excluded_shapes);
    std::string reason = too_few(g);
    if (reason.empty()) reason = host_bound(g);
    if (reason.empty())
      usable.push_back(std::move(g));
    else
      report.skipped.push_back(std::move(reason));
  }
  if (usable.empty()) {
    std::string all;
    for (const std::string& s : report.skipped) all += (all.empty() ? "" : "; ") + s;
    throw InputError({options.files.front(), 0, 0}, "nothing can be fitted: " + all, "measure more shapes");
  }
  std::sort(usable.begin(), usable.end(), [](const Group& a, const Group& b) {
    return std::tie(a.entry.library, a.entry.dtype) < std::tie(b.entry.library, b.entry.dtype);
  });
  for (std::size_t i = 0; i < usable.size(); ++i) {
    Group& g = usable[i];
    const std::string label = fmt::format("{} {} {}", g.entry.schema, g.entry.library, g.entry.dtype);
    const auto part = [&](double f) { say((static_cast<double>(i) + f) / static_cast<double>(usable.size()), label); };
    part(0);
    g.entry.source = options.source.empty() ? name_of_files(options.files) : options.source;
    g.entry.holdout = to_string(options.holdout);
    fit_all(g, options.most_rows);
    part(0.2);
    HeldOut held = hold_out(g, options.holdout, options.most_rows, [&](double f) { part(0.2 + 0.8 * f); });
    g.entry.accuracy = accuracy(g, held);
    merge(report.file, g.entry);
    report.groups.push_back({std::move(g), std::move(held)});
  }
  if (!options.output.empty()) write_fit_file(report.file, options.output);
  say(1, "done");
  return report;
}

std::string accuracy_header() {
  return fmt::format("{:<58} {:<30} {:>6} {:>7} {:>7} {:>7} {:>6} {:>17} {:>17}\n", "held out", "regime", "rows",
                     "median", "p90", "bias", "cover", "roofline med/p90", "nearest med/p90");
}

std::string accuracy_lines(const cost::FitEntry& e) {
  const auto percent = [](double x) { return fmt::format("{:.1f}%", 100 * x); };
  std::string out;
  for (const cost::Accuracy& a : e.accuracy)
    out += fmt::format("{:<58} {:<30} {:>6} {:>7} {:>7} {:>7} {:>6} {:>17} {:>17}\n",
                       fmt::format("{} {} {} by {}", e.schema, e.library, e.dtype, e.holdout), a.regime, a.rows,
                       percent(a.median), percent(a.p90), fmt::format("{:+.1f}%", 100 * a.bias),
                       fmt::format("{:.0f}%", 100 * a.coverage),
                       percent(a.roofline_median) + " " + percent(a.roofline_p90),
                       percent(a.nearest_median) + " " + percent(a.nearest_p90));
  return out;
}

std::string render(const CalibrationReport& report) {
  std::string out = accuracy_header();
  for (const GroupReport& r : report.groups) out += accuracy_lines(r.group.entry);
  for (const std::string& s : report.skipped) out += "not fitted: " + s + "\n";
  return out;
}

void write_predictions(const std::vector<PredictedRow>& rows, const std::string& path) {
  write_file(path, [&](std::ostream& out) {
    out << "machine,schema,library,dtype,shape,regime,size,measured_us,predicted_us,low_us,high_us,roofline_us,"
           "nearest_us\n";
    for (const PredictedRow& r : rows) {
      out << fmt::format("{},{},{},{},{},\"{}\",{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},{:.6g},", r.machine, r.schema,
                         r.library, r.dtype, r.shape, r.regime, r.size, r.us, r.predicted_us, r.low_us, r.high_us,
                         r.roofline_us);
      out << (r.nearest_us > 0 ? fmt::format("{:.6g}\n", r.nearest_us) : "\n");
    }
  });
}

PredictedRow predicted_row(const Group& group, std::size_t i, const std::string& machine, double log_predicted,
                           double log_reach) {
  return {machine,
          group.entry.schema,
          group.entry.library,
          group.entry.dtype,
          group.shape[i],
          group.regime[i],
          group.size[i],
          std::exp(group.log_us[i]),
          std::exp(log_predicted),
          std::exp(log_predicted - log_reach),
          std::exp(log_predicted + log_reach),
          std::exp(group.log_roofline[i]),
          0};
}

std::vector<PredictedRow> predictions(const CalibrationReport& report) {
  std::vector<PredictedRow> out;
  for (const GroupReport& r : report.groups)
    for (std::size_t i = 0; i < r.group.rows(); ++i) {
      const cost::Accuracy* a = r.group.entry.find(r.group.regime[i]);
      out.push_back(predicted_row(r.group, i, report.file.machine, r.held_out.log_us[i], a ? a->high : 0));
      out.back().nearest_us = std::exp(r.held_out.log_nearest[i]);
    }
  return out;
}

}  // namespace moesim::fit
