#include "study/calibration.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "models/cost/host_model.hpp"
#include "models/fit/group.hpp"
#include "models/fit/shipped.hpp"
#include "support/files.hpp"

namespace moesim::study {
namespace {

// The libraries whose kernels the fits know, without their versions.
std::set<std::string> libraries(const cost::FitFile& fits) {
  std::set<std::string> out;
  for (const cost::FitEntry& e : fits.entries)
    if (e.schema == "gemm") out.insert(e.library.substr(0, e.library.find(' ')));
  return out;
}

std::string pick_library(const Scenario& s, const cost::FitFile& fits) {
  const std::set<std::string> known = libraries(fits);
  const std::string& wanted = s.cluster.library;
  if (wanted.empty() || known.contains(wanted)) return wanted;
  const std::vector<std::string_view> names(known.begin(), known.end());
  const std::string_view near = nearest_name(wanted, names);
  throw InputError(
      s.place("cluster.library"),
      fmt::format("the calibration of {} has no library '{}'; it has {}", fits.machine, wanted, fmt::join(known, ", ")),
      near.empty() ? std::string() : fmt::format("did you mean '{}'?", near));
}

std::string line_of(const cost::FitFile& fits, const std::string& library) {
  const std::string& from = fits.entries.front().transferred_from;
  if (fits.entries.front().schema == cost::host_schema)
    return fmt::format("{}, {}, measured on {}", fits.entries.front().library, fits.entries.front().dtype,
                       fits.entries.front().gpu);
  const std::string kernels =
      library.empty() ? fmt::format("fastest kernels of {}", fmt::join(libraries(fits), ", ")) : library + " kernels";
  return from.empty() ? fmt::format("{} measured on {}", kernels, fits.machine)
                      : fmt::format("{} transferred from {}", kernels, from);
}

void check_machine(const Scenario& s, const hardware::MachineSpec& machine, const cost::FitFile& fits,
                   const std::string& path) {
  if (s.cluster.force) return;
  if (fits.machine != machine.id)
    throw InputError(
        {path, 1, 1},
        fmt::format("the fit is of machine '{}', and the scenario runs on '{}'", fits.machine, machine.id),
        fits.machine == "host"
            ? std::string("machine = \"host\" in [cluster] is this computer; --force uses the fit all the same")
            : fmt::format("moesim calibrate --transfer {} --machine {} carries it over", path, machine.id));
  for (const cost::FitEntry& e : fits.entries)
    if (e.schema == cost::host_schema && e.gpu != this_processor())
      throw InputError({path, 1, 1},
                       fmt::format("the calibration is of '{}', and this computer is '{}'", e.gpu, this_processor()),
                       "moesim calibrate --backend host measures this one; --force predicts the other one");
}

}  // namespace

bool is_fit_file(const std::string& path) {
  const std::string text = read_file(path);
  return text.starts_with("[[fit]]") || text.find("\n[[fit]]") != std::string::npos;
}

Calibration find_calibration(const Scenario& s, const hardware::MachineSpec& machine) {
  Calibration out{nullptr, {}, "none: roofline of the machine file"};
  std::string path = s.cluster.calibration;
  for (const std::string& overlay : s.cluster.overlays)
    if (is_fit_file(overlay)) path = overlay;
  if (path == "none") return out;
  std::optional<cost::FitFile> fits;
  if (path == "shipped") {
    fits = fit::fits_for(machine);
    if (!fits) return out;
  } else {
    fits = cost::read_fit_file(path);
    check_machine(s, machine, *fits, path);
  }
  if (fits->entries.empty()) return out;
  out.library = pick_library(s, *fits);
  out.line = line_of(*fits, out.library);
  out.fits = std::make_shared<const cost::FitFile>(*std::move(fits));
  return out;
}

std::unique_ptr<cost::KernelModel> make_kernels(const Calibration& calibration, const Gpu& gpu) {
  if (!calibration.fits) return cost::make_roofline(gpu);
  if (cost::find_host_entry(*calibration.fits, cost::HostKernel::product) != nullptr)
    return cost::make_host(gpu, *calibration.fits);
  return cost::make_fitted(gpu, *calibration.fits, calibration.library, fit::uncalibrated_sigma()["other pipeline"]);
}

std::shared_ptr<const cost::Communication> make_communication(const Calibration& calibration,
                                                              const hardware::MachineSpec& m) {
  if (!calibration.fits || m.node.kind != hardware::NodeFabric::Kind::nvswitch) return nullptr;
  const cost::Fabric sheet = fit::fabric_of(m);
  const auto known = cost::communication(*calibration.fits, sheet, sheet.link * m.node.gpu_link.efficiency,
                                         sheet.nic * m.network.nic.efficiency);
  return known ? std::make_shared<const cost::Communication>(*known) : nullptr;
}

hardware::MachineSpec with_transfers(hardware::MachineSpec m, double launch_us, double message_us, double megabyte_us) {
  m.collectives.launch = from_microseconds(launch_us);
  m.collectives.intra_message = from_microseconds(message_us);
  m.node.gpu_link.efficiency = std::min(1.0, 1e12 / megabyte_us / m.node.gpu_link.nominal.value());
  return m;
}

void apply_transfers(hardware::MachineSpec& machine, const cost::FitFile& fits, const std::string& path) {
  const cost::FitEntry* entry = cost::find_host_entry(fits, cost::HostKernel::transfer);
  if (entry == nullptr) return;
  const auto costs = cost::host_costs(*entry);
  machine = with_transfers(std::move(machine), costs[0], costs[1], costs[2]);
  for (const char* key : {"collectives.launch", "collectives.intra_message", "node.gpu_link.efficiency"})
    machine.sources[key] = fmt::format("{}: {}", path, entry->source);
}

std::string this_processor() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("model name") && line.find(':') + 2 < line.size()) return line.substr(line.find(':') + 2);
  return "unknown processor";
}

}  // namespace moesim::study
