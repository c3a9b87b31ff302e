// An option whose words stand for enumerators.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
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

}  // namespace moesim::cli
