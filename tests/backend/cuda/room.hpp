// A tensor in host memory that a kernel reads or writes; NaN where nothing was written.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "backend/cuda/number.hpp"
#include "backend/tensor.hpp"

namespace moesim::test {

struct Room {
  std::vector<std::byte> bytes;
  backend::Tensor tensor;
  Room(DType t, std::int64_t rows, std::int64_t cols)
      : bytes(static_cast<std::size_t>(rows * cols * (bits(t) / 8)), std::byte{0xff}),
        tensor{bytes.data(), t, rows, cols} {}
  Room(DType t, std::int64_t rows, std::int64_t cols, std::mt19937& random) : Room(t, rows, cols) {
    std::normal_distribution<float> normal;
    for (std::int64_t i = 0; i < rows * cols; ++i) backend::gpu::store(tensor.data, t, i, normal(random));
  }
  [[nodiscard]] float at(std::int64_t row, std::int64_t col) const {
    return backend::gpu::load(tensor.at(row), tensor.dtype, col);
  }
};

// Equal but for the last places of the format: float's functions differ between libraries.
inline void close(const Room& a, const Room& b, float relative) {
  REQUIRE(a.bytes.size() == b.bytes.size());
  for (std::int64_t r = 0; r < a.tensor.rows; ++r) {
    float largest = 1e-6F;
    for (std::int64_t c = 0; c < a.tensor.cols; ++c) largest = std::max(largest, std::abs(a.at(r, c)));
    for (std::int64_t c = 0; c < a.tensor.cols; ++c) CHECK(std::abs(a.at(r, c) - b.at(r, c)) <= relative * largest);
  }
}
inline float ulp(DType t) { return t == DType::f32 ? 1e-6F : t == DType::bf16 ? 0x1p-8F : 0x1p-11F; }

}  // namespace moesim::test
