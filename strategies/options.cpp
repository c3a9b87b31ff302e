#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "strategies/strategy.hpp"

namespace moesim::strategies {
namespace {

constexpr const char* type_names[] = {"true or false", "an integer", "a number", "text"};

std::string print(const OptionValue& value) {
  return std::visit([](const auto& v) { return fmt::format("{}", v); }, value);
}

}  // namespace

std::string misfit(const OptionSpec& spec, const OptionValue& value) {
  const bool widens = std::holds_alternative<double>(spec.fallback) && std::holds_alternative<std::int64_t>(value);
  if (value.index() != spec.fallback.index() && !widens)
    return fmt::format("should be {}, not {}", type_names[spec.fallback.index()], print(value));
  if (const auto* text = std::get_if<std::string>(&value)) {
    if (spec.choices.empty() || std::ranges::find(spec.choices, *text) != spec.choices.end()) return {};
    return fmt::format("should be one of {}, not '{}'", fmt::join(spec.choices, ", "), *text);
  }
  if (std::holds_alternative<bool>(value)) return {};
  const double number = std::holds_alternative<double>(value) ? std::get<double>(value)
                                                              : static_cast<double>(std::get<std::int64_t>(value));
  if (number >= spec.min && number <= spec.max) return {};
  return fmt::format("is {}, outside {} to {}", print(value), spec.min, spec.max);
}

Options::Options(const std::vector<OptionSpec>& specs, std::map<std::string, OptionValue> given) {
  for (const OptionSpec& spec : specs) {
    const auto found = given.find(spec.name);
    OptionValue value = found == given.end() ? spec.fallback : found->second;
    if (const std::string why = misfit(spec, value); !why.empty())
      throw std::invalid_argument(fmt::format("option {} {}", spec.name, why));
    if (std::holds_alternative<double>(spec.fallback) && std::holds_alternative<std::int64_t>(value))
      value = static_cast<double>(std::get<std::int64_t>(value));
    values_.emplace(spec.name, std::move(value));
    if (found != given.end()) given.erase(found);
  }
  if (!given.empty()) throw std::invalid_argument(fmt::format("there is no option {}", given.begin()->first));
}

const OptionValue& Options::get(std::string_view name) const {
  const auto found = values_.find(name);
  if (found == values_.end()) throw std::logic_error(fmt::format("option {} is not declared", name));
  return found->second;
}

bool Options::flag(std::string_view name) const { return std::get<bool>(get(name)); }
std::int64_t Options::integer(std::string_view name) const { return std::get<std::int64_t>(get(name)); }
double Options::real(std::string_view name) const { return std::get<double>(get(name)); }
const std::string& Options::text(std::string_view name) const { return std::get<std::string>(get(name)); }

std::map<std::string, std::string> Options::printed() const {
  std::map<std::string, std::string> out;
  for (const auto& [name, value] : values_) out.emplace(name, print(value));
  return out;
}

}  // namespace moesim::strategies
