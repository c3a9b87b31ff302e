#include "models/arch/config_fields.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>
#include <utility>

namespace moesim::arch {
namespace {

using nlohmann::json;

constexpr std::size_t named_depth = 3;  // members this deep have a place: quantization_config inside text_config

struct Member {
  std::string path;
  std::size_t offset;
};

// The members of valid JSON text by path, with the byte offset of their keys. nlohmann's values do not know where they
// came from. Members of objects inside lists have no path.
std::vector<Member> members(std::string_view text) {
  std::vector<Member> out;
  std::array<std::string, named_depth + 1> key;  // in force at each depth; "[" inside a list
  std::size_t depth = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '{' || c == '[') {
      if (++depth <= named_depth) key[depth] = c == '[' ? "[" : "";
    } else if (c == '}' || c == ']') {
      --depth;
    } else if (c == '"') {
      std::size_t end = i + 1;
      while (text[end] != '"') end += text[end] == '\\' ? 2 : 1;
      const std::size_t next = text.find_first_not_of(" \t\r\n", end + 1);
      const bool is_key = next != std::string_view::npos && text[next] == ':';
      if (is_key && depth <= named_depth) {
        key[depth] = text.substr(i + 1, end - i - 1);
        std::string path = key[1];
        for (std::size_t d = 2; d <= depth; ++d) path += "." + key[d];
        if (std::none_of(key.begin() + 1, key.begin() + static_cast<std::ptrdiff_t>(depth),
                         [](const std::string& k) { return k == "["; }))
          out.push_back({std::move(path), i});
      }
      i = end;
    }
  }
  return out;
}

std::string shown(std::string text) {
  constexpr std::size_t most = 120;
  for (char& c : text)
    if (c < ' ' || c > '~') c = '?';
  if (text.size() > most) text = text.substr(0, most) + "...";
  return text;
}

// Scalars only: dumping a deeply nested value would recurse as deeply.
std::string shown(const json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  return shown(value.dump(-1, ' ', true, json::error_handler_t::replace));
}

std::optional<std::int64_t> whole_number(const json& v, Range range) {
  if (!v.is_number_integer()) return std::nullopt;  // numbers past 2^64 are read as doubles
  if (v.is_number_unsigned() && v.get<std::uint64_t>() > INT64_MAX) return std::nullopt;
  const auto n = v.get<std::int64_t>();
  return n >= range.min && n <= range.max ? std::optional(n) : std::nullopt;
}

std::string quoted(Names names) {
  std::string out;
  for (const std::string_view n : names) out += fmt::format("{}'{}'", out.empty() ? "" : " or ", n);
  return out;
}

// "[json.exception.parse_error.101] parse error at line 3, column 7: syntax error while ..." -> from "syntax error" on.
std::string reason(std::string_view what) {
  std::size_t from = what.find(": ");
  from = from == std::string_view::npos ? what.find("] ") : from;
  return shown(std::string(from == std::string_view::npos ? what : what.substr(from + 2)));
}

}  // namespace

ConfigFields::ConfigFields(std::string file, std::string text) : file_(std::move(file)), text_(std::move(text)) {
  if (text_.find_first_not_of(" \t\r\n") == std::string::npos)
    throw InputError({file_, 0, 0}, "is empty", "expected a Hugging Face config.json");
  try {
    root_ = json::parse(text_);
  } catch (const json::parse_error& e) {
    const std::size_t offset = e.byte > 0 ? e.byte - 1 : 0;
    throw InputError(place_at(offset), fmt::format("is not JSON: {}", reason(e.what())),
                     offset >= text_.size() ? "the file ends early: was it copied whole?" : "");
  } catch (const json::out_of_range& e) {  // a number beyond double, quoted in the message
    const std::string_view what = e.what();
    const std::size_t open = what.find('\'');
    const std::size_t close = what.rfind('\'');
    const std::size_t at = open < close ? text_.find(what.substr(open + 1, close - open - 1)) : std::string::npos;
    throw InputError(place_at(at == std::string::npos ? 0 : at), fmt::format("is not JSON: {}", reason(what)));
  }
  if (!root_.is_object())
    throw InputError(place_at(text_.find_first_not_of(" \t\r\n")),
                     fmt::format("must hold a JSON object, holds {}", shown(root_)),
                     "expected a Hugging Face config.json");
  for (Member& m : members(text_)) {
    const auto [first, inserted] = offset_of_.emplace(m.path, m.offset);
    if (inserted) continue;
    errors_.push_back({place_at(m.offset), fmt::format("'{}' stands here a second time", shown(m.path)),
                       fmt::format("it was first given in line {}", place_at(first->second).line)});
  }
}

std::int64_t ConfigFields::count(Names names, Range range) {
  const Found found = require(names);
  return found.value ? whole(found, names, range) : range.min;
}
std::int64_t ConfigFields::count(Names names, Range range, std::int64_t absent) {
  const Found found = find(names);
  return found.value ? whole(found, names, range) : absent;
}

std::int64_t ConfigFields::whole(const Found& found, Names names, Range range) {
  if (const auto n = whole_number(*found.value, range)) return *n;
  report(found, names,
         fmt::format("must be a whole number of {} to {}, is {}", range.min, range.max, shown(*found.value)));
  return range.min;
}

bool ConfigFields::flag(std::string_view name, bool absent) {
  const Found found = find({name});
  if (!found.value) return absent;
  if (found.value->is_boolean()) return found.value->get<bool>();
  report(found, {name}, fmt::format("must be true or false, is {}", shown(*found.value)));
  return absent;
}

std::string ConfigFields::word(std::string_view name) { return require({name}).value ? word(name, "") : std::string(); }
std::string ConfigFields::word(std::string_view name, std::string_view absent) {
  const Found found = find({name});
  if (!found.value) return std::string(absent);
  if (found.value->is_string()) return found.value->get<std::string>();
  report(found, {name}, fmt::format("must be text in quotes, is {}", shown(*found.value)));
  return std::string(absent);
}

std::vector<std::int64_t> ConfigFields::counts(std::string_view name, Range range) {
  const Found found = find({name});
  std::vector<std::int64_t> out;
  if (!found.value) return out;
  if (!found.value->is_array()) {
    report(found, {name}, fmt::format("must be a list of whole numbers, is {}", shown(*found.value)));
    return out;
  }
  for (const json& item : *found.value) {
    const auto n = whole_number(item, range);
    if (!n)
      report(found, {name},
             fmt::format("must hold whole numbers of {} to {}, holds {}", range.min, range.max, shown(item)));
    out.push_back(n.value_or(range.min));
  }
  return out;
}

std::vector<std::string> ConfigFields::words(std::string_view name) {
  const Found found = find({name});
  std::vector<std::string> out;
  if (!found.value) return out;
  const bool good =
      found.value->is_array() && std::ranges::all_of(*found.value, [](const json& item) { return item.is_string(); });
  if (!good)
    report(found, {name}, "must be a list of texts in quotes");
  else
    out = found.value->get<std::vector<std::string>>();
  return out;
}

bool ConfigFields::has(std::string_view name) const { return find(name).value != nullptr; }

void ConfigFields::check(bool ok, std::string_view name, Names others, const std::string& message,
                         const std::string& hint) {
  const auto is_bad = [&](std::string_view n) { return bad_.contains(n); };
  if (ok || is_bad(name) || std::ranges::any_of(others, is_bad)) return;
  errors_.push_back({place(name), message, hint});
  bad_.emplace(name);
}

void ConfigFields::unknown(std::string_view name, std::string_view value, const std::vector<std::string_view>& known) {
  const std::string_view nearest = nearest_name(value, known);
  check(
      false, name, {}, fmt::format("{} '{}' is not known", name, shown(std::string(value))),
      nearest.empty() ? fmt::format("known: {}", fmt::join(known, ", ")) : fmt::format("did you mean '{}'?", nearest));
}

void ConfigFields::finish() {
  if (errors_.empty()) return;
  std::ranges::stable_sort(errors_, {}, [](const Diagnostic& d) { return std::tuple(d.place.line, d.place.column); });
  throw InputError(std::move(errors_));
}

SourcePlace ConfigFields::place(std::string_view name) const {
  const auto alias = spelling_.find(std::string(name));
  const Found found = find(alias == spelling_.end() ? name : std::string_view(alias->second));
  const auto at = offset_of_.find(found.path);
  return at == offset_of_.end() ? SourcePlace{file_, 0, 0} : place_at(at->second);
}

ConfigFields::Found ConfigFields::find(std::string_view name) const {
  // A dot steps into an object: "quantization_config.quant_method".
  const auto step = [&](const json* from, std::string_view path) -> const json* {
    for (std::size_t dot = 0; from && dot != std::string_view::npos;) {
      dot = path.find('.');
      const auto at = from->is_object() ? from->find(std::string(path.substr(0, dot))) : from->end();
      from = from->is_object() && at != from->end() && !at->is_null() ? &*at : nullptr;
      if (dot != std::string_view::npos) path.remove_prefix(dot + 1);
    }
    return from;
  };
  if (const auto nested = root_.find("text_config"); nested != root_.end())
    if (const json* v = step(&*nested, name)) return {v, "text_config." + std::string(name)};
  if (const json* v = step(&root_, name)) return {v, std::string(name)};
  return {};
}

ConfigFields::Found ConfigFields::find(Names names) {
  for (const std::string_view name : names) {
    Found found = find(name);
    if (!found.value) continue;
    spelling_[std::string(*names.begin())] = name;
    return found;
  }
  return {};
}

ConfigFields::Found ConfigFields::require(Names names) {
  Found found = find(names);
  if (found.value) return found;
  const auto nested = root_.find("text_config");
  const json& scope = nested != root_.end() && nested->is_object() ? *nested : root_;
  std::vector<std::string> keys;
  for (const auto& [key, value] : scope.items()) keys.push_back(key);
  const std::string_view nearest = nearest_name(*names.begin(), {keys.begin(), keys.end()});
  std::string hint;
  if (std::ranges::find(names, nearest) != names.end())
    hint = "it is null here";
  else if (!nearest.empty())
    hint = fmt::format("the file has '{}'", shown(std::string(nearest)));
  report(found, names, fmt::format("missing field {}", quoted(names)), hint);
  return found;
}

void ConfigFields::report(const Found& found, Names names, std::string message, std::string hint) {
  if (bad_.contains(*names.begin())) return;  // a field that is read twice
  if (found.value) message = fmt::format("'{}' {}", found.path, message);
  const auto at = offset_of_.find(found.path);
  errors_.push_back(
      {at == offset_of_.end() ? SourcePlace{file_, 0, 0} : place_at(at->second), std::move(message), std::move(hint)});
  for (const std::string_view name : names) bad_.emplace(name);
}

SourcePlace ConfigFields::place_at(std::size_t offset) const {
  const std::string_view before = std::string_view(text_).substr(0, std::min(offset, text_.size()));
  const std::size_t line_start = before.rfind('\n') + 1;  // npos + 1 == 0: the first line
  return {file_, static_cast<int>(std::ranges::count(before, '\n')) + 1,
          static_cast<int>(before.size() - line_start) + 1};
}

}  // namespace moesim::arch
