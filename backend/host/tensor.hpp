// The number formats that the host computes with: float32, bfloat16 and float16 are stored as such and computed in
// float.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/tensor.hpp"

namespace moesim::backend {

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
