// How long a matrix kernel runs, from its tiles: quantization over tiles and SMs, the loop over k, memory, split-K.
// The equations, their sources and their limits are in docs/cost_models.md, "Matrix kernels".
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "models/cost/parameters.hpp"
#include "moesim/machine.hpp"

namespace moesim::cost {

struct TileParameters {
  double launch_us;          // t0
  double matrix_efficiency;  // e
  double memory_efficiency;  // e_mem
  double write_cost;         // w
  double balance;            // flop per byte
  double step_us;            // one 128-byte step of the k loop
  double overlap;            // q
  double epilogue_us;        // of a 128 x 256 tile
  double tail;               // 0 = fractional waves, 1 = whole waves
  double sharpness;          // p
  double split_us;
  double split_rate;  // of memory bandwidth
  double ragged;      // factor on a tile's main loop where the rows are no multiple of 16
};
std::span<const Field<TileParameters>> tile_fields();

// Inputs that arrive in bf16 and are multiplied in fp8 are quantized by a kernel of their own.
struct QuantParameters {
  double bytes_per_element;  // moved per element of X
  double row_ns;             // per row of X
  double element_ns;         // latency of one row, per element
};
std::span<const Field<QuantParameters>> quant_fields();

// How the library chooses the tile of a launch.
enum class TilePolicy : std::uint8_t {
  best,        // cuBLAS, Triton with autotuning: the fastest of all tiles and splits of k
  best_large,  // the same over tiles of at least 64 rows (CUTLASS grouped GEMM)
  by_rows,     // CUTLASS dispatch tables: 64 x 64 up to 64 rows, 64 x 128 up to 128, else 128 x 128; k is never split
};
inline constexpr std::array all_tile_policies{TilePolicy::best, TilePolicy::best_large, TilePolicy::by_rows};
std::string_view to_string(TilePolicy policy);

// One GPU as a tile sees it, at data-sheet rates.
struct Device {
  double sms = 0;
  double flops_per_us = 0;  // of one SM, in the pipeline that multiplies
  double bytes_per_us = 0;  // of the memory
};
// Throws InputError when the GPU lacks the pipeline.
Device device_of(const Gpu& gpu, Math math);

// Rows of the groups of one launch, by tile height. A dense GEMM is one group.
struct RowTiles {
  static constexpr std::array<std::int64_t, 4> heights{16, 32, 64, 128};
  double rows = 0;                // over all groups
  double groups = 0;              // that have rows: their matrices are read
  std::array<double, 4> tiles{};  // sum over groups of ceil(rows of the group / height)
  // The library chooses the tile before it knows how rows fall on groups, from their mean.
  std::array<double, 4> expected{};
  double mean = 0;  // rows per group, those without rows included

  static RowTiles dense(std::int64_t m, std::int64_t batch = 1);
  static RowTiles grouped(std::span<const std::int32_t> m);
};

struct TileWork {
  RowTiles rows;
  double n = 0, k = 0;
  double in_bytes = 2, weight_bytes = 2, out_bytes = 2;  // per element
  bool splits = true;                                    // k may be split (dense GEMM)
  bool ragged = false;                                   // the rows of a dense GEMM are no multiple of 16
};

// Without the launch and without the quantization of inputs; 0 for no work.
double tile_us(const TileParameters& p, TilePolicy policy, const Device& device, const TileWork& work);
double quant_us(const QuantParameters& q, const Device& device, double m, double k);

// max(flops / peak, compulsory bytes / bandwidth): what no kernel beats.
double bound_us(const Device& device, const TileWork& work);

}  // namespace moesim::cost
