// What CLI11 lacks: words that stand for enumerators, and a range that NaN is not in.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace moesim::cli {

// Turns a word into the number that CLI11 reads an enumerator from; its own transformer prints enumerators as bytes.
template <class Enum>
CLI::Validator choices(const std::map<std::string, Enum>& words) {
  std::vector<std::string> names;
  for (const auto& [name, value] : words) names.push_back(name);
  const std::string list = fmt::format("{}", fmt::join(names, ","));
  return CLI::Validator(
      [words, list](std::string& given) {
        const auto found = words.find(given);
        if (found == words.end()) return fmt::format("{} is not one of {}", given, list);
        given = std::to_string(static_cast<int>(found->second));
        return std::string();
      },
      "{" + list + "}");
}

inline CLI::Validator between(double low, double high) {
  const std::string range = fmt::format("{} - {}", low, high);
  return CLI::Validator(
      [low, high, range](std::string& given) {
        char* end = nullptr;
        const double v = std::strtod(given.c_str(), &end);
        const bool good = end != given.c_str() && *end == '\0' && v >= low && v <= high;
        return good ? std::string() : fmt::format("{} is not in {}", given, range);
      },
      "[" + range + "]");
}

}  // namespace moesim::cli
