// The CUDA executor over any driver: the module's, or in tests the processor's.
#pragma once

#include <string>

#include "backend/cuda/device.hpp"
#include "backend/executor.hpp"

namespace moesim::backend::gpu {

// The module, opened once, or why there is none or it has no device; a driver may be there beside trouble.
struct Loaded {
  Driver* driver = nullptr;
  std::string trouble;
};
const Loaded& loaded();

// Throws Refused; std::runtime_error when a device fails or does not finish.
Measurement measure(Driver& driver, const Plan& plan, const Inputs& inputs, const RunOptions& options);

}  // namespace moesim::backend::gpu
