#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "support/toml_impl.hpp"

namespace moesim {

using namespace toml_detail;

namespace {

const toml::table& as_table(const void* table) { return *static_cast<const toml::table*>(table); }

// toml++ keeps tables sorted by key; messages and lists follow the file.
std::vector<std::pair<const toml::key*, const toml::node*>> in_file_order(const toml::table& table) {
  std::vector<std::pair<const toml::key*, const toml::node*>> out;
  for (auto&& [key, node] : table) out.emplace_back(&key, &node);
  std::stable_sort(out.begin(), out.end(),
                   [](const auto& a, const auto& b) { return a.first->source().begin < b.first->source().begin; });
  return out;
}

}  // namespace

TomlTable::TomlTable(TomlDocument::Impl* document, const void* table, std::string path)
    : document_(document), table_(table), path_(std::move(path)) {}

std::string TomlTable::path(std::string_view key) const {
  return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
}

SourcePlace TomlTable::place() const {
  if (!table_) return {};
  // An implicit table (dotted keys, the root of a file) has no place of its own.
  const SourcePlace at = document_->place(as_table(table_));
  return at.line > 0 ? at : SourcePlace{document_->file, 1, 1};
}
SourcePlace TomlTable::place(std::string_view key) const {
  const toml::node* node = table_ ? as_table(table_).get(key) : nullptr;
  return node ? document_->place(*node) : place();
}
void TomlTable::error(std::string message, std::string hint) {
  document_->faults.push_back({place(), std::move(message), std::move(hint)});
}
void TomlTable::error_at(std::string_view key, std::string_view message, std::string hint) {
  document_->faults.push_back({place(key), fmt::format("'{}': {}", path(key), message), std::move(hint)});
}
bool TomlTable::has(std::string_view key) const { return table_ && as_table(table_).contains(key); }
bool TomlTable::is_table(std::string_view key) const {
  const toml::node* node = table_ ? as_table(table_).get(key) : nullptr;
  return node && node->is_table();
}
std::vector<std::string> TomlTable::keys() const {
  std::vector<std::string> out;
  if (table_)
    for (const auto& [key, node] : in_file_order(as_table(table_))) out.emplace_back(key->str());
  return out;
}

void TomlTable::forbid(std::string_view key, std::string_view reason) {
  if (!has(key)) return;
  document_->ask(as_table(table_), key);
  error_at(key, fmt::format("is out of place: {}", reason));
}

const void* TomlTable::find(std::string_view key, Need need) {
  if (!table_) return nullptr;
  document_->ask(as_table(table_), key);
  const toml::node* node = as_table(table_).get(key);
  if (node)
    document_->places[path(key)] = document_->place(*node);
  else if (need == Need::required)
    error(fmt::format("{} is missing '{}'", path_.empty() ? "the file" : fmt::format("[{}]", path_), key));
  return node;
}

template <class T>
bool TomlTable::read(std::string_view key, T& out, Need need, const Range<T>& range) {
  const auto* node = static_cast<const toml::node*>(find(key, need));
  if (!node) return false;
  const auto fail = [&](std::string_view message, std::string hint = {}) {
    error_at(key, message, std::move(hint));
    return false;
  };
  if constexpr (std::is_same_v<T, std::string>) {
    if (!node->is_string()) return fail(fmt::format("expected a string, found {}", shown(*node)));
    out = node->as_string()->get();
    if (out.empty()) return fail("is an empty string");
  } else if constexpr (std::is_same_v<T, bool>) {
    if (!node->is_boolean()) return fail(fmt::format("expected true or false, found {}", shown(*node)));
    out = node->as_boolean()->get();
  } else if constexpr (std::integral<T>) {
    if (!node->is_integer()) return fail(fmt::format("expected an integer, found {}", shown(*node)));
    const std::int64_t v = node->as_integer()->get();
    const Range<std::int64_t> wide{range.min, range.max, range.min_excluded};
    if (const std::string fault = range_fault(v, wide); !fault.empty()) return fail(fmt::format("{} {}", v, fault));
    out = static_cast<T>(v);
  } else if constexpr (std::floating_point<T>) {
    const std::optional<double> v = node->value<double>();
    if (!v) return fail(fmt::format("expected a number, found {}", shown(*node)));
    if (const std::string fault = range_fault(*v, range); !fault.empty()) return fail(fmt::format("{} {}", *v, fault));
    out = *v;
  } else {
    if (const auto value = scalar(*node); value && node->is_number()) {
      const Fault fault = without_unit<T>(to_text(*value));
      return fail(fault.message, fault.hint);
    }
    if (!node->is_string()) return fail(fmt::format("expected {}, found {}", expected_form<T>(), shown(*node)));
    const auto parsed = parse_quantity<T>(node->as_string()->get(), range);
    if (const Fault* fault = std::get_if<Fault>(&parsed)) return fail(fault->message, fault->hint);
    out = std::get<T>(parsed);
  }
  return true;
}

std::optional<std::size_t> TomlTable::choice(std::string_view key, const std::vector<std::string_view>& names,
                                             Need need) {
  std::string text;
  if (!read(key, text, need, {})) return std::nullopt;
  const auto it = std::find(names.begin(), names.end(), text);
  if (it != names.end()) return static_cast<std::size_t>(it - names.begin());
  error_at(key, fmt::format("no such choice as '{}'; one of: {}", text, fmt::join(names, ", ")),
           nearest_name(text, names).empty() ? "" : fmt::format("did you mean '{}'?", nearest_name(text, names)));
  return std::nullopt;
}

bool TomlTable::list(std::string_view key, std::vector<RawValue>& out, Need need) {
  const auto* node = static_cast<const toml::node*>(find(key, need));
  if (!node) return false;
  if (!node->is_array()) {
    error_at(key, fmt::format("expected a list as in [1, 2], found {}", shown(*node)));
    return false;
  }
  std::vector<RawValue> values;
  bool good = true;
  for (const toml::node& element : *node->as_array()) {
    std::optional<RawValue> value = scalar(element);
    if (value) {
      value->key = key;
      value->place = document_->place(element);
      values.push_back(std::move(*value));
    } else {
      good = false;
      document_->faults.push_back({document_->place(element),
                                   fmt::format("'{}': expected single values, found {}", path(key), type_name(element)),
                                   {}});
    }
  }
  if (good) out = std::move(values);
  return good;
}

bool TomlTable::strings(std::string_view key, std::vector<std::string>& out, Need need) {
  const toml::node* node = table_ ? as_table(table_).get(key) : nullptr;
  if (node && node->is_string()) {
    std::string one;
    if (!read(key, one, need, {})) return false;
    out = {one};
    return true;
  }
  std::vector<RawValue> values;
  if (!list(key, values, need)) return false;
  std::vector<std::string> texts;
  for (const RawValue& v : values) {
    if (const std::string* s = std::get_if<std::string>(&v.value))
      texts.push_back(*s);
    else
      document_->faults.push_back(
          {v.place, fmt::format("'{}': expected a string, found {}", path(key), to_text(v)), {}});
  }
  if (texts.size() != values.size()) return false;
  out = std::move(texts);
  return true;
}

TomlTable TomlTable::table(std::string_view key, Need need) {
  const auto* node = static_cast<const toml::node*>(find(key, need));
  if (!node) return {};
  if (const toml::table* t = node->as_table()) return document_->open(*t, path(key));
  const bool tables = node->is_array_of_tables();
  error_at(key, fmt::format("expected one table, found {}", tables ? "a list of tables" : shown(*node)),
           fmt::format("write [{}] and its keys below it", path(key)));
  return {};
}

std::vector<TomlTable> TomlTable::tables(std::string_view key) {
  const auto* node = static_cast<const toml::node*>(find(key, Need::optional));
  if (!node) return {};
  std::vector<TomlTable> out;
  if (const toml::array* list = node->as_array(); list && (list->empty() || list->is_array_of_tables())) {
    for (const toml::node& element : *list)
      out.push_back(document_->open(*element.as_table(), fmt::format("{}[{}]", path(key), out.size())));
  } else {
    error_at(key, fmt::format("expected a list of tables, found {}", shown(*node)),
             fmt::format("write [[{}]] above each one's keys", path(key)));
  }
  return out;
}

std::vector<RawValue> TomlTable::rest() {
  std::vector<RawValue> out;
  if (!table_) return out;
  const std::vector<std::string> asked = document_->opened[&as_table(table_)].asked;
  for (const auto& [key, node] : in_file_order(as_table(table_))) {
    if (std::find(asked.begin(), asked.end(), key->str()) != asked.end()) continue;
    find(key->str(), Need::optional);
    if (std::optional<RawValue> value = scalar(*node)) {
      value->key = std::string(key->str());
      value->place = document_->place(*node);
      out.push_back(std::move(*value));
    } else {
      error_at(key->str(), fmt::format("expected a single value, found {}", type_name(*node)));
    }
  }
  return out;
}

template bool TomlTable::read(std::string_view, bool&, Need, const Range<bool>&);
template bool TomlTable::read(std::string_view, int&, Need, const Range<int>&);
template bool TomlTable::read(std::string_view, std::int64_t&, Need, const Range<std::int64_t>&);
template bool TomlTable::read(std::string_view, double&, Need, const Range<double>&);
template bool TomlTable::read(std::string_view, std::string&, Need, const Range<std::string>&);
template bool TomlTable::read(std::string_view, Bytes&, Need, const Range<Bytes>&);
template bool TomlTable::read(std::string_view, Picoseconds&, Need, const Range<Picoseconds>&);
template bool TomlTable::read(std::string_view, BytesPerSecond&, Need, const Range<BytesPerSecond>&);
template bool TomlTable::read(std::string_view, FlopsPerSecond&, Need, const Range<FlopsPerSecond>&);

}  // namespace moesim
