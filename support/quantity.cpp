#include "support/quantity.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <span>
#include <vector>

#include "moesim/error.hpp"

namespace moesim {
namespace {

struct Unit {
  std::string_view name;
  double scale;
};

// What a dimension is called, how a value of it looks, and its units; those below `preferred` print values.
struct Dimension {
  std::string_view noun;
  std::string_view example;
  std::span<const Unit> units;
};

constexpr double ki = 1024.0;
constexpr Unit byte_units[] = {
    {"B", 1},     {"kB", 1e3}, {"MB", 1e6},     {"GB", 1e9},         {"TB", 1e12},
    {"PB", 1e15}, {"KiB", ki}, {"MiB", ki* ki}, {"GiB", ki* ki* ki}, {"TiB", ki* ki* ki* ki}};
constexpr Unit byte_rate_units[] = {
    {"B/s", 1},     {"kB/s", 1e3}, {"MB/s", 1e6},     {"GB/s", 1e9},         {"TB/s", 1e12},
    {"PB/s", 1e15}, {"KiB/s", ki}, {"MiB/s", ki* ki}, {"GiB/s", ki* ki* ki}, {"TiB/s", ki* ki* ki* ki},
    {"b/s", 0.125}, {"kb/s", 125}, {"Mb/s", 125e3},   {"Gb/s", 125e6},       {"Tb/s", 125e9}};
constexpr Unit flop_rate_units[] = {{"FLOPS", 1},      {"MFLOPS", 1e6},  {"GFLOPS", 1e9},  {"TFLOPS", 1e12},
                                    {"PFLOPS", 1e15},  {"EFLOPS", 1e18}, {"GFLOP/s", 1e9}, {"TFLOP/s", 1e12},
                                    {"PFLOP/s", 1e15}, {"TOPS", 1e12},   {"POPS", 1e15}};
constexpr Unit time_units[] = {{"ps", 1}, {"ns", 1e3}, {"us", 1e6}, {"\u00b5s", 1e6}, {"ms", 1e9}, {"s", 1e12}};

constexpr Dimension dimensions[] = {{"an amount of memory", "80 GiB", byte_units},
                                    {"a data rate", "450 GB/s", byte_rate_units},
                                    {"an arithmetic rate", "312 TFLOPS", flop_rate_units},
                                    {"a time", "5 us", time_units}};

template <class Q>
constexpr const Dimension& dimension();
template <>
constexpr const Dimension& dimension<Bytes>() {
  return dimensions[0];
}
template <>
constexpr const Dimension& dimension<BytesPerSecond>() {
  return dimensions[1];
}
template <>
constexpr const Dimension& dimension<FlopsPerSecond>() {
  return dimensions[2];
}
template <>
constexpr const Dimension& dimension<Picoseconds>() {
  return dimensions[3];
}

std::string lower(std::string_view s) {
  std::string out(s);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

const Unit* find_unit(const Dimension& d, std::string_view name) {
  const auto it = std::find_if(d.units.begin(), d.units.end(), [&](const Unit& u) { return u.name == name; });
  return it == d.units.end() ? nullptr : &*it;
}

std::string all_units(const Dimension& d) {
  std::string out;
  for (const Unit& u : d.units) out += fmt::format("{}{}", out.empty() ? "" : ", ", u.name);
  return out;
}

// "did you mean GB/s?" - with both readings where only the case decides between them (GB/s and Gb/s).
std::string suggest_unit(const Dimension& d, std::string_view word) {
  std::string spelled(word);
  const auto replace = [&](std::string_view from, std::string_view to) {
    if (const auto at = spelled.find(from); at != std::string::npos) spelled.replace(at, from.size(), to);
  };
  replace("bytes", "B");
  replace("Bytes", "B");
  replace("bits", "b");
  replace("bit", "b");
  if (spelled.size() > 2 && spelled.ends_with("ps")) spelled.replace(spelled.size() - 2, 2, "/s");
  if (find_unit(d, spelled)) return fmt::format("did you mean {}?", spelled);
  std::string same_letters;
  std::vector<std::string_view> names;
  for (const Unit& u : d.units) {
    names.push_back(u.name);
    if (lower(u.name) == lower(spelled))
      same_letters += fmt::format("{}{}", same_letters.empty() ? "" : " or ", u.name);
  }
  if (!same_letters.empty()) return fmt::format("did you mean {}? (B is bytes, b is bits)", same_letters);
  if (const std::string_view near = nearest_name(spelled, names); !near.empty() && !word.empty())
    return fmt::format("did you mean {}?", near);
  return fmt::format("units of {}: {}", d.noun, all_units(d));
}

Fault unit_fault(const Dimension& due, std::string_view text, std::string_view unit) {
  if (unit.empty())
    return {fmt::format("'{}' has no unit, {} is due", text, due.noun),
            fmt::format("write it as in \"{}\"; units: {}", due.example, all_units(due))};
  for (const Dimension& d : dimensions)
    if (find_unit(d, unit))
      return {fmt::format("'{}' is {}, {} is due", text, d.noun, due.noun), suggest_unit(due, unit)};
  return {fmt::format("'{}' is not a unit of {}", unit, due.noun), suggest_unit(due, unit)};
}

// The largest of the listed units in which the value is at least one.
std::string scaled(double v, std::span<const Unit> units) {
  const Unit* best = &units.front();
  for (const Unit& u : units)
    if (std::abs(v) >= u.scale && u.scale >= best->scale) best = &u;
  return fmt::format("{} {}", v / best->scale, best->name);
}

// Beyond 2^50 a double's digits no longer give back every integer.
std::string count_text(std::int64_t v, std::span<const Unit> units) {
  if (std::abs(v) > std::int64_t{1} << 50 && units.front().scale == 1)
    return fmt::format("{} {}", v, units.front().name);
  return scaled(static_cast<double>(v), units);
}

// Makes the quantity from the number of base units, or says which limit of its representation it breaks.
template <class Q>
std::variant<Q, Fault> from_base(double base, std::string_view text) {
  if constexpr (std::is_same_v<Q, BytesPerSecond> || std::is_same_v<Q, FlopsPerSecond>) {
    if (!std::isfinite(base)) return Fault{fmt::format("'{}' is too large", text), {}};
    return Q(base);
  } else {
    const double rounded = std::nearbyint(base);
    if (!(std::abs(rounded) < 9.2e18))
      return Fault{fmt::format("'{}' is too large: at most {} can be represented", text, to_text(Q::max())), {}};
    if (rounded == 0 && base != 0)
      return Fault{fmt::format("'{}' is less than half a {}", text, dimension<Q>().units.front().name), {}};
    return Q(static_cast<std::int64_t>(rounded));
  }
}

}  // namespace

template <class Q>
std::variant<Q, Fault> parse_quantity(std::string_view text, const Range<Q>& range) {
  const Dimension& due = dimension<Q>();
  std::string_view rest = text;
  const auto trim = [&rest] {
    while (!rest.empty() && rest.front() == ' ') rest.remove_prefix(1);
    while (!rest.empty() && rest.back() == ' ') rest.remove_suffix(1);
  };
  trim();
  double number = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
  if (error == std::errc::invalid_argument)
    return Fault{fmt::format("'{}' is not {}", text, due.noun), fmt::format("write it as in \"{}\"", due.example)};
  if (error == std::errc::result_out_of_range) return Fault{fmt::format("'{}' is out of range", text), {}};
  if (!std::isfinite(number)) return Fault{fmt::format("'{}' is not a finite number", text), {}};
  rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
  if (rest.starts_with(',') || rest.starts_with('_'))
    return Fault{fmt::format("'{}' has a digit separator", text),
                 "write the digits without it, with a point for decimals"};
  trim();
  const Unit* unit = find_unit(due, rest);
  if (!unit) return unit_fault(due, text, rest);
  auto value = from_base<Q>(number * unit->scale, text);
  if (const Q* q = std::get_if<Q>(&value))
    if (std::string fault = range_fault(*q, range); !fault.empty())
      return Fault{fmt::format("'{}' {}", text, fault), {}};
  return value;
}

template <class Q>
std::string expected_form() {
  const Dimension& d = dimension<Q>();
  return fmt::format("{} as in \"{}\"", d.noun, d.example);
}

std::string to_text(Bytes v) {
  const std::string decimal = count_text(v.value(), std::span(byte_units).first(6));
  const std::string binary = count_text(v.value(), std::span(byte_units).last(4));
  return binary.size() < decimal.size() ? binary : decimal;
}
std::string to_text(BytesPerSecond v) { return scaled(v.value(), std::span(byte_rate_units).first(6)); }
std::string to_text(FlopsPerSecond v) { return scaled(v.value(), std::span(flop_rate_units).first(6)); }
std::string to_text(Picoseconds v) {
  constexpr Unit printed[] = {{"ps", 1}, {"ns", 1e3}, {"us", 1e6}, {"ms", 1e9}, {"s", 1e12}};
  return count_text(v.value(), printed);
}
std::string to_text(double v) { return fmt::format("{}", v); }

template <class Q>
Fault without_unit(std::string_view number) {
  return unit_fault(dimension<Q>(), number, {});
}

namespace {
bool finite(double v) { return std::isfinite(v); }
template <class Tag>
bool finite(Real<Tag> v) {
  return std::isfinite(v.value());
}
template <class T>
bool finite(const T&) {
  return true;
}

template <class T>
std::string text_of(const T& v) {
  if constexpr (std::integral<T>)
    return fmt::format("{}", v);
  else
    return to_text(v);
}
}  // namespace

template <class T>
std::string range_fault(const T& v, const Range<T>& range) {
  if (!finite(v)) return "must be a finite number";
  const bool above = range.min_excluded ? v > range.min : v >= range.min;
  if (above && v <= range.max) return {};
  const std::string lower_bound =
      fmt::format("{} {}", range.min_excluded ? "greater than" : "at least", text_of(range.min));
  const bool bounded = range.max < Range<T>{}.max;
  return bounded ? fmt::format("must be {} and at most {}", lower_bound, text_of(range.max))
                 : fmt::format("must be {}", lower_bound);
}

template std::variant<Bytes, Fault> parse_quantity(std::string_view, const Range<Bytes>&);
template std::variant<Picoseconds, Fault> parse_quantity(std::string_view, const Range<Picoseconds>&);
template std::variant<BytesPerSecond, Fault> parse_quantity(std::string_view, const Range<BytesPerSecond>&);
template std::variant<FlopsPerSecond, Fault> parse_quantity(std::string_view, const Range<FlopsPerSecond>&);
template std::string expected_form<Bytes>();
template Fault without_unit<Bytes>(std::string_view);
template std::string expected_form<Picoseconds>();
template Fault without_unit<Picoseconds>(std::string_view);
template std::string expected_form<BytesPerSecond>();
template Fault without_unit<BytesPerSecond>(std::string_view);
template std::string expected_form<FlopsPerSecond>();
template Fault without_unit<FlopsPerSecond>(std::string_view);
template std::string range_fault(const Bytes&, const Range<Bytes>&);
template std::string range_fault(const Picoseconds&, const Range<Picoseconds>&);
template std::string range_fault(const BytesPerSecond&, const Range<BytesPerSecond>&);
template std::string range_fault(const FlopsPerSecond&, const Range<FlopsPerSecond>&);
template std::string range_fault(const int&, const Range<int>&);
template std::string range_fault(const std::int64_t&, const Range<std::int64_t>&);
template std::string range_fault(const double&, const Range<double>&);

}  // namespace moesim
