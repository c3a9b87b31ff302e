// Reading TOML files with good errors. Getters record what is wrong instead of throwing, each fault at its line and
// column, and throw_if_errors() reports all of a file's faults at once, the keys that no getter asked for included.
//
//   TomlDocument doc(path);
//   TomlTable cluster = doc.root().require_table("cluster");
//   cluster.require("machine", out.machine);
//   cluster.maybe("nodes", out.nodes, {1, 65536});
//   doc.throw_if_errors();
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "moesim/error.hpp"
#include "support/quantity.hpp"

namespace moesim {

// A scalar as it stands in the file, for readers that know its meaning later.
struct RawValue {
  std::string key;
  std::variant<bool, std::int64_t, double, std::string> value;
  SourcePlace place;
};
std::string to_text(const RawValue& v);  // as TOML writes it: true, 3, 2.5, "text"

// The names of an enum, in the order of messages.
template <class E>
using NamesOf = std::vector<std::pair<std::string_view, E>>;

enum class Need : std::uint8_t { required, optional };

class TomlTable;

class TomlDocument {
 public:
  // Throws InputError for a file that cannot be read, does not parse, or holds no key.
  explicit TomlDocument(const std::string& path);
  TomlDocument(std::string_view text, const std::string& name);
  TomlDocument(TomlDocument&&) noexcept;
  TomlDocument& operator=(TomlDocument&&) noexcept;
  ~TomlDocument();

  [[nodiscard]] TomlTable root();
  [[nodiscard]] const std::string& file() const;

  // Sets a value as if the file had it; faults of the new value are reported at value.place. The key is a path:
  // "model.experts", or "strategy.NAME.capacity_factor" for the table of an array whose name, kind or index is NAME.
  // Returns what is wrong with the path, if anything.
  std::optional<Fault> replace(std::string_view path, const RawValue& value);

  void error(SourcePlace place, std::string message, std::string hint = {});
  // Where each key that was read stands: "cluster.nodes", "strategy[0].kind".
  [[nodiscard]] const std::map<std::string, SourcePlace>& places() const;
  // Every fault so far and every unknown key, by place; throws InputError when there is one.
  void throw_if_errors();

  struct Impl;

 private:
  std::unique_ptr<Impl> impl_;
};

// A table of a document, valid as long as it. A handle of an absent table is false; its getters find nothing and report
// nothing, so a missing table is one fault and not one for each of its keys.
class TomlTable {
 public:
  TomlTable() = default;
  explicit operator bool() const { return table_ != nullptr; }

  // Getters. `out` changes only when the key is there and its value is good; that is what they return.
  // T: bool, int, std::int64_t, double, std::string, Bytes, Picoseconds, BytesPerSecond, FlopsPerSecond.
  template <class T>
  bool read(std::string_view key, T& out, Need need, const Range<T>& range);
  template <class T>
  bool require(std::string_view key, T& out, const std::type_identity_t<Range<T>>& range = {}) {
    return read(key, out, Need::required, range);
  }
  template <class T>
  bool maybe(std::string_view key, T& out, const std::type_identity_t<Range<T>>& range = {}) {
    return read(key, out, Need::optional, range);
  }
  template <class T>
  bool maybe(std::string_view key, std::optional<T>& out, const std::type_identity_t<Range<T>>& range = {}) {
    T value{};
    const bool found = read(key, value, Need::optional, range);
    if (found) out = std::move(value);
    return found;
  }
  // One of a list of names.
  template <class E>
  bool one_of(std::string_view key, E& out, const NamesOf<E>& names, Need need = Need::optional) {
    std::vector<std::string_view> texts;
    for (const auto& [text, value] : names) texts.push_back(text);
    const std::optional<std::size_t> i = choice(key, texts, need);
    if (i) out = names[*i].second;
    return i.has_value();
  }
  // A list of scalars.
  bool list(std::string_view key, std::vector<RawValue>& out, Need need = Need::optional);
  // A list of strings; one string stands for a list of one.
  bool strings(std::string_view key, std::vector<std::string>& out, Need need = Need::optional);

  [[nodiscard]] TomlTable table(std::string_view key, Need need = Need::optional);
  [[nodiscard]] TomlTable require_table(std::string_view key) { return table(key, Need::required); }
  [[nodiscard]] std::vector<TomlTable> tables(std::string_view key);  // [[key]]; empty where absent
  // All keys that no getter has asked for, in file order; asks for them. Lists and tables among them are faults.
  [[nodiscard]] std::vector<RawValue> rest();
  [[nodiscard]] std::vector<std::string> keys() const;  // in file order

  [[nodiscard]] bool has(std::string_view key) const;
  [[nodiscard]] bool is_table(std::string_view key) const;
  [[nodiscard]] SourcePlace place() const;                      // of the table
  [[nodiscard]] SourcePlace place(std::string_view key) const;  // of the value; of the table where the key is absent
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string path(std::string_view key) const;
  void error(std::string message, std::string hint = {});                                // at the table
  void error_at(std::string_view key, std::string_view message, std::string hint = {});  // "'table.key': message"
  // A key that is known but out of place here is a fault with its reason, instead of an unknown key.
  void forbid(std::string_view key, std::string_view reason);

 private:
  friend class TomlDocument;
  friend struct TomlDocument::Impl;
  TomlTable(TomlDocument::Impl* document, const void* table, std::string path);
  std::optional<std::size_t> choice(std::string_view key, const std::vector<std::string_view>& names, Need need);
  const void* find(std::string_view key, Need need);

  TomlDocument::Impl* document_ = nullptr;
  const void* table_ = nullptr;
  std::string path_;
};

}  // namespace moesim
