// Calibration of this machine's GPUs: kernels, copies and collectives timed alone, written as the tables that
// calibration reads (docs/cost_models.md), and fitted as tables of any other origin are.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "backend/probe.hpp"
#include "models/cost/fit_file.hpp"
#include "models/fit/rows.hpp"

namespace moesim::study {

// What is measured, and the row that it becomes. The list is the same for every GPU, but for collectives, which need
// two of them.
struct CalibrationProbe {
  fit::Schema schema = fit::Schema::gemm;
  backend::Probe probe;
  std::string cells;  // of the schema's table, between gpu, library and time_us
};
std::vector<CalibrationProbe> cuda_probe_list(int gpus);

struct CudaCalibrationOptions {
  std::string machine;  // whose data sheet holds; empty: the machine file that has the GPU's name
  std::string samples;  // folder that the measured rows are written to; empty: they are not kept
  // Called after every probe; false ends the measurement, and what there is by then is fitted.
  std::function<bool(double share, const std::string& what)> progress;
};

struct CudaCalibration {
  cost::FitFile fits;
  std::vector<std::string> left_out;  // probes that do not fit into memory, groups that cannot be fitted: why
};

// Throws InputError where no machine file has the GPU's name, and where nothing can be fitted.
CudaCalibration calibrate_cuda(backend::ProbeSource& source, const CudaCalibrationOptions& options);

}  // namespace moesim::study
