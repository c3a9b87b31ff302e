// Blocks of tensors as float matrices, for Eigen.
#pragma once

#include <Eigen/Core>
#include <cstdint>

#include "backend/host/tensor.hpp"

namespace moesim::backend {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Stride = Eigen::OuterStride<>;
using Read = Eigen::Map<const Matrix, 0, Stride>;
using Write = Eigen::Map<Matrix, 0, Stride>;

constexpr std::int64_t panel_rows = 256;  // of X and Y that are converted at a time

// A block of a tensor in float: in place where it is stored so, else converted.
struct Block {
  const float* data;
  std::int64_t stride;
};

inline Block read(const Tensor& t, std::int64_t row, std::int64_t rows, std::int64_t col, std::int64_t cols,
                  float* room) {
  if (t.dtype == DType::f32) return {reinterpret_cast<const float*>(t.at(row, col)), t.cols};
  load(t, row, rows, col, cols, room);
  return {room, cols};
}

}  // namespace moesim::backend
