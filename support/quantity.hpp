// Physical quantities as people write them in files: "450 GB/s", "80 GiB", "400 Gb/s", "5 us", "312 TFLOPS".
// Units are case-sensitive and exact: GB = 10^9 bytes, GiB = 2^30 bytes, Gb/s = 10^9 bits per second.
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <variant>

#include "moesim/units.hpp"

namespace moesim {

// Where a value may lie. Messages name the bound that was broken. Types without an order have no bounds.
template <class T>
struct Range {};
template <std::integral T>
struct Range<T> {
  T min = 0;
  T max = std::numeric_limits<T>::max();
  bool min_excluded = false;
};
template <std::floating_point T>
struct Range<T> {
  T min = 0;
  T max = std::numeric_limits<T>::infinity();
  bool min_excluded = false;
};
template <class Tag>
struct Range<Real<Tag>> {
  Real<Tag> min{};
  Real<Tag> max{std::numeric_limits<double>::infinity()};
  bool min_excluded = false;
};
template <class Tag>
struct Range<Count<Tag>> {
  Count<Tag> min{};
  Count<Tag> max = Count<Tag>::max();
  bool min_excluded = false;
};

// Greater than zero; an upper bound may follow.
template <class T>
Range<T> positive(T max = Range<T>{}.max) {
  return {T{}, max, true};
}

// What is wrong with a value, and what to write instead.
struct Fault {
  std::string message;
  std::string hint;
};

// A number with a unit of Q's dimension. Counts are rounded to the nearest whole unit; a value that is not zero never
// becomes zero that way. Q is Bytes, Picoseconds, BytesPerSecond or FlopsPerSecond.
template <class Q>
std::variant<Q, Fault> parse_quantity(std::string_view text, const Range<Q>& range = {});

// The same value as a file would have it, for messages: "450 GB/s". Exact.
std::string to_text(Bytes v);
std::string to_text(Picoseconds v);
std::string to_text(BytesPerSecond v);
std::string to_text(FlopsPerSecond v);
std::string to_text(double v);

// "a data rate as in \"450 GB/s\"": what a value of this dimension looks like.
template <class Q>
std::string expected_form();
// The fault of a bare number where a quantity is due.
template <class Q>
Fault without_unit(std::string_view number);

// Empty where the value is inside; else "must be greater than 0 B/s" and the like. NaN and infinity are outside of
// every range.
template <class T>
std::string range_fault(const T& value, const Range<T>& range);

}  // namespace moesim
