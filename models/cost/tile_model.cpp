// t = launch + min over tiles (r x c) and splits s of
//       p-norm( waves * (loop + epilogue), bytes / (e_mem B) ) + [s > 1] (split_us + 8 s m n / (split_rate B))
//   waves    = w = tiles * s / SMs; 1 up to one wave, then w + tail (ceil(w) - w)
//   loop     = q-norm( max(2 r c k g / (e F), (r + c) k b balance / F), step_us k b / 128 ),  k padded to a step
//   g        = `ragged` where the rows are no multiple of 16, else 1
//   epilogue = epilogue_us * r c / (128 * 256)
// F: flops of one SM, B: memory bandwidth, b: bytes per element of the inputs. Sources: NVIDIA, "Matrix multiplication
// background" (tile and wave quantization) and CUTLASS's efficient-GEMM notes (split-K, occupancy of small tiles); the
// norms stand for how well a pipeline hides the shorter part under the longer.

#include "models/cost/tile_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "moesim/error.hpp"

namespace moesim::cost {
namespace {

constexpr double k_step_bytes = 128;
constexpr double shortest_split = 256;  // no library splits k into shorter parts

struct Tile {
  std::size_t height;  // index into RowTiles::heights
  double cols;
};
constexpr std::array all_tiles{Tile{0, 32},  Tile{0, 64}, Tile{0, 128}, Tile{1, 64},  Tile{1, 128}, Tile{2, 64},
                               Tile{2, 128}, Tile{3, 64}, Tile{3, 128}, Tile{2, 256}, Tile{3, 256}};
constexpr std::array large_tiles{Tile{2, 64}, Tile{2, 128}, Tile{3, 64}, Tile{3, 128}, Tile{2, 256}, Tile{3, 256}};
constexpr std::array rows_tiles{Tile{2, 64}, Tile{2, 128}, Tile{3, 128}};
constexpr std::array splits{1, 2, 3, 4, 6, 8, 12, 16, 24, 32};

std::span<const Tile> choice(TilePolicy policy, double mean) {
  switch (policy) {
    case TilePolicy::best:
      return all_tiles;
    case TilePolicy::best_large:
      return large_tiles;
    case TilePolicy::by_rows:
      return std::span(rows_tiles).subspan(mean <= 64 ? 0 : mean <= 128 ? 1 : 2, 1);
  }
  return all_tiles;
}

// (a^p + b^p)^(1/p) without overflow.
double norm(double a, double b, double p) {
  const double large = std::max(a, b);
  if (large == 0) return 0;
  return large * std::pow(1 + std::pow(std::min(a, b) / large, p), 1 / p);
}

}  // namespace

std::span<const Field<TileParameters>> tile_fields() {
  using P = TileParameters;
  static constexpr std::array fields{
      Field<P>{&P::launch_us, "launch_us", "us: of a kernel without work", 2.5, 1.0, 0.5, 400},
      Field<P>{&P::matrix_efficiency, "matrix_efficiency", "of the matrix peak, in a tile's main loop", 0.85, 0.12, 0.2,
               1},
      Field<P>{&P::memory_efficiency, "memory_efficiency", "of the memory bandwidth, in a long stream", 0.85, 0.12, 0.1,
               1},
      Field<P>{&P::write_cost, "write_cost", "extra cost of a written byte, in bytes read", 0.1, 1.0, 1e-3, 2},
      Field<P>{&P::balance, "balance", "flop per byte: below this intensity a tile waits for its loads", 50, 0.5, 5,
               400},
      Field<P>{&P::step_us, "step_us", "us: latency of one 128-byte step of the k loop", 0.1, 0.7, 1e-3, 2},
      Field<P>{&P::overlap, "overlap", "norm that joins that latency and the work of a step: 1 = a sum, large = hidden",
               3, 0.7, 1, 8},
      Field<P>{&P::epilogue_us, "epilogue_us", "us: prologue and epilogue of a 128 x 256 tile", 2, 1.0, 0.01, 30},
      Field<P>{&P::tail, "tail", "of the last wave's idle part that is lost: 0 = none, 1 = all", 0.3, 1.5, 1e-3, 1},
      Field<P>{&P::sharpness, "sharpness", "norm that joins compute and memory: 1 = a sum, large = the longer alone",
               3.5, 0.4, 1, 10},
      Field<P>{&P::split_us, "split_us", "us: reduction after a split of k", 2, 0.7, 0.05, 20},
      Field<P>{&P::split_rate, "split_rate", "bandwidth of partial results, of the memory bandwidth", 4, 1.0, 0.1, 40},
      Field<P>{&P::ragged, "ragged", "factor on a tile's main loop where the rows are no multiple of 16", 1, 0.3, 1,
               3}};
  return fields;
}

std::span<const Field<QuantParameters>> quant_fields() {
  using P = QuantParameters;
  static constexpr std::array fields{
      Field<P>{&P::bytes_per_element, "quant_bytes", "bytes moved per element to quantize the input", 4, 0.7, 0.1, 20},
      Field<P>{&P::row_ns, "quant_row_ns", "ns per input row", 0.5, 2.0, 1e-3, 50},
      Field<P>{&P::element_ns, "quant_element_ns", "ns per element of one row: a row is quantized by one block", 0.05,
               2.0, 1e-4, 5}};
  return fields;
}

std::string_view to_string(TilePolicy policy) {
  switch (policy) {
    case TilePolicy::best:
      return "best";
    case TilePolicy::best_large:
      return "best_large";
    case TilePolicy::by_rows:
      return "by_rows";
  }
  return "best";
}

Device device_of(const Gpu& gpu, Math math) {
  const auto peak = gpu.peak_of(math);
  if (!peak)
    throw InputError({}, fmt::format("GPU '{}' has no {} matrix pipeline", gpu.name, to_string(math)),
                     "the machine file's [gpu.peak] lists the pipelines it has");
  return {static_cast<double>(gpu.sms), peak->value() / gpu.sms * 1e-6, gpu.memory_bandwidth.value() * 1e-6};
}

RowTiles RowTiles::dense(std::int64_t m, std::int64_t batch) {
  RowTiles out;
  if (m <= 0 || batch <= 0) return out;
  out.rows = static_cast<double>(m * batch);
  out.groups = static_cast<double>(batch);
  out.mean = static_cast<double>(m);
  for (std::size_t i = 0; i < heights.size(); ++i) {
    const std::int64_t tiles = (m + heights[i] - 1) / heights[i] * batch;
    out.tiles[i] = static_cast<double>(tiles);
  }
  out.expected = out.tiles;
  return out;
}

RowTiles RowTiles::grouped(std::span<const std::int32_t> m) {
  RowTiles out;
  std::array<std::int64_t, 4> tiles{};
  std::int64_t rows = 0;
  std::int64_t groups = 0;
  for (const std::int32_t rows_of_group : m) {
    rows += rows_of_group;
    groups += rows_of_group > 0 ? 1 : 0;
    for (std::size_t i = 0; i < heights.size(); ++i) tiles[i] += (rows_of_group + heights[i] - 1) / heights[i];
  }
  if (rows == 0) return out;
  out.rows = static_cast<double>(rows);
  out.groups = static_cast<double>(groups);
  out.mean = out.rows / static_cast<double>(m.size());
  const double busy = std::min(static_cast<double>(m.size()), std::max(1.0, out.rows));
  for (std::size_t i = 0; i < heights.size(); ++i) {
    out.tiles[i] = static_cast<double>(tiles[i]);
    out.expected[i] = std::ceil(out.mean / static_cast<double>(heights[i])) * busy;
  }
  return out;
}

double tile_us(const TileParameters& p, TilePolicy policy, const Device& device, const TileWork& work) {
  const RowTiles& rows = work.rows;
  if (rows.rows == 0 || work.n == 0 || work.k == 0) return 0;
  const double out_elements = rows.rows * work.n;
  const double bytes = work.weight_bytes * rows.groups * work.n * work.k + work.in_bytes * rows.rows * work.k +
                       work.out_bytes * out_elements * (1 + p.write_cost);
  const double memory = bytes / (device.bytes_per_us * p.memory_efficiency);
  const double step = k_step_bytes / work.in_bytes;
  const double load_us = work.in_bytes * p.balance / device.flops_per_us;
  const double math_us = (work.ragged ? p.ragged : 1) * 2 / (device.flops_per_us * p.matrix_efficiency);

  // Every tile and split with the least time it can take; norms are worked out only where they can win.
  struct Candidate {
    double least, busy, latency, epilogue, waves, actual_waves, reduction;
  };
  std::array<Candidate, all_tiles.size() * splits.size()> candidates;
  std::size_t count = 0;
  for (const Tile& tile : choice(policy, rows.mean)) {
    const double height = static_cast<double>(RowTiles::heights[tile.height]);
    const double across = std::ceil(work.n / tile.cols);
    const double area = height * tile.cols;
    const double per_k = std::max(math_us * area, load_us * (height + tile.cols));
    for (const int split : splits) {
      if (split > 1 && (!work.splits || policy == TilePolicy::by_rows || work.k / split < shortest_split)) break;
      const auto waves = [&](double tiles) {
        const double w = tiles * across * split / device.sms;
        return w <= 1 ? 1.0 : w + p.tail * (std::ceil(w) - w);
      };
      const double steps = std::ceil(work.k / split / step);
      Candidate& c = candidates[count++];
      c.busy = steps * step * per_k;
      c.latency = steps * p.step_us;
      c.epilogue = p.epilogue_us * area / (128.0 * 256.0);
      c.waves = waves(rows.expected[tile.height]);
      c.actual_waves = waves(rows.tiles[tile.height]);
      c.reduction = split == 1 ? 0 : p.split_us + 8 * split * out_elements / (p.split_rate * device.bytes_per_us);
      c.least = std::max(c.waves * (std::max(c.busy, c.latency) + c.epilogue), memory) + c.reduction;
    }
  }
  const auto exact = [&](const Candidate& c, double waves) {
    return norm(waves * (norm(c.busy, c.latency, p.overlap) + c.epilogue), memory, p.sharpness) + c.reduction;
  };
  const auto end = candidates.begin() + static_cast<std::ptrdiff_t>(count);
  const Candidate* chosen = std::min_element(candidates.begin(), end,
                                             [](const Candidate& a, const Candidate& b) { return a.least < b.least; });
  double estimate = exact(*chosen, chosen->waves);
  for (auto c = candidates.begin(); c != end; ++c) {
    if (c == chosen || c->least >= estimate) continue;
    const double other = exact(*c, c->waves);
    if (other >= estimate) continue;
    estimate = other;
    chosen = c;
  }
  return chosen->actual_waves == chosen->waves ? estimate : exact(*chosen, chosen->actual_waves);
}

double quant_us(const QuantParameters& q, const Device& device, double m, double k) {
  return m * k * q.bytes_per_element / device.bytes_per_us + (m * q.row_ns + k * q.element_ns) * 1e-3;
}

double bound_us(const Device& device, const TileWork& work) {
  const double out_elements = work.rows.rows * work.n;
  const double bytes = work.weight_bytes * work.rows.groups * work.n * work.k +
                       work.in_bytes * work.rows.rows * work.k + work.out_bytes * out_elements;
  return std::max(2 * out_elements * work.k / (device.flops_per_us * device.sms), bytes / device.bytes_per_us);
}

}  // namespace moesim::cost
