// Inside the TOML reader: the one header that sees toml++ (2 s a translation unit).
#pragma once

#include <toml++/toml.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "support/toml_reader.hpp"

namespace moesim {

struct TomlDocument::Impl {
  std::string file;
  toml::table root;
  std::vector<Diagnostic> faults;
  std::map<std::string, SourcePlace> places;
  // The keys that each opened table may have, in the order in which getters asked.
  struct Opened {
    std::string path;
    std::vector<std::string> asked;
  };
  std::map<const toml::table*, Opened> opened;
  std::map<const toml::node*, SourcePlace> replaced;  // nodes that replace() made

  [[nodiscard]] SourcePlace place(const toml::node& node, const toml::source_region& region) const {
    if (const auto it = replaced.find(&node); it != replaced.end()) return it->second;
    return {file, static_cast<int>(region.begin.line), static_cast<int>(region.begin.column)};
  }
  [[nodiscard]] SourcePlace place(const toml::node& node) const { return place(node, node.source()); }

  TomlTable open(const toml::table& table, const std::string& path) {
    opened.try_emplace(&table, Opened{path, {}});
    return {this, &table, path};
  }
  void ask(const toml::table& table, std::string_view key) {
    std::vector<std::string>& asked = opened[&table].asked;
    if (std::find(asked.begin(), asked.end(), key) == asked.end()) asked.emplace_back(key);
  }
  void report_unknown_keys();
};

namespace toml_detail {

std::string_view type_name(const toml::node& node);      // "a string"
std::optional<RawValue> scalar(const toml::node& node);  // key and place are left open
std::string shown(const toml::node& node);               // "a string, \"abc\"" for messages; long values are cut
// "did you mean 'x'?", or the list of names where none is near.
std::string nearest_hint(std::string_view word, const std::vector<std::string_view>& names);

}  // namespace toml_detail
}  // namespace moesim
