// Calibration of this computer as `moesim run --backend host` uses it: small plans of many shapes are run op by op, and
// the terms of the host's cost model (models/cost/host_model.hpp) are fitted to what their ops took.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "backend/executor.hpp"
#include "models/cost/fit_file.hpp"
#include "models/hardware/machine.hpp"

namespace moesim::study {

struct HostCalibrationOptions {
  int probes = 48;            // plans; a fifth of them is held out in turn
  int repeats = 5;            // of each; every op counts with its fastest run
  DType format = DType::f32;  // of weights and activations
  std::uint64_t seed = 1;
  // Called after every probe; false ends the measurement, and what there is by then is fitted.
  std::function<bool(double share)> progress;
};

// Parameters, rows, versions, and errors on held-out plans. Throws InputError where too few probes were measured.
cost::FitFile calibrate_host(const backend::Executor& executor, const HostCalibrationOptions& options);

}  // namespace moesim::study
