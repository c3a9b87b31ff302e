// A Plan as JSON. Enumerators are spelled as in names.hpp; an id is its number, -1 for none; rows are a number or
// {"table": id}; the work of an op carries its type.
#include "plan/file.hpp"

#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "moesim/error.hpp"
#include "plan/fields.hpp"
#include "plan/names.hpp"
#include "support/files.hpp"

namespace moesim {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::array<std::string_view, std::variant_size_v<Work>> work_types{
    "gemm", "grouped_gemm", "attention_core", "elementwise", "permute", "copy", "host_sync", "collective"};

// The names of an enum, found by its type.
template <class E>
struct Names;
#define MOESIM_NAMES(Enum, table)         \
  template <>                             \
  struct Names<Enum> {                    \
    static constexpr auto& value = table; \
  }
MOESIM_NAMES(BufferRole, buffer_role_names);
MOESIM_NAMES(Location, location_names);
MOESIM_NAMES(Category, category_names);
MOESIM_NAMES(Pass, pass_names);
MOESIM_NAMES(Collective::Kind, collective_names);
MOESIM_NAMES(Collective::Algorithm, algorithm_names);
MOESIM_NAMES(Elementwise::Fn, elementwise_names);
MOESIM_NAMES(RowOrder, row_order_names);
MOESIM_NAMES(GroupedGemm::Form, gemm_form_names);
MOESIM_NAMES(Copy::Direction, copy_direction_names);
MOESIM_NAMES(Activation, activation_names);
#undef MOESIM_NAMES
constexpr std::array<std::string_view, all_dtypes.size()> dtype_names{"f32",  "bf16", "f16", "fp8",
                                                                      "int8", "fp4",  "i32"};
constexpr std::array<std::string_view, all_maths.size()> math_names{"f32", "tf32", "bf16", "f16", "fp8", "int8", "fp4"};
template <>
struct Names<DType> {
  static constexpr auto& value = dtype_names;
};
template <>
struct Names<Math> {
  static constexpr auto& value = math_names;
};

// ---- writing
// ---------------------------------------------------------------------------------------------------------

template <class T>
concept HasFields = requires(T& x) { for_each_field(x, [](const char*, auto&&) {}); };

template <class T>
ordered_json to_json(const T& x);

template <class T>
ordered_json array_of(const T& items) {
  ordered_json out = ordered_json::array();
  for (const auto& item : items) out.push_back(to_json(item));
  return out;
}

template <class T>
ordered_json object_of(const T& x) {
  ordered_json out = ordered_json::object();
  for_each_field(x, [&](const char* name, const auto& v) { out[name] = to_json(v); });
  return out;
}

template <class Tag>
ordered_json id_to_json(Id<Tag> id) {
  return id.value();
}

template <class T>
ordered_json to_json(const T& x) {
  if constexpr (std::is_arithmetic_v<T> || std::same_as<T, std::string> ||
                std::same_as<T, std::map<std::string, std::string>>) {
    return x;
  } else if constexpr (std::is_enum_v<T>) {
    return name_of(Names<T>::value, x);
  } else if constexpr (std::same_as<T, Rows>) {
    return x.table.valid() ? ordered_json{{"table", x.table.value()}} : ordered_json(x.fixed);
  } else if constexpr (std::same_as<T, Table>) {
    return {{"rows", x.rows()}, {"cols", x.cols()}, {"cells", std::vector(x.cells().begin(), x.cells().end())}};
  } else if constexpr (std::same_as<T, Work>) {
    ordered_json out = {{"type", work_types[x.index()]}};
    std::visit([&](const auto& w) { out.update(object_of(w)); }, x);
    return out;
  } else if constexpr (std::same_as<T, Shard>) {
    return x == Shard{} ? ordered_json() : object_of(x);
  } else if constexpr (HasFields<T>) {
    return object_of(x);
  } else if constexpr (requires { x.begin(); }) {
    return array_of(x);
  } else {
    return id_to_json(x);
  }
}

// ---- reading
// ---------------------------------------------------------------------------------------------------------

class Reader {
 public:
  explicit Reader(std::string file) : file_(std::move(file)) {}

  template <class T>
  void read(const json& j, const std::string& at, T& out) {
    if constexpr (std::same_as<T, bool>) {
      if (!j.is_boolean()) fail(at, "should be true or false", j);
      out = j.get<bool>();
    } else if constexpr (std::is_integral_v<T>) {
      if (!j.is_number_integer()) fail(at, "should be an integer", j);
      const auto v = j.get<std::int64_t>();
      if (v < std::int64_t{std::numeric_limits<T>::min()} || v > std::int64_t{std::numeric_limits<T>::max()} ||
          (j.is_number_unsigned() && j.get<std::uint64_t>() > std::uint64_t{std::numeric_limits<std::int64_t>::max()}))
        fail(at, "is too large", j);
      out = static_cast<T>(v);
    } else if constexpr (std::same_as<T, std::string>) {
      if (!j.is_string()) fail(at, "should be a string", j);
      out = j.get<std::string>();
    } else if constexpr (std::same_as<T, std::map<std::string, std::string>>) {
      if (!j.is_object()) fail(at, "should be an object", j);
      for (const auto& [key, v] : j.items()) read(v, at + "." + key, out[key]);
    } else if constexpr (std::is_enum_v<T>) {
      read_enum(j, at, out);
    } else if constexpr (std::same_as<T, Rows>) {
      if (j.is_object()) {
        read(field(j, at, "table"), at + ".table", out.table);
        if (!out.table.valid()) fail(at, "does not name a table", j);
      } else {
        read(j, at, out.fixed);
      }
    } else if constexpr (std::same_as<T, Table>) {
      read_table(j, at, out);
    } else if constexpr (std::same_as<T, Work>) {
      read_work(j, at, out);
    } else if constexpr (std::same_as<T, Shard>) {
      if (!j.is_null()) read_fields(j, at, out);
    } else if constexpr (HasFields<T>) {
      read_fields(j, at, out);
    } else if constexpr (requires { out.emplace_back(); }) {
      if (!j.is_array()) fail(at, "should be an array", j);
      out.clear();
      out.reserve(j.size());
      for (std::size_t i = 0; i < j.size(); ++i) read(j[i], fmt::format("{}[{}]", at, i), out.emplace_back());
    } else {
      std::int32_t v = 0;
      read(j, at, v);
      out = T(v);
    }
  }

 private:
  [[noreturn]] void fail(const std::string& at, const std::string& what, const json& value) {
    std::string shown = value.dump(-1, ' ', false, json::error_handler_t::replace);
    if (shown.size() > 60) shown = shown.substr(0, 57) + "...";
    throw InputError({file_, 0, 0}, fmt::format("{} {}: {}", at, what, shown),
                     "the plan was damaged or edited; make it again with 'moesim plan'");
  }
  template <class T>
  void read_fields(const json& j, const std::string& at, T& out) {
    if (!j.is_object()) fail(at, "should be an object", j);
    for_each_field(out, [&](const char* name, auto& v) { read(field(j, at, name), join(at, name), v); });
  }
  static std::string join(const std::string& at, const char* name) { return at.empty() ? name : at + "." + name; }
  const json& field(const json& j, const std::string& at, const char* name) {
    const auto found = j.find(name);
    if (found == j.end()) throw InputError({file_, 0, 0}, fmt::format("{} is missing", join(at, name)));
    return *found;
  }
  template <class E>
  void read_enum(const json& j, const std::string& at, E& out) {
    std::string name;
    read(j, at, name);
    const auto v = parse_name<E>(Names<E>::value, name);
    if (!v) {
      const std::vector<std::string_view> all(Names<E>::value.begin(), Names<E>::value.end());
      const std::string_view near = nearest_name(name, all);
      throw InputError({file_, 0, 0}, fmt::format("{} is '{}', which is not one of the known names", at, name),
                       near.empty() ? std::string() : fmt::format("did you mean '{}'?", near));
    }
    out = *v;
  }
  void read_table(const json& j, const std::string& at, Table& out) {
    if (!j.is_object()) fail(at, "should be an object", j);
    int rows = 0;
    int cols = 0;
    read(field(j, at, "rows"), at + ".rows", rows);
    read(field(j, at, "cols"), at + ".cols", cols);
    const json& cells = field(j, at, "cells");
    if (rows < 0 || cols < 0 || !cells.is_array() ||
        cells.size() != static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols))
      throw InputError({file_, 0, 0}, fmt::format("{} should have {} x {} cells", at, rows, cols));
    out = Table(rows, cols);
    std::size_t i = 0;
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < cols; ++c, ++i) read(cells[i], fmt::format("{}.cells[{}]", at, i), out.at(r, c));
  }
  template <std::size_t I = 0>
  void read_work(const json& j, const std::string& at, Work& out) {
    if constexpr (I == std::variant_size_v<Work>) {
      fail(at + ".type", "is not a type of work", field(j, at, "type"));
    } else {
      if (!j.is_object()) fail(at, "should be an object", j);
      if (field(j, at, "type") != work_types[I]) return read_work<I + 1>(j, at, out);
      read(j, at, out.emplace<I>());
    }
  }

  std::string file_;
};

}  // namespace

std::string plan_text(const Plan& plan) {
  ordered_json out = {{"format_version", Plan::format_version}};
  out.update(to_json(plan));
  return out.dump() + '\n';
}

void write_plan(const Plan& plan, const std::string& path) { write_file(path, plan_text(plan)); }

Plan read_plan(const std::string& path) {
  const std::string text = read_file(path);
  json j;
  try {
    j = json::parse(text);
  } catch (const json::parse_error& e) {
    // e.byte counts from 1.
    const std::string_view before = std::string_view(text).substr(0, e.byte > 0 ? e.byte - 1 : 0);
    const auto line = static_cast<int>(std::count(before.begin(), before.end(), '\n')) + 1;
    const auto column = static_cast<int>(before.size() - (before.rfind('\n') + 1)) + 1;
    throw InputError({path, line, column}, "is not a plan: the JSON is broken or truncated here",
                     "make it again with 'moesim plan'");
  }
  const auto version = j.is_object() ? j.find("format_version") : j.end();
  if (!j.is_object() || version == j.end() || !version->is_number_integer())
    throw InputError({path, 0, 0}, "is not a plan: it has no format_version");
  if (*version != Plan::format_version)
    throw InputError(
        {path, 0, 0},
        fmt::format("has plan format {}, and this program reads {}", version->dump(), Plan::format_version),
        "make the plan again with 'moesim plan' of the same version");
  Plan plan;
  Reader(path).read(j, "", plan);
  std::vector<Diagnostic> diagnostics;
  for (const std::string& fault : faults(plan)) diagnostics.push_back({{path, 0, 0}, fault, {}});
  if (!diagnostics.empty()) throw InputError(std::move(diagnostics));
  return plan;
}

}  // namespace moesim
