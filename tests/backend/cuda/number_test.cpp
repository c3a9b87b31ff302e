// Number formats, against Eigen's half, against their definitions, and at every rounding boundary.
#include "backend/cuda/number.hpp"

#include <doctest/doctest.h>

#include <Eigen/Core>
#include <cmath>
#include <vector>

#include "backend/host/tensor.hpp"

using namespace moesim;
using namespace moesim::backend::gpu;

namespace {

bool same(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) || bits_as<std::uint32_t>(a) == bits_as<std::uint32_t>(b);
}

// (-1)^s 2^(e - 7) (1 + m / 8); e = 0: (-1)^s 2^-6 m / 8; the pattern of all ones is NaN.
float fp8_by_definition(int v) {
  const int e = (v >> 3) & 15;
  const int m = v & 7;
  const double sign = (v & 0x80) != 0 ? -1 : 1;
  if (e == 15 && m == 7) return NAN;
  const double x = e == 0 ? std::ldexp(m, -9) : std::ldexp(8 + m, e - 10);
  return static_cast<float>(sign * x);
}

}  // namespace

TEST_CASE("f16: every pattern, both ways, is Eigen's") {
  for (int v = 0; v < 65536; ++v) {
    const auto u = static_cast<std::uint16_t>(v);
    const float f = f16_to_float(u);
    CHECK(same(f, Eigen::half_impl::half_to_float(Eigen::half_impl::raw_uint16_to_half(u))));
    if (!std::isnan(f)) CHECK(float_to_f16(f) == u);
  }
}

TEST_CASE("f16, bf16 round to nearest, ties to even") {
  // Around every boundary between two neighbours: just below, on it, just above.
  for (int v = 0; v < 0x7c00; ++v) {
    const float low = f16_to_float(static_cast<std::uint16_t>(v));
    const float high = v + 1 == 0x7c00 ? 65536.0F : f16_to_float(static_cast<std::uint16_t>(v + 1));
    const float middle = low + (high - low) / 2;
    for (const float f : {std::nextafter(middle, 0.0F), middle, std::nextafter(middle, 1e9F), -middle})
      CHECK(float_to_f16(f) == Eigen::half_impl::float_to_half_rtne(f).x);
  }
  for (const float f : {0.0F, -0.0F, 1e-30F, 65519.9F, 65520.0F, 1e30F, -INFINITY, INFINITY})
    CHECK(float_to_f16(f) == Eigen::half_impl::float_to_half_rtne(f).x);
  CHECK(std::isnan(f16_to_float(float_to_f16(NAN))));
  for (std::uint32_t high = 0; high < 0x8000U; high += 7)
    for (const std::uint32_t low : {0U, 1U, 0x7fffU, 0x8000U, 0x8001U, 0xffffU}) {
      const auto f = bits_as<float>(high << 16 | low);
      std::byte host[2];
      backend::from_float(&f, DType::bf16, 1, host);
      std::uint16_t expected = 0;
      std::memcpy(&expected, host, 2);
      CHECK(float_to_bf16(f) == expected);
      if (low == 0) CHECK(same(bf16_to_float(static_cast<std::uint16_t>(high)), f));
    }
}

TEST_CASE("fp8: every pattern is its definition, and the nearest one is found") {
  for (int v = 0; v < 256; ++v) {
    CHECK(same(fp8_to_float(static_cast<std::uint8_t>(v)), fp8_by_definition(v)));
    if (!std::isnan(fp8_by_definition(v))) CHECK(float_to_fp8(fp8_by_definition(v)) == v);
  }
  for (int v = 0; v < 0x7e; ++v) {
    const float low = fp8_by_definition(v);
    const float middle = (low + fp8_by_definition(v + 1)) / 2;
    const int even = v % 2 == 0 ? v : v + 1;
    CHECK(float_to_fp8(std::nextafter(middle, 0.0F)) == v);
    CHECK(float_to_fp8(middle) == even);
    CHECK(float_to_fp8(std::nextafter(middle, 1e9F)) == v + 1);
    CHECK(float_to_fp8(-middle) == (even | 0x80));
  }
  CHECK(float_to_fp8(1e9F) == 0x7e);  // saturates at 448
  CHECK(float_to_fp8(-INFINITY) == 0xfe);
  CHECK(std::isnan(fp8_to_float(float_to_fp8(NAN))));
}

TEST_CASE("packs are eight elements") {
  for (const DType t : {DType::f32, DType::bf16, DType::f16, DType::fp8}) {
    CAPTURE(to_string(t));
    alignas(16) std::byte one[64] = {};
    alignas(16) std::byte packs[64] = {};
    Pack p{};
    for (int i = 0; i < 16; ++i) {
      p.v[i % 8] = static_cast<float>(i * i) - 31.5F;
      store(one, t, i, p.v[i % 8]);
      if (i % 8 == 7) store_pack(packs, t, i - 7, p);
    }
    CHECK(std::equal(std::begin(one), std::end(one), std::begin(packs)));
    for (int i = 0; i < 16; i += 8)
      for (int j = 0; j < 8; ++j) CHECK(same(load_pack(one, t, i).v[j], load(one, t, i + j)));
  }
}
