// dX = dY W^T and dW = X^T dY, by panels of rows.
#include <algorithm>

#include "backend/host/block.hpp"
#include "backend/host/training.hpp"

namespace moesim::backend {
namespace {

float* room_for(const Tensor& t, std::size_t slot, std::int64_t n, Scratch& scratch) {
  return t.dtype == DType::f32 ? nullptr : scratch.floats(slot, n);
}

// Rows [row, row + m) of dX from those of dY; w is [k, n], or [n, k].
void input_gradient(const Tensor& dy, const Block& w, const Tensor& dx, std::int64_t row, std::int64_t m,
                    bool transposed, Scratch& scratch) {
  const std::int64_t n = dy.cols;
  const std::int64_t k = dx.cols;
  float* dy_room = room_for(dy, 1, panel_rows * n, scratch);
  float* out = scratch.floats(2, panel_rows * k);
  for (std::int64_t i = 0; i < m; i += panel_rows) {
    const std::int64_t rows = std::min(panel_rows, m - i);
    const Block a = read(dy, row + i, rows, 0, n, dy_room);
    const Read d(a.data, rows, n, Stride(a.stride));
    Write result(out, rows, k, Stride(k));
    if (transposed) {
      result.noalias() = d * Read(w.data, n, k, Stride(w.stride));
    } else {
      result.noalias() = d * Read(w.data, k, n, Stride(w.stride)).transpose();
    }
    from_float(out, dx.dtype, rows * k, dx.at(row + i));
  }
}

// The matrix at row `first` of dW, from rows [row, row + m) of X and dY: summed in float, rounded once. add: to what is
// in `sum` already.
void weight_gradient(const Tensor& x, const Tensor& dy, std::int64_t row, std::int64_t m, bool transposed, float* sum,
                     Scratch& scratch) {
  const std::int64_t n = dy.cols;
  const std::int64_t k = x.cols;
  float* x_room = room_for(x, 1, panel_rows * k, scratch);
  float* dy_room = room_for(dy, 2, panel_rows * n, scratch);
  for (std::int64_t i = 0; i < m; i += panel_rows) {
    const std::int64_t rows = std::min(panel_rows, m - i);
    const Block a = read(x, row + i, rows, 0, k, x_room);
    const Block b = read(dy, row + i, rows, 0, n, dy_room);
    const Read in(a.data, rows, k, Stride(a.stride));
    const Read d(b.data, rows, n, Stride(b.stride));
    if (transposed) {
      Write(sum, n, k, Stride(k)).noalias() += d.transpose() * in;
    } else {
      Write(sum, k, n, Stride(n)).noalias() += in.transpose() * d;
    }
  }
}

}  // namespace

void run(const InputGradientCall& c, Scratch& scratch) {
  const Block w = read(c.w, 0, c.w.rows, 0, c.w.cols, room_for(c.w, 0, c.w.rows * c.w.cols, scratch));
  input_gradient(c.dy, w, c.dx, 0, c.dy.rows, c.transposed, scratch);
}

void run(const WeightGradientCall& c, Scratch& scratch) {
  const std::int64_t size = c.dw.rows * c.dw.cols;
  float* sum = scratch.floats(0, size);
  std::fill_n(sum, size, 0.0F);
  weight_gradient(c.x, c.dy, 0, c.x.rows, c.transposed, sum, scratch);
  from_float(sum, c.dw.dtype, size, c.dw.at(0));
}

void run(const GroupedInputGradientCall& c, Scratch& scratch) {
  const std::int64_t k = c.work.k;
  std::int64_t row = 0;
  for (std::size_t g = 0; g < c.rows.size(); ++g) {
    if (c.rows[g] == 0) continue;
    const std::int64_t matrix = static_cast<std::int64_t>(g) % c.work.matrices;
    const Block w = read(c.w, matrix * k, k, 0, c.work.n, room_for(c.w, 0, k * c.work.n, scratch));
    input_gradient(c.dy, w, c.dx, row, c.rows[g], false, scratch);
    row += c.rows[g];
  }
}

// Groups share a matrix where g mod matrices is the same; a matrix without rows has gradient 0.
void run(const GroupedWeightGradientCall& c, Scratch& scratch) {
  const std::int64_t k = c.work.k;
  const std::int64_t size = k * c.work.n;
  float* sum = scratch.floats(0, size);
  for (std::int64_t matrix = 0; matrix < c.dw.rows / k; ++matrix) {
    std::fill_n(sum, size, 0.0F);
    std::int64_t row = 0;
    for (std::size_t g = 0; g < c.rows.size(); ++g) {
      if (static_cast<std::int64_t>(g) % c.work.matrices == matrix)
        weight_gradient(c.x, c.dy, row, c.rows[g], false, sum, scratch);
      row += c.rows[g];
    }
    from_float(sum, c.dw.dtype, size, c.dw.at(matrix * k));
  }
}

}  // namespace moesim::backend
