#include "backend/host/tensor.hpp"

#include <Eigen/Core>
#include <cstring>

namespace moesim::backend {
namespace {

// Through memcpy: rows of a buffer need not be aligned for the compiler.
template <class T>
T get(const std::byte* from, std::int64_t i) {
  T v;
  std::memcpy(&v, from + i * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return v;
}
template <class T>
void put(std::byte* to, std::int64_t i, T v) {
  std::memcpy(to + i * static_cast<std::int64_t>(sizeof(T)), &v, sizeof(T));
}

float bf16_to_float(std::uint16_t v) {
  const std::uint32_t wide = static_cast<std::uint32_t>(v) << 16;
  float f = 0;
  std::memcpy(&f, &wide, sizeof f);
  return f;
}

std::uint16_t float_to_bf16(float f) {
  std::uint32_t u = 0;
  std::memcpy(&u, &f, sizeof u);
  const std::uint32_t rounded = (u + 0x7fffU + ((u >> 16) & 1U)) >> 16;
  const bool nan = (u & 0x7fffffffU) > 0x7f800000U;
  return static_cast<std::uint16_t>(nan ? 0x7fc0U : rounded);
}

}  // namespace

void to_float(const std::byte* from, DType dtype, std::int64_t n, float* to) {
  if (n == 0) return;  // no rows may have no memory
  switch (dtype) {
    case DType::f32:
      std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
      return;
    case DType::bf16:
      for (std::int64_t i = 0; i < n; ++i) to[i] = bf16_to_float(get<std::uint16_t>(from, i));
      return;
    case DType::f16:
      for (std::int64_t i = 0; i < n; ++i)
        to[i] = Eigen::half_impl::half_to_float(Eigen::half_impl::raw_uint16_to_half(get<std::uint16_t>(from, i)));
      return;
    case DType::fp8:
    case DType::int8:
    case DType::fp4:
    case DType::i32:
      break;
  }
  std::memset(to, 0, static_cast<std::size_t>(n) * sizeof(float));
}

void from_float(const float* from, DType dtype, std::int64_t n, std::byte* to) {
  if (n == 0) return;
  switch (dtype) {
    case DType::f32:
      std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
      return;
    case DType::bf16:
      for (std::int64_t i = 0; i < n; ++i) put(to, i, float_to_bf16(from[i]));
      return;
    case DType::f16:
      for (std::int64_t i = 0; i < n; ++i) put(to, i, Eigen::half_impl::float_to_half_rtne(from[i]).x);
      return;
    case DType::fp8:
    case DType::int8:
    case DType::fp4:
    case DType::i32:
      return;
  }
}

void load(const Tensor& t, std::int64_t row, std::int64_t rows, std::int64_t col, std::int64_t cols, float* to) {
  if (col == 0 && cols == t.cols) return to_float(t.at(row), t.dtype, rows * cols, to);
  for (std::int64_t r = 0; r < rows; ++r) to_float(t.at(row + r, col), t.dtype, cols, to + r * cols);
}

}  // namespace moesim::backend
