// Number formats in kernels: stored as f32, bf16, f16 or fp8 (e4m3), computed in float, rounded to nearest even.
// Compiled for the GPU and, with the same results bit for bit, for the processor that tests them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "moesim/dtype.hpp"

#ifdef __CUDACC__
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#define MOESIM_BOTH __host__ __device__
#else
#define MOESIM_BOTH
#endif

namespace moesim::backend::gpu {

// Elements that a lane handles at once: 16 bytes of a two-byte format.
inline constexpr int pack = 8;
struct Pack {
  float v[pack];
};

template <class To, class From>
MOESIM_BOTH To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

MOESIM_BOTH inline float bf16_to_float(std::uint16_t v) { return bits_as<float>(static_cast<std::uint32_t>(v) << 16); }
MOESIM_BOTH inline std::uint16_t float_to_bf16(float f) {
  const auto u = bits_as<std::uint32_t>(f);
  if ((u & 0x7fffffffU) > 0x7f800000U) return 0x7fc0U;
  return static_cast<std::uint16_t>((u + 0x7fffU + ((u >> 16) & 1U)) >> 16);
}

// IEEE 754 binary16: 5 bits of exponent (bias 15), 10 of fraction.
MOESIM_BOTH inline float f16_to_float(std::uint16_t v) {
#ifdef __CUDA_ARCH__
  return __half2float(bits_as<__half>(v));
#else
  const std::uint32_t sign = static_cast<std::uint32_t>(v & 0x8000U) << 16;
  const std::uint32_t rest = static_cast<std::uint32_t>(v & 0x7fffU) << 13;
  if (rest >= (0x1fU << 23)) return bits_as<float>(sign | 0x7f800000U | (rest & 0x7fffffU));  // infinity, NaN
  // 2^112 moves the exponent's bias from 15 to 127, and makes subnormals normal.
  return bits_as<float>(sign | bits_as<std::uint32_t>(bits_as<float>(rest) * 0x1p112F));
#endif
}
MOESIM_BOTH inline std::uint16_t float_to_f16(float f) {
#ifdef __CUDA_ARCH__
  return bits_as<std::uint16_t>(__float2half_rn(f));
#else
  const auto u = bits_as<std::uint32_t>(f);
  const std::uint32_t sign = (u >> 16) & 0x8000U;
  const std::uint32_t a = u & 0x7fffffffU;
  if (a > 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7fffU);
  if (a >= 0x477ff000U) return static_cast<std::uint16_t>(sign | 0x7c00U);  // 65520 and more round to infinity
  if (a < 0x38800000U) {
    // Below 2^-14: adding 2^-1 lets the addition round to a multiple of 2^-24.
    const float sum = bits_as<float>(a) + 0.5F;
    return static_cast<std::uint16_t>(sign | (bits_as<std::uint32_t>(sum) - 0x3f000000U));
  }
  return static_cast<std::uint16_t>(sign | ((a - 0x38000000U + 0xfffU + ((a >> 13) & 1U)) >> 13));
#endif
}

// OCP FP8 e4m3: 4 bits of exponent (bias 7), 3 of fraction, no infinity; +-448 is the largest, beyond it saturates.
MOESIM_BOTH inline float fp8_to_float(std::uint8_t v) {
  const std::uint32_t sign = static_cast<std::uint32_t>(v & 0x80U) << 24;
  const std::uint32_t rest = v & 0x7fU;
  if (rest == 0x7fU) return bits_as<float>(sign | 0x7fc00000U);
  return bits_as<float>(sign | bits_as<std::uint32_t>(bits_as<float>(rest << 20) * 0x1p120F));
}
MOESIM_BOTH inline std::uint8_t float_to_fp8(float f) {
#ifdef __CUDA_ARCH__
  return static_cast<std::uint8_t>(__nv_cvt_float_to_fp8(f, __NV_SATFINITE, __NV_E4M3));
#else
  const auto u = bits_as<std::uint32_t>(f);
  const std::uint32_t sign = (u >> 24) & 0x80U;
  const std::uint32_t a = u & 0x7fffffffU;
  if (a > 0x7f800000U) return static_cast<std::uint8_t>(sign | 0x7fU);
  if (a >= 0x43e00000U) return static_cast<std::uint8_t>(sign | 0x7eU);  // 448
  if (a < 0x3c800000U) {
    // Below 2^-6: adding 2^14 lets the addition round to a multiple of 2^-9.
    const float sum = bits_as<float>(a) + 0x1p14F;
    return static_cast<std::uint8_t>(sign | (bits_as<std::uint32_t>(sum) - 0x46800000U));
  }
  const std::uint32_t rounded = (a - 0x3c000000U + 0x7ffffU + ((a >> 20) & 1U)) >> 20;
  return static_cast<std::uint8_t>(sign | (rounded < 0x7eU ? rounded : 0x7eU));
#endif
}

MOESIM_BOTH inline int bytes_of(DType t) {
  return t == DType::f32 || t == DType::i32 ? 4 : t == DType::bf16 || t == DType::f16 ? 2 : 1;
}

// One instruction on the GPU, for which an address that is no multiple of T's size is a fault; the processor's compiler
// wants memcpy.
template <class T>
void need_aligned(const std::byte* p) {
  if (reinterpret_cast<std::uintptr_t>(p) % alignof(T) != 0) throw std::logic_error("an address that is not aligned");
}
template <class T>
MOESIM_BOTH T read_as(const std::byte* from) {
#ifdef __CUDA_ARCH__
  return *reinterpret_cast<const T*>(from);
#else
  need_aligned<T>(from);
  T v;
  memcpy(&v, from, sizeof v);
  return v;
#endif
}
template <class T>
MOESIM_BOTH void write_as(std::byte* to, T v) {
#ifdef __CUDA_ARCH__
  *reinterpret_cast<T*>(to) = v;
#else
  need_aligned<T>(to);
  memcpy(to, &v, sizeof v);
#endif
}

// Element i at `from`; formats that are only moved read as zero.
MOESIM_BOTH inline float load(const std::byte* from, DType t, std::int64_t i) {
  from += i * bytes_of(t);
  switch (t) {
    case DType::f32:
      return read_as<float>(from);
    case DType::bf16:
      return bf16_to_float(read_as<std::uint16_t>(from));
    case DType::f16:
      return f16_to_float(read_as<std::uint16_t>(from));
    case DType::fp8:
      return fp8_to_float(read_as<std::uint8_t>(from));
    case DType::int8:
    case DType::fp4:
    case DType::i32:
      break;
  }
  return 0;
}
MOESIM_BOTH inline void store(std::byte* to, DType t, std::int64_t i, float v) {
  to += i * bytes_of(t);
  switch (t) {
    case DType::f32:
      write_as(to, v);
      return;
    case DType::bf16:
      write_as(to, float_to_bf16(v));
      return;
    case DType::f16:
      write_as(to, float_to_f16(v));
      return;
    case DType::fp8:
      write_as(to, float_to_fp8(v));
      return;
    case DType::int8:
    case DType::fp4:
    case DType::i32:
      return;
  }
}

// What a lane moves in one instruction.
struct alignas(16) Wide {
  std::uint32_t word[4];
};
struct alignas(8) Half {
  std::uint32_t word[2];
};

// Elements [i, i + pack) of a format; the address is a multiple of 16 bytes (fp8: 8).
MOESIM_BOTH inline Pack load_pack(const std::byte* from, DType t, std::int64_t i) {
  from += i * bytes_of(t);
  Pack out;
  if (t == DType::f32) {
    const Wide a = read_as<Wide>(from);
    const Wide b = read_as<Wide>(from + sizeof(Wide));
    for (int c = 0; c < 4; ++c) {
      out.v[c] = bits_as<float>(a.word[c]);
      out.v[4 + c] = bits_as<float>(b.word[c]);
    }
  } else if (t == DType::fp8) {
    const Half a = read_as<Half>(from);
    for (int c = 0; c < pack; ++c) out.v[c] = fp8_to_float(static_cast<std::uint8_t>(a.word[c / 4] >> (8 * (c % 4))));
  } else {
    const Wide a = read_as<Wide>(from);
    for (std::int64_t c = 0; c < 4; ++c) {
      const auto low = static_cast<std::uint16_t>(a.word[c]);
      const auto high = static_cast<std::uint16_t>(a.word[c] >> 16);
      out.v[2 * c] = t == DType::bf16 ? bf16_to_float(low) : f16_to_float(low);
      out.v[2 * c + 1] = t == DType::bf16 ? bf16_to_float(high) : f16_to_float(high);
    }
  }
  return out;
}
MOESIM_BOTH inline void store_pack(std::byte* to, DType t, std::int64_t i, const Pack& p) {
  to += i * bytes_of(t);
  if (t == DType::f32) {
    Wide a;
    Wide b;
    for (int c = 0; c < 4; ++c) {
      a.word[c] = bits_as<std::uint32_t>(p.v[c]);
      b.word[c] = bits_as<std::uint32_t>(p.v[4 + c]);
    }
    write_as(to, a);
    write_as(to + sizeof a, b);
  } else if (t == DType::fp8) {
    Half a{};
    for (int c = 0; c < pack; ++c) a.word[c / 4] |= static_cast<std::uint32_t>(float_to_fp8(p.v[c])) << (8 * (c % 4));
    write_as(to, a);
  } else {
    Wide a;
    for (std::int64_t c = 0; c < 4; ++c) {
      const std::uint32_t low = t == DType::bf16 ? float_to_bf16(p.v[2 * c]) : float_to_f16(p.v[2 * c]);
      const std::uint32_t high = t == DType::bf16 ? float_to_bf16(p.v[2 * c + 1]) : float_to_f16(p.v[2 * c + 1]);
      a.word[c] = low | high << 16;
    }
    write_as(to, a);
  }
}

}  // namespace moesim::backend::gpu
