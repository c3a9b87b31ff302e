// Fit files: the parameters of a machine's cost models with their provenance, their error on rows that the fit had not
// seen, and the range they were calibrated on. Written by calibration, shipped in models/fitted/MACHINE.fit.toml.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/cost/parameters.hpp"

namespace moesim::cost {

// How well a model did on held-out rows of one kind. Errors are |ln(predicted / measured)|.
struct Accuracy {
  std::string regime;
  int rows = 0;
  double median = 0, p90 = 0;
  double bias = 0;           // median of ln(predicted / measured)
  double low = 0, high = 0;  // 5 % and 95 % quantile of ln(measured / predicted): the interval
  double coverage = 0;       // of held-out rows, by intervals made without their fold
  double roofline_median = 0, roofline_p90 = 0;
  double nearest_median = 0, nearest_p90 = 0;
};

struct CalibratedRange {
  std::string quantity;  // "m", "n", "k", "bytes", ...
  double low = 0, high = 0;
};

struct FitEntry {
  std::string schema;   // gemm, moe_kernel, nccl, deepep, device, host
  std::string library;  // "vllm 0.24.0"
  std::string dtype;    // "bfloat16", "fp8", ...; deepep: the kernel; device: the cost; nccl: empty
  std::string variant;  // of the model: a tile policy
  ParameterMap parameters;
  std::vector<CalibratedRange> ranges;
  std::vector<Accuracy> accuracy;

  // Provenance.
  std::string gpu;      // as the measurements name it
  std::string source;   // where they are from
  int rows = 0;         // fitted
  std::string holdout;  // "shape", "size", "count"
  std::vector<std::string> notes;
  // Where the parameters are another machine's: whose, and what its intervals are widened by (added in quadrature to
  // the standard deviation of ln(measured / predicted)).
  std::string transferred_from;
  double transfer_sigma = 0;

  [[nodiscard]] const Accuracy* find(std::string_view regime) const;
};

struct FitFile {
  std::string machine;  // models/hardware/machines/MACHINE.toml
  std::vector<FitEntry> entries;
};

// Throws InputError with all faults of the file.
FitFile read_fit_file(const std::string& path);
void write_fit_file(const FitFile& file, const std::string& path);
std::string to_toml(const FitFile& file);

// The shipped file of a machine, if there is one.
std::optional<std::string> shipped_fit_file(std::string_view machine);

}  // namespace moesim::cost
