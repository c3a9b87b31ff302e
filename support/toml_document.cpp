#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <set>
#include <tuple>

#include "support/files.hpp"
#include "support/toml_impl.hpp"

namespace moesim {

namespace toml_detail {

std::string_view type_name(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::none:
      return "nothing";
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "a list";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "an integer";
    case toml::node_type::floating_point:
      return "a number";
    case toml::node_type::boolean:
      return "a boolean";
    case toml::node_type::date:
    case toml::node_type::time:
    case toml::node_type::date_time:
      return "a date or time";
  }
  return "";
}

std::optional<RawValue> scalar(const toml::node& node) {
  RawValue out;
  if (const auto* v = node.as_boolean())
    out.value = v->get();
  else if (const auto* i = node.as_integer())
    out.value = i->get();
  else if (const auto* d = node.as_floating_point())
    out.value = d->get();
  else if (const auto* s = node.as_string())
    out.value = s->get();
  else
    return std::nullopt;
  return out;
}

std::string shown(const toml::node& node) {
  const std::optional<RawValue> v = scalar(node);
  if (!v) return std::string(type_name(node));
  std::string text = to_text(*v);
  if (text.size() > 40) text = text.substr(0, 37) + "...";
  return fmt::format("{}, {}", type_name(node), text);
}

std::string nearest_hint(std::string_view word, const std::vector<std::string_view>& names) {
  if (const std::string_view near = nearest_name(word, names); !near.empty())
    return fmt::format("did you mean '{}'?", near);
  return names.empty() ? std::string() : fmt::format("one of: {}", fmt::join(names, ", "));
}

}  // namespace toml_detail

using namespace toml_detail;

TomlDocument::TomlDocument(const std::string& path) : TomlDocument(read_file(path, std::size_t{16} << 20), path) {}

namespace {

// What the parser could not read. It takes a word without quotes for a number or a date that went wrong; say what it
// is.
Diagnostic parse_fault(std::string_view text, const std::string& name, const toml::parse_error& e) {
  const toml::source_position at = e.source().begin;
  for (toml::source_index line = 1; line < at.line; ++line)
    text.remove_prefix(std::min(text.find('\n'), text.size() - 1) + 1);
  const std::string_view line = text.substr(0, text.find('\n'));
  const std::size_t begin = line.find_first_not_of(' ', std::min(line.find('='), line.size() - 1) + 1);
  if (begin != std::string_view::npos && std::isalpha(static_cast<unsigned char>(line[begin]))) {
    const std::string_view rest = line.substr(begin);
    const std::string_view word = rest.substr(0, rest.find_first_of(" \t\r#,]}"));
    if (word != "true" && word != "false" && word != "nan" && word != "inf")
      return {{name, static_cast<int>(at.line), static_cast<int>(begin) + 1},
              fmt::format("{} stands without quotes", word),
              fmt::format("a text is written \"{}\"", word)};
  }
  return {{name, static_cast<int>(at.line), static_cast<int>(at.column)},
          std::string(e.description()),
          "the file is TOML: texts need quotes, and a key stands once in its table"};
}

}  // namespace

TomlDocument::TomlDocument(std::string_view text, const std::string& name) : impl_(std::make_unique<Impl>()) {
  impl_->file = name;
  try {
    impl_->root = toml::parse(text, name);
  } catch (const toml::parse_error& e) {
    throw InputError({parse_fault(text, name, e)});
  }
  if (impl_->root.empty()) throw InputError({name, 0, 0}, "is empty: it holds no keys");
}

TomlDocument::TomlDocument(TomlDocument&&) noexcept = default;
TomlDocument& TomlDocument::operator=(TomlDocument&&) noexcept = default;
TomlDocument::~TomlDocument() = default;

TomlTable TomlDocument::root() { return impl_->open(impl_->root, ""); }
const std::string& TomlDocument::file() const { return impl_->file; }
const std::map<std::string, SourcePlace>& TomlDocument::places() const { return impl_->places; }

void TomlDocument::error(SourcePlace place, std::string message, std::string hint) {
  impl_->faults.push_back({std::move(place), std::move(message), std::move(hint)});
}

void TomlDocument::Impl::report_unknown_keys() {
  for (const auto& [table, about] : opened) {
    const std::set<std::string> known(about.asked.begin(), about.asked.end());
    const std::vector<std::string_view> names(about.asked.begin(), about.asked.end());
    for (auto&& [key, node] : *table) {
      const std::string name(key.str());
      if (known.contains(name)) continue;
      std::string hint = nearest_hint(name, names);
      for (const auto& [other, theirs] : opened)
        if (std::find(theirs.asked.begin(), theirs.asked.end(), name) != theirs.asked.end())
          hint = theirs.path.empty() ? fmt::format("'{}' belongs at the top of the file", name)
                                     : fmt::format("'{}' belongs in [{}]", name, theirs.path);
      const std::string where = about.path.empty() ? "" : fmt::format(" in [{}]", about.path);
      faults.push_back({place(node, key.source()), fmt::format("unknown key '{}'{}", name, where), hint});
    }
  }
}

void TomlDocument::throw_if_errors() {
  impl_->report_unknown_keys();
  if (impl_->faults.empty()) return;
  std::stable_sort(impl_->faults.begin(), impl_->faults.end(), [](const Diagnostic& a, const Diagnostic& b) {
    return std::tie(a.place.file, a.place.line, a.place.column) < std::tie(b.place.file, b.place.line, b.place.column);
  });
  throw InputError(impl_->faults);
}

std::optional<Fault> TomlDocument::replace(std::string_view path, const RawValue& value) {
  toml::table* table = &impl_->root;
  for (std::string_view rest = path;;) {
    const std::size_t dot = rest.find('.');
    const std::string_view key = rest.substr(0, dot);
    if (key.empty()) return Fault{fmt::format("'{}' is not a key", path), "write it as in \"model.experts\""};
    if (dot == std::string_view::npos) {
      std::visit([&](const auto& v) { table->insert_or_assign(key, v); }, value.value);
      impl_->replaced[table->get(key)] = value.place;
      return std::nullopt;
    }
    rest.remove_prefix(dot + 1);
    toml::node* node = table->get(key);
    if (!node) {
      node = &table->insert_or_assign(key, toml::table{}).first->second;
      impl_->replaced[node] = value.place;
    }
    if (toml::array* list = node->as_array(); list && list->is_array_of_tables()) {
      const std::string_view wanted = rest.substr(0, rest.find('.'));
      std::vector<std::string_view> names;
      node = nullptr;
      for (std::size_t i = 0; i < list->size(); ++i) {
        toml::table& element = *list->get_as<toml::table>(i);
        std::string_view name = element["kind"].value_or(std::string_view{});
        name = element["name"].value_or(name);
        names.push_back(name);
        if (!node && (name == wanted || fmt::format("{}", i) == wanted)) node = &element;
      }
      if (!node)
        return Fault{fmt::format("'{}': no [[{}]] is named '{}'", path, key, wanted), nearest_hint(wanted, names)};
      if (rest.size() == wanted.size()) return Fault{fmt::format("'{}' names a table, not one of its keys", path), {}};
      rest.remove_prefix(wanted.size() + 1);
    }
    table = node->as_table();
    if (!table) return Fault{fmt::format("'{}': '{}' is {}, not a table", path, key, type_name(*node)), {}};
  }
}

std::string to_text(const RawValue& v) {
  if (const bool* b = std::get_if<bool>(&v.value)) return *b ? "true" : "false";
  if (const std::int64_t* i = std::get_if<std::int64_t>(&v.value)) return fmt::format("{}", *i);
  if (const double* d = std::get_if<double>(&v.value))
    return *d == std::floor(*d) && std::abs(*d) < 1e15 ? fmt::format("{:.1f}", *d) : fmt::format("{}", *d);
  return fmt::format("{:?}", std::get<std::string>(v.value));
}

}  // namespace moesim
