#include <algorithm>

#include "backend/host/block.hpp"
#include "backend/host/kernels.hpp"

namespace moesim::backend {
namespace {

constexpr std::int64_t block = 128;  // rows and columns of a block-sparse block

// y = x w (or x w^T), both in float.
void product(const Block& x, const Block& w, std::int64_t m, std::int64_t n, std::int64_t k, bool transposed, float* y,
             std::int64_t y_stride) {
  const Read a(x.data, m, k, Stride(x.stride));
  Write out(y, m, n, Stride(y_stride));
  if (transposed) {
    out.noalias() = a * Read(w.data, n, k, Stride(w.stride)).transpose();
  } else {
    out.noalias() = a * Read(w.data, k, n, Stride(w.stride));
  }
}

// Rows [row, row + m) of columns [x_col, x_col + k) of X times a matrix into columns [y_col, y_col + n) of Y.
void panels(const Tensor& x, std::int64_t x_col, const Block& w, const Tensor& y, std::int64_t y_col, std::int64_t row,
            std::int64_t m, std::int64_t n, std::int64_t k, bool transposed, Scratch& scratch) {
  if (m == 0 || n == 0) return;
  const bool in_place = x.dtype == DType::f32 && y.dtype == DType::f32;
  const std::int64_t step = in_place ? m : panel_rows;
  for (std::int64_t i = 0; i < m; i += step) {
    const std::int64_t rows = std::min(step, m - i);
    float* x_room = x.dtype == DType::f32 ? nullptr : scratch.floats(1, panel_rows * k);
    const Block a = read(x, row + i, rows, x_col, k, x_room);
    if (y.dtype == DType::f32) {
      product(a, w, rows, n, k, transposed, reinterpret_cast<float*>(y.at(row + i, y_col)), y.cols);
      continue;
    }
    float* out = scratch.floats(2, panel_rows * n);
    product(a, w, rows, n, k, transposed, out, n);
    for (std::int64_t r = 0; r < rows; ++r) from_float(out + r * n, y.dtype, n, y.at(row + i + r, y_col));
  }
}

// The same with rows padded by zeros to whole blocks, as a block-sparse kernel computes them.
void padded(const Tensor& x, const Block& w, const Tensor& y, std::int64_t row, std::int64_t m, std::int64_t n,
            std::int64_t k, Scratch& scratch) {
  for (std::int64_t i = 0; i < m; i += block) {
    const std::int64_t rows = std::min(block, m - i);
    float* in = scratch.floats(1, block * k);
    load(x, row + i, rows, 0, k, in);
    std::fill(in + rows * k, in + block * k, 0.0F);
    float* out = scratch.floats(2, block * n);
    product({in, k}, w, block, n, k, false, out, n);
    from_float(out, y.dtype, rows * n, y.at(row + i));
  }
}

}  // namespace

void gemm(const Gemm& work, const Tensor& x, const Tensor& w, const Tensor& y, bool transposed, Scratch& scratch) {
  const std::int64_t part = x.cols / work.batch;
  for (std::int64_t b = 0; b < work.batch; ++b) {
    const std::int64_t rows = transposed ? work.n : work.k;
    const std::int64_t cols = transposed ? work.k : work.n;
    float* room = w.dtype == DType::f32 ? nullptr : scratch.floats(0, work.n * work.k);
    panels(x, b * part, read(w, b * rows, rows, 0, cols, room), y, b * work.n, 0, x.rows, work.n, work.k, transposed,
           scratch);
  }
}

void grouped_gemm(const GroupedGemm& work, std::span<const std::int32_t> rows, const Tensor& x, const Tensor& w,
                  const Tensor& y, Scratch& scratch) {
  std::int64_t row = 0;
  for (std::size_t g = 0; g < rows.size(); ++g) {
    const std::int64_t m = rows[g];
    if (m == 0) continue;
    const std::int64_t matrix = static_cast<std::int64_t>(g) % work.matrices;
    float* room = w.dtype == DType::f32 ? nullptr : scratch.floats(0, work.n * work.k);
    const Block weights = read(w, matrix * work.k, work.k, 0, work.n, room);
    if (work.block_sparse) {
      padded(x, weights, y, row, m, work.n, work.k, scratch);
    } else {
      panels(x, 0, weights, y, 0, row, m, work.n, work.k, false, scratch);
    }
    row += m;
  }
}

}  // namespace moesim::backend
