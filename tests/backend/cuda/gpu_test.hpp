// The driver under gpu_test.cpp: a GPU's (gpu_main.cpp), or one that carries kernels out by emulation (emulator/).
#pragma once

#include "backend/cuda/device.hpp"

namespace moesim::test {

backend::gpu::Driver& driver();

}  // namespace moesim::test
