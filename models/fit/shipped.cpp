#include "models/fit/shipped.hpp"

#include "support/files.hpp"
#include "support/toml_reader.hpp"

namespace moesim::fit {
namespace {

// A GPU further away is no relative: from A100 to H100 it is 1.3, to a V100 1.2, to a processor 5 or more.
constexpr double farthest = 2;

}  // namespace

std::optional<cost::FitFile> fits_for(const hardware::MachineSpec& machine) {
  if (const auto path = cost::shipped_fit_file(machine.id)) return cost::read_fit_file(*path);
  std::optional<cost::FitFile> nearest;
  double least = farthest;
  for (const std::string& name : hardware::machine_names()) {
    const auto path = cost::shipped_fit_file(name);
    if (!path) continue;
    const double away = cost::distance(hardware::load_machine(name).gpu, machine.gpu);
    if (away >= least) continue;
    cost::FitFile fits = cost::read_fit_file(*path);
    if (fits.entries.empty() || !fits.entries.front().transferred_from.empty()) continue;  // measured ones only
    nearest = std::move(fits);
    least = away;
  }
  if (!nearest) return std::nullopt;
  return cost::transfer(*nearest, hardware::load_machine(nearest->machine).gpu, machine.gpu, machine.id,
                        transfer_errors());
}

std::vector<cost::TransferError> transfer_errors() {
  TomlDocument document(data_path("models/fitted/transfer.toml"));
  TomlTable root = document.root();
  std::vector<cost::TransferError> out;
  for (TomlTable table : root.tables("transfer")) {
    cost::TransferError e;
    std::string source;
    table.require("schema", e.schema);
    table.require("sigma", e.sigma, {0, 10});
    table.require("distance", e.distance, positive<double>(100));
    table.require("source", source);
    out.push_back(std::move(e));
  }
  document.throw_if_errors();
  return out;
}

std::map<std::string, double> uncalibrated_sigma() {
  TomlDocument document(data_path("models/fitted/uncalibrated.toml"));
  TomlTable root = document.root();
  std::map<std::string, double> out;
  for (TomlTable table : root.tables("uncalibrated")) {
    std::string kind;
    std::string source;
    double sigma = 0;
    table.require("kind", kind);
    table.require("sigma", sigma, {0, 10});
    table.require("source", source);
    out[kind] = sigma;
  }
  document.throw_if_errors();
  return out;
}

}  // namespace moesim::fit
