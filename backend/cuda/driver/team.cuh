// Teams of lanes that do one row: a warp or a part of it, or a block of whole warps.
#pragma once

#include "backend/cuda/bodies.hpp"
#include "backend/cuda/driver/kernels.hpp"
#include "backend/cuda/driver/start.cuh"

namespace moesim::backend::gpu {

inline constexpr int warp = 32;

__device__ inline Score better(const Score& a, const Score& b) { return before(b, a) ? b : a; }

// `width` lanes side by side in a warp, a power of two: a warp holds several teams, which need not go together.
template <int width>
struct LaneTeam {
  static_assert(width > 0 && warp % width == 0);
  __device__ int lane() const { return static_cast<int>(threadIdx.x) % width; }
  __device__ int lanes() const { return width; }
  __device__ void barrier() const { __syncwarp(mask()); }
  __device__ float sum(float v) const {
    for (int step = width / 2; step > 0; step /= 2) v += __shfl_xor_sync(mask(), v, step);
    return v;
  }
  __device__ float most(float v) const {
    for (int step = width / 2; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(mask(), v, step));
    return v;
  }
  __device__ Score best(Score s) const {
    for (int step = width / 2; step > 0; step /= 2)
      s = better(s, {__shfl_xor_sync(mask(), s.value, step), __shfl_xor_sync(mask(), s.id, step)});
    return s;
  }

 private:
  __device__ unsigned mask() const { return (0xffffffffU >> (warp - width)) << (threadIdx.x % warp / width * width); }
};
using WarpTeam = LaneTeam<warp>;

struct BlockTeam {
  __device__ int lane() const { return static_cast<int>(threadIdx.x); }
  __device__ int lanes() const { return static_cast<int>(blockDim.x); }
  __device__ void barrier() const { __syncthreads(); }
  __device__ float sum(float v) const {
    return over_warps(WarpTeam{}.sum(v), 0.0F, [](float a, float b) { return a + b; });
  }
  __device__ float most(float v) const {
    return over_warps(WarpTeam{}.most(v), -INFINITY, [](float a, float b) { return fmaxf(a, b); });
  }

 private:
  // Every thread adds up the warps' results in the same order.
  template <class Join>
  __device__ float over_warps(float v, float start, Join join) const {
    __shared__ float of_warp[warp];
    __syncthreads();  // an earlier result has been read
    if (lane() % warp == 0) of_warp[lane() / warp] = v;
    __syncthreads();
    for (int w = 0; w < lanes() / warp; ++w) start = join(start, of_warp[w]);
    return start;
  }
};

// body(team, command, row) for every row, a block each.
template <class Body, class Command>
__global__ void rows_by_block(const Command c, std::int64_t rows) {
  for (std::int64_t i = blockIdx.x; i < rows; i += gridDim.x) Body{}(BlockTeam{}, c, i);
}
// The same with `width` lanes each.
template <int width, class Body, class Command>
__global__ void rows_by_lanes(const Command c, std::int64_t rows) {
  const std::int64_t teams = static_cast<std::int64_t>(gridDim.x) * (blockDim.x / width);
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / width) + threadIdx.x / width; i < rows;
       i += teams)
    Body{}(LaneTeam<width>{}, c, i);
}

inline unsigned grid(std::int64_t blocks) {
  constexpr std::int64_t most = (std::int64_t{1} << 31) - 1;
  return static_cast<unsigned>(blocks < most ? blocks : most);
}

template <class Body, class Command>
void launch_by_block(const Command& c, std::int64_t rows, int threads, cudaStream_t stream) {
  start(rows_by_block<Body, Command>, grid(rows), static_cast<unsigned>(threads), 0, stream, c, rows);
}
template <int width, class Body, class Command>
void launch_by_lanes(const Command& c, std::int64_t rows, cudaStream_t stream) {
  constexpr int threads = 256;
  constexpr int teams = threads / width;
  start(rows_by_lanes<width, Body, Command>, grid((rows + teams - 1) / teams), threads, 0, stream, c, rows);
}
template <class Body, class Command>
void launch_by_warp(const Command& c, std::int64_t rows, cudaStream_t stream) {
  launch_by_lanes<warp, Body>(c, rows, stream);
}

// As many threads as a row has packs, within reason.
inline int threads_for(std::int64_t cols) {
  const std::int64_t packs = (cols + pack - 1) / pack;
  if (packs <= 32) return 32;
  if (packs <= 64) return 64;
  return packs <= 128 ? 128 : 256;
}

}  // namespace moesim::backend::gpu
