// A rank's buffer as kernels see it: rows and columns at an address, in host or device memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "moesim/dtype.hpp"

namespace moesim::backend {

struct Tensor {
  std::byte* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;

  [[nodiscard]] constexpr std::int64_t element_bytes() const { return bits(dtype) / 8; }
  [[nodiscard]] constexpr std::int64_t bytes() const { return rows * cols * element_bytes(); }
  [[nodiscard]] constexpr std::byte* at(std::int64_t row, std::int64_t col = 0) const {
    return data + (row * cols + col) * element_bytes();
  }
};

// Number formats that executors compute with: stored as such, summed in float. int32 is only moved.
constexpr bool computable(DType t) { return t == DType::f32 || t == DType::bf16 || t == DType::f16; }

}  // namespace moesim::backend
