// Physical quantities as types: Bytes + Picoseconds does not compile.
//
// Counting quantities (Bytes, Flops, Picoseconds) are 64-bit integers, so that sums are exact and the same on every
// machine; their arithmetic throws std::overflow_error instead of wrapping. Rates are doubles per second.
// Picoseconds cover +-106 days.
#pragma once

#include <cmath>
#include <compare>
#include <concepts>
#include <cstdint>
#include <limits>
#include <stdexcept>

namespace moesim {

namespace detail {

[[noreturn]] inline void overflow() { throw std::overflow_error("a quantity exceeds 64 bits"); }

inline std::int64_t checked_add(std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  if (__builtin_add_overflow(a, b, &out)) overflow();
  return out;
}
inline std::int64_t checked_sub(std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  if (__builtin_sub_overflow(a, b, &out)) overflow();
  return out;
}
inline std::int64_t checked_mul(std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  if (__builtin_mul_overflow(a, b, &out)) overflow();
  return out;
}
inline std::int64_t checked_round_up(double v) {
  const double r = std::ceil(v);
  if (!(std::abs(r) < 9.2e18)) overflow();  // NaN fails too
  return static_cast<std::int64_t>(r);
}

}  // namespace detail

// An exact count of something.
template <class Tag>
class Count {
 public:
  constexpr Count() = default;
  constexpr explicit Count(std::int64_t v) : v_(v) {}
  [[nodiscard]] constexpr std::int64_t value() const { return v_; }
  [[nodiscard]] static constexpr Count max() { return Count(std::numeric_limits<std::int64_t>::max()); }

  friend constexpr auto operator<=>(Count, Count) = default;
  friend Count operator+(Count a, Count b) { return Count(detail::checked_add(a.v_, b.v_)); }
  friend Count operator-(Count a, Count b) { return Count(detail::checked_sub(a.v_, b.v_)); }
  friend Count operator*(Count a, std::int64_t k) { return Count(detail::checked_mul(a.v_, k)); }
  friend Count operator*(std::int64_t k, Count a) { return a * k; }
  friend Count operator/(Count a, std::int64_t k) { return Count(a.v_ / k); }
  Count& operator+=(Count b) { return *this = *this + b; }
  Count& operator-=(Count b) { return *this = *this - b; }
  // A ratio has no unit.
  friend constexpr double operator/(Count a, Count b) { return static_cast<double>(a.v_) / static_cast<double>(b.v_); }

 private:
  std::int64_t v_ = 0;
};

// A rate per second, or any other real-valued quantity with a unit.
template <class Tag>
class Real {
 public:
  constexpr Real() = default;
  constexpr explicit Real(double v) : v_(v) {}
  [[nodiscard]] constexpr double value() const { return v_; }

  friend constexpr auto operator<=>(Real, Real) = default;
  friend constexpr Real operator+(Real a, Real b) { return Real(a.v_ + b.v_); }
  friend constexpr Real operator-(Real a, Real b) { return Real(a.v_ - b.v_); }
  friend constexpr Real operator*(Real a, double k) { return Real(a.v_ * k); }
  friend constexpr Real operator*(double k, Real a) { return a * k; }
  friend constexpr Real operator/(Real a, double k) { return Real(a.v_ / k); }
  friend constexpr double operator/(Real a, Real b) { return a.v_ / b.v_; }

 private:
  double v_ = 0;
};

using Bytes = Count<struct BytesTag>;
using Flops = Count<struct FlopsTag>;
using Picoseconds = Count<struct PicosecondsTag>;
using BytesPerSecond = Real<struct BytesPerSecondTag>;
using FlopsPerSecond = Real<struct FlopsPerSecondTag>;

// Time to move or compute an amount at a rate, rounded UP to a picosecond so that no result beats the rate.
inline Picoseconds operator/(Bytes b, BytesPerSecond r) {
  return Picoseconds(b.value() == 0 ? 0 : detail::checked_round_up(static_cast<double>(b.value()) * 1e12 / r.value()));
}
inline Picoseconds operator/(Flops f, FlopsPerSecond r) {
  return Picoseconds(f.value() == 0 ? 0 : detail::checked_round_up(static_cast<double>(f.value()) * 1e12 / r.value()));
}

inline Picoseconds from_seconds(double s) { return Picoseconds(detail::checked_round_up(s * 1e12)); }
inline Picoseconds from_microseconds(double us) { return Picoseconds(detail::checked_round_up(us * 1e6)); }
constexpr double to_seconds(Picoseconds t) { return static_cast<double>(t.value()) * 1e-12; }
constexpr double to_milliseconds(Picoseconds t) { return static_cast<double>(t.value()) * 1e-9; }
constexpr double to_microseconds(Picoseconds t) { return static_cast<double>(t.value()) * 1e-6; }

// Scales a duration by a factor >= 0, rounding up.
inline Picoseconds scale(Picoseconds t, double factor) {
  return Picoseconds(detail::checked_round_up(static_cast<double>(t.value()) * factor));
}

namespace literals {
constexpr Bytes operator""_B(unsigned long long v) { return Bytes(static_cast<std::int64_t>(v)); }
constexpr Bytes operator""_KiB(unsigned long long v) { return Bytes(static_cast<std::int64_t>(v) << 10); }
constexpr Bytes operator""_MiB(unsigned long long v) { return Bytes(static_cast<std::int64_t>(v) << 20); }
constexpr Bytes operator""_GiB(unsigned long long v) { return Bytes(static_cast<std::int64_t>(v) << 30); }
constexpr Bytes operator""_GB(unsigned long long v) { return Bytes(static_cast<std::int64_t>(v) * 1'000'000'000); }
constexpr Picoseconds operator""_ps(unsigned long long v) { return Picoseconds(static_cast<std::int64_t>(v)); }
constexpr Picoseconds operator""_ns(unsigned long long v) { return Picoseconds(static_cast<std::int64_t>(v) * 1'000); }
constexpr Picoseconds operator""_us(unsigned long long v) {
  return Picoseconds(static_cast<std::int64_t>(v) * 1'000'000);
}
constexpr Picoseconds operator""_ms(unsigned long long v) {
  return Picoseconds(static_cast<std::int64_t>(v) * 1'000'000'000);
}
constexpr BytesPerSecond operator""_GBps(unsigned long long v) { return BytesPerSecond(static_cast<double>(v) * 1e9); }
constexpr FlopsPerSecond operator""_TFLOPS(unsigned long long v) {
  return FlopsPerSecond(static_cast<double>(v) * 1e12);
}
}  // namespace literals

}  // namespace moesim
