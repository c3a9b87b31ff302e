#include "study/calibration.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

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
  const std::string kernels =
      library.empty() ? fmt::format("fastest kernels of {}", fmt::join(libraries(fits), ", ")) : library + " kernels";
  return from.empty() ? fmt::format("{} measured on {}", kernels, fits.machine)
                      : fmt::format("{} transferred from {}", kernels, from);
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
    if (fits->machine != machine.id)
      throw InputError(
          {path, 1, 1},
          fmt::format("the fit is of machine '{}', and the scenario runs on '{}'", fits->machine, machine.id),
          fmt::format("moesim calibrate --transfer {} --machine {} carries it over", path, machine.id));
  }
  if (fits->entries.empty()) return out;
  out.library = pick_library(s, *fits);
  out.line = line_of(*fits, out.library);
  out.fits = std::make_shared<const cost::FitFile>(*std::move(fits));
  return out;
}

std::unique_ptr<cost::KernelModel> make_kernels(const Calibration& calibration, const Gpu& gpu) {
  if (!calibration.fits) return cost::make_roofline(gpu);
  return cost::make_fitted(gpu, *calibration.fits, calibration.library, fit::uncalibrated_sigma()["other pipeline"]);
}

}  // namespace moesim::study
