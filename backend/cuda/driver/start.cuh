// Starting kernels without <<<>>>, so that these files are C++ as well: tests/backend/cuda/emulator compiles them as
// they are and carries kernels out thread by thread.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "backend/cuda/driver/check.hpp"

namespace moesim::backend::gpu {

// Blocks along x, `room` bytes of dynamic shared memory for each. Without blocks there is nothing to do, and CUDA
// refuses an empty grid. The status is the launch's own; cudaGetLastError would also give what a query left ("not
// ready").
template <class... Formal, class... Actual>
void start(void (*kernel)(Formal...), unsigned blocks, unsigned threads, std::size_t room, cudaStream_t stream,
           const Actual&... with) {
  if (blocks == 0) return;
  cudaLaunchConfig_t how{};
  how.gridDim = dim3(blocks);
  how.blockDim = dim3(threads);
  how.dynamicSmemBytes = room;
  how.stream = stream;
  check(cudaLaunchKernelEx(&how, kernel, with...), "a kernel launch");
}

// A block's dynamic shared memory.
#ifdef __CUDACC__
__device__ inline float* shared_room() {
  extern __shared__ __align__(16) float room[];
  return room;
}
#else
float* shared_room();
#endif

}  // namespace moesim::backend::gpu
