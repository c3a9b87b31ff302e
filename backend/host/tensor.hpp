// A rank's buffer as the kernels see it, and the number formats that the host computes with: float32, bfloat16 and
// float16 are stored as such and computed in float; int32 is only moved.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "moesim/dtype.hpp"

namespace moesim::backend {

struct Tensor {
  std::byte* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;

  [[nodiscard]] std::int64_t element_bytes() const { return bits(dtype) / 8; }
  [[nodiscard]] std::int64_t bytes() const { return rows * cols * element_bytes(); }
  [[nodiscard]] std::byte* at(std::int64_t row, std::int64_t col = 0) const {
    return data + (row * cols + col) * element_bytes();
  }
};

constexpr bool computable(DType t) { return t == DType::f32 || t == DType::bf16 || t == DType::f16; }

// n consecutive elements, rounded to nearest even on the way back. Only for computable formats.
void to_float(const std::byte* from, DType dtype, std::int64_t n, float* to);
void from_float(const float* from, DType dtype, std::int64_t n, std::byte* to);

// A block of a tensor as floats, row-major without gaps.
void load(const Tensor& t, std::int64_t row, std::int64_t rows, std::int64_t col, std::int64_t cols, float* to);

// Float workspace of one rank, kept between ops.
class Scratch {
 public:
  float* floats(std::size_t slot, std::int64_t n) {
    if (slot >= slots_.size()) slots_.resize(slot + 1);
    if (slots_[slot].size() < static_cast<std::size_t>(n)) slots_[slot].resize(static_cast<std::size_t>(n));
    return slots_[slot].data();
  }

 private:
  std::vector<std::vector<float>> slots_;
};

}  // namespace moesim::backend
