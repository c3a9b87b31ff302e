// A config.json read field by field. Problems are collected with their places instead of thrown at the first, so that a
// user sees all of a file's errors at once; after an error a reader goes on with a harmless value.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "moesim/dtype.hpp"
#include "moesim/error.hpp"

namespace moesim::arch {

// Names of one field, the usual one first: families and their forks spell the same thing in several ways. The first
// that the file has counts; null is as good as absent.
using Names = std::initializer_list<std::string_view>;

struct Range {
  std::int64_t min = 1;
  std::int64_t max = 1;
};

class ConfigFields {
 public:
  // Throws InputError (line and column where parsing stopped) when `text` is not a JSON object.
  // Multimodal configs keep the language model in an object "text_config"; fields are looked up there first.
  ConfigFields(std::string file, std::string text);

  // A whole number in `range`.
  std::int64_t count(Names names, Range range);                       // required
  std::int64_t count(Names names, Range range, std::int64_t absent);  // optional
  bool flag(std::string_view name, bool absent);
  std::string word(std::string_view name);  // required
  std::string word(std::string_view name, std::string_view absent);
  std::vector<std::int64_t> counts(std::string_view name, Range range);  // a list of whole numbers; empty when absent
  std::vector<std::string> words(std::string_view name);                 // a list of names; empty when absent
  [[nodiscard]] bool has(std::string_view name) const;

  // Reports `message` at the field `name` when !ok. Silent when any of the fields that the check is about (`name` and
  // `others`) had an error of its own: one mistake, one message.
  void check(bool ok, std::string_view name, Names others, const std::string& message, const std::string& hint = {});
  // Reports that a field's value is none of `known`, naming the nearest.
  void unknown(std::string_view name, std::string_view value, const std::vector<std::string_view>& known);

  // Throws everything that was reported so far, in the order of the file; does nothing when there was nothing.
  void finish();
  [[nodiscard]] SourcePlace place(std::string_view name) const;  // of a field; the whole file when it is absent

 private:
  struct Found {
    const nlohmann::json* value = nullptr;
    std::string path;  // "text_config.hidden_size"
  };
  [[nodiscard]] Found find(std::string_view name) const;
  Found find(Names names);
  Found require(Names names);
  std::int64_t whole(const Found& found, Names names, Range range);
  void report(const Found& found, Names names, std::string message, std::string hint = {});
  [[nodiscard]] SourcePlace place_at(std::size_t offset) const;

  std::string file_;
  std::string text_;
  nlohmann::json root_;
  std::map<std::string, std::size_t> offset_of_;  // path -> byte offset of the key
  std::map<std::string, std::string> spelling_;   // usual name -> the alias that the file uses
  std::set<std::string, std::less<>> bad_;        // fields with an error of their own
  std::vector<Diagnostic> errors_;
};

}  // namespace moesim::arch
