// CUDA's runtime, as far as backend/cuda/driver/*.cu use it, for an ordinary C++ compiler: found before CUDA's own
// headers. Kernels are carried out by emulator.cpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>
#include <typeinfo>

#include "tests/backend/cuda/emulator/emulator.hpp"

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __shared__ static  // one block at a time

using cudaStream_t = struct CUstream_st*;
enum cudaError_t { cudaSuccess };
inline const char* cudaGetErrorString(cudaError_t) { return ""; }
inline const char* cudaGetErrorName(cudaError_t) { return ""; }

using dim3 = moesim::test::Dim3;
inline const dim3& threadIdx = moesim::test::here.thread;
inline const dim3& blockIdx = moesim::test::here.block;
inline const dim3& blockDim = moesim::test::here.threads;
inline const dim3& gridDim = moesim::test::here.blocks;

// Faults are thrown, so the status is always that of success.
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};
template <class... Formal, class... Actual>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* how, void (*kernel)(Formal...), const Actual&... with) {
  static_assert((std::is_trivially_copyable_v<Formal> && ...), "parameters are copied to the GPU as bytes");
  static_assert((sizeof(Formal) + ... + 0) <= 4096, "parameters of a kernel");
  moesim::test::run_kernel(typeid(kernel).name(), how->gridDim, how->blockDim, how->dynamicSmemBytes,
                           [&] { kernel(Formal(with)...); });
  return cudaSuccess;
}

inline void __syncthreads(std::source_location at = std::source_location::current()) { moesim::test::meet_block(at); }
inline void __syncwarp(unsigned lanes = 0xffffffffU, std::source_location at = std::source_location::current()) {
  moesim::test::meet_lanes(lanes, 0, 0, at);
}
template <class T>
T __shfl_xor_sync(unsigned lanes, T v, int with, int = 32, std::source_location at = std::source_location::current()) {
  static_assert(sizeof(T) == 4);
  std::uint32_t word = 0;
  std::memcpy(&word, &v, sizeof v);
  word = moesim::test::meet_lanes(lanes, word, with, at);
  std::memcpy(&v, &word, sizeof v);
  return v;
}
