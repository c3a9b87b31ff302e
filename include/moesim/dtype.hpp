// Number formats: how a tensor is stored (DType), and which matrix pipeline multiplies it (Math).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "moesim/units.hpp"

namespace moesim {

enum class DType : std::uint8_t { f32, bf16, f16, fp8, int8, fp4, i32 };

// TF32 is a way to multiply float32 tensors, not a way to store them; hence a type of its own.
enum class Math : std::uint8_t { f32, tf32, bf16, f16, fp8, int8, fp4 };

inline constexpr std::array all_dtypes{DType::f32,  DType::bf16, DType::f16, DType::fp8,
                                       DType::int8, DType::fp4,  DType::i32};
inline constexpr std::array all_maths{Math::f32, Math::tf32, Math::bf16, Math::f16, Math::fp8, Math::int8, Math::fp4};

constexpr int bits(DType t) {
  switch (t) {
    case DType::f32:
    case DType::i32:
      return 32;
    case DType::bf16:
    case DType::f16:
      return 16;
    case DType::fp8:
    case DType::int8:
      return 8;
    case DType::fp4:
      return 4;
  }
  return 0;
}

// Bytes of n elements, rounded up to whole bytes (fp4 packs two to a byte).
inline Bytes storage(std::int64_t elements, DType t) { return Bytes((detail::checked_mul(elements, bits(t)) + 7) / 8); }

constexpr std::string_view to_string(DType t) {
  constexpr std::array<std::string_view, 7> names{"f32", "bf16", "f16", "fp8", "int8", "fp4", "i32"};
  return names[static_cast<std::size_t>(t)];
}
constexpr std::string_view to_string(Math t) {
  constexpr std::array<std::string_view, 7> names{"f32", "tf32", "bf16", "f16", "fp8", "int8", "fp4"};
  return names[static_cast<std::size_t>(t)];
}
constexpr std::optional<DType> parse_dtype(std::string_view s) {
  for (DType t : all_dtypes)
    if (to_string(t) == s) return t;
  return std::nullopt;
}
constexpr std::optional<Math> parse_math(std::string_view s) {
  for (Math t : all_maths)
    if (to_string(t) == s) return t;
  return std::nullopt;
}

// The pipeline that multiplies operands stored as `t` when nothing else is asked for.
constexpr Math natural_math(DType t) {
  switch (t) {
    case DType::f32:
    case DType::i32:
      return Math::f32;
    case DType::bf16:
      return Math::bf16;
    case DType::f16:
      return Math::f16;
    case DType::fp8:
      return Math::fp8;
    case DType::int8:
      return Math::int8;
    case DType::fp4:
      return Math::fp4;
  }
  return Math::f32;
}

}  // namespace moesim
