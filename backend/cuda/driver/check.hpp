// One check per library: throws with the library's own words and what was being done.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace moesim::backend::gpu {

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status) + " (" +
                             cudaGetErrorName(status) + ")");
}

}  // namespace moesim::backend::gpu
