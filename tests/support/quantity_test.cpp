#include "support/quantity.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace moesim {
namespace {

template <class Q>
Q good(std::string_view text, const Range<Q>& range = {}) {
  const auto parsed = parse_quantity<Q>(text, range);
  if (const Fault* fault = std::get_if<Fault>(&parsed)) FAIL(text << ": " << fault->message);
  return std::get<Q>(parsed);
}

template <class Q>
Fault bad(std::string_view text, const Range<Q>& range = {}) {
  const auto parsed = parse_quantity<Q>(text, range);
  REQUIRE_MESSAGE(std::holds_alternative<Fault>(parsed), text << " was accepted");
  return std::get<Fault>(parsed);
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

TEST_CASE("memory: decimal and binary units differ") {
  CHECK(good<Bytes>("80 GiB").value() == 80LL * 1024 * 1024 * 1024);
  CHECK(good<Bytes>("80 GB").value() == 80'000'000'000);
  CHECK(good<Bytes>("1.5 MiB").value() == 1'572'864);
  CHECK(good<Bytes>("512B").value() == 512);
  CHECK(good<Bytes>("7 kB").value() == 7'000);
  CHECK(good<Bytes>(" 2e3 B ").value() == 2'000);
  CHECK(good<Bytes>("0.3 GB").value() == 300'000'000);  // 0.3e9 in doubles is not below 3e8
}

TEST_CASE("data rates: bits are eighths of bytes") {
  CHECK(good<BytesPerSecond>("450 GB/s").value() == 450e9);
  CHECK(good<BytesPerSecond>("400 Gb/s").value() == 50e9);
  CHECK(good<BytesPerSecond>("8 b/s").value() == 1.0);
  CHECK(good<BytesPerSecond>("3.35 TB/s").value() == doctest::Approx(3.35e12));
  CHECK(good<BytesPerSecond>("1 GiB/s").value() == 1073741824.0);
}

TEST_CASE("times and arithmetic rates") {
  CHECK(good<Picoseconds>("5 us").value() == 5'000'000);
  CHECK(good<Picoseconds>("5 \u00b5s").value() == 5'000'000);
  CHECK(good<Picoseconds>("1.5 ms").value() == 1'500'000'000);
  CHECK(good<Picoseconds>("2.454us").value() == 2'454'000);
  CHECK(good<Picoseconds>("0 ns").value() == 0);
  CHECK(good<Picoseconds>("1 s").value() == 1'000'000'000'000);
  CHECK(good<FlopsPerSecond>("312 TFLOPS").value() == 312e12);
  CHECK(good<FlopsPerSecond>("2.25 PFLOP/s").value() == 2.25e15);
  CHECK(good<FlopsPerSecond>("624 TOPS").value() == 624e12);
}

TEST_CASE("a number without a unit says which units fit") {
  const Fault fault = bad<BytesPerSecond>("450");
  CHECK(contains(fault.message, "'450' has no unit"));
  CHECK(contains(fault.message, "a data rate is due"));
  CHECK(contains(fault.hint, "GB/s"));
  CHECK(contains(fault.hint, "Gb/s"));
  CHECK(contains(without_unit<Picoseconds>("5").hint, "us"));
}

TEST_CASE("wrong units get the nearest right one") {
  CHECK(contains(bad<BytesPerSecond>("450 GB").message, "'450 GB' is an amount of memory, a data rate is due"));
  CHECK(contains(bad<BytesPerSecond>("450 GB").hint, "GB/s"));
  CHECK(contains(bad<BytesPerSecond>("400 Gbps").hint, "did you mean Gb/s?"));
  CHECK(contains(bad<BytesPerSecond>("400 GBps").hint, "did you mean GB/s?"));
  CHECK(contains(bad<BytesPerSecond>("400 Gbit/s").hint, "did you mean Gb/s?"));
  CHECK(contains(bad<BytesPerSecond>("400 gb/s").hint, "GB/s or Gb/s"));
  CHECK(contains(bad<Bytes>("80 Gb").hint, "GB"));
  CHECK(contains(bad<Bytes>("80 KB").hint, "kB"));
  CHECK(contains(bad<Picoseconds>("5 usec").hint, "us"));
  CHECK(contains(bad<Picoseconds>("5 parsec").message, "'parsec' is not a unit of a time"));
  CHECK(contains(bad<Picoseconds>("5 GB").message, "'5 GB' is an amount of memory, a time is due"));
  CHECK(contains(bad<FlopsPerSecond>("312 TFlops").hint, "TFLOPS"));
}

TEST_CASE("what is not a number") {
  CHECK(contains(bad<Bytes>("").message, "'' is not an amount of memory"));
  CHECK(contains(bad<Bytes>("GB").message, "is not an amount of memory"));
  CHECK(contains(bad<Bytes>("nan GB").message, "not a finite number"));
  CHECK(contains(bad<Bytes>("inf GB").message, "not a finite number"));
  CHECK(contains(bad<BytesPerSecond>("-inf GB/s").message, "not a finite number"));
  CHECK(contains(bad<Bytes>("1e999 GB").message, "out of range"));
  CHECK(contains(bad<BytesPerSecond>("1,555 GB/s").message, "digit separator"));
  CHECK(contains(bad<BytesPerSecond>("1_555 GB/s").message, "digit separator"));
}

TEST_CASE("bounds are named") {
  CHECK(contains(bad<Bytes>("-1 GB").message, "'-1 GB' must be at least 0 B"));
  CHECK(contains(bad<BytesPerSecond>("0 GB/s", positive<BytesPerSecond>()).message, "must be greater than 0 B/s"));
  const Range<Picoseconds> short_time{Picoseconds(0), Picoseconds(1'000'000'000)};
  CHECK(contains(bad<Picoseconds>("2 s", short_time).message, "must be at least 0 ps and at most 1 ms"));
  CHECK(good<Picoseconds>("1 ms", short_time).value() == 1'000'000'000);
  // 2^63 - 1 bytes is 9.22 EB; what does not fit is refused and not wrapped.
  CHECK(contains(bad<Bytes>("10000 PB").message, "too large"));
  CHECK(contains(bad<Picoseconds>("1e8 s").message, "too large"));
  CHECK(contains(bad<BytesPerSecond>("1e308 TB/s").message, "too large"));
  CHECK(contains(bad<Picoseconds>("0.0001 ns").message, "less than half a ps"));
}

TEST_CASE("range_fault: ends, exclusion and what is not finite") {
  CHECK(range_fault(1.0, Range<double>{0, 1, true}).empty());
  CHECK(contains(range_fault(0.0, Range<double>{0, 1, true}), "greater than 0 and at most 1"));
  CHECK(contains(range_fault(std::nan(""), Range<double>{}), "finite"));
  CHECK(contains(range_fault(std::numeric_limits<double>::infinity(), Range<double>{}), "finite"));
  CHECK(contains(range_fault(std::int64_t{-1}, Range<std::int64_t>{}), "at least 0"));
}

TEST_CASE("to_text gives back what parse_quantity read") {
  CHECK(to_text(Bytes(80LL << 30)) == "80 GiB");
  CHECK(to_text(Bytes(80'000'000'000)) == "80 GB");
  CHECK(to_text(BytesPerSecond(50e9)) == "50 GB/s");
  CHECK(to_text(Picoseconds(2'454'000)) == "2.454 us");
  CHECK(to_text(FlopsPerSecond(312e12)) == "312 TFLOPS");
  std::mt19937_64 random(7);
  for (int i = 0; i < 2000; ++i) {
    // Up to 2^53, where every integer is a double.
    const auto v = static_cast<std::int64_t>(random() >> (11 + random() % 50));
    CHECK(good<Bytes>(to_text(Bytes(v))) == Bytes(v));
    CHECK(good<Picoseconds>(to_text(Picoseconds(v))) == Picoseconds(v));
  }
}

}  // namespace
}  // namespace moesim
