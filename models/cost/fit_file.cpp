#include "models/cost/fit_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "models/cost/collective_model.hpp"
#include "models/cost/device_costs.hpp"
#include "models/cost/exchange_model.hpp"
#include "models/cost/expert_model.hpp"
#include "models/cost/host_model.hpp"
#include "moesim/error.hpp"
#include "support/files.hpp"
#include "support/toml_reader.hpp"

namespace moesim::cost {
namespace {

constexpr int format_version = 1;

constexpr std::array<std::pair<std::string_view, double Accuracy::*>, 10> accuracy_keys{
    {{"median", &Accuracy::median},
     {"p90", &Accuracy::p90},
     {"bias", &Accuracy::bias},
     {"low", &Accuracy::low},
     {"high", &Accuracy::high},
     {"coverage", &Accuracy::coverage},
     {"roofline_median", &Accuracy::roofline_median},
     {"roofline_p90", &Accuracy::roofline_p90},
     {"nearest_median", &Accuracy::nearest_median},
     {"nearest_p90", &Accuracy::nearest_p90}}};

template <class P>
std::string_view find_meaning(std::span<const Field<P>> fields, std::string_view name) {
  for (const Field<P>& f : fields)
    if (f.name == name) return f.meaning;
  return {};
}

std::string_view meaning(const FitEntry& entry, std::string_view name) {
  if (entry.schema == host_schema) {
    for (const HostKernel kernel : all_host_kernels)
      for (const HostTerm& t : host_terms(kernel))
        if (entry.variant == to_string(kernel) && t.name == name) return t.meaning;
    return {};
  }
  if (entry.schema == device_schema) {
    for (const DeviceCost c : all_device_costs)
      if (entry.dtype == to_string(c)) return find_meaning(line_fields(c), name);
    return {};
  }
  if (entry.schema == "nccl") return find_meaning(collective_fields(), name);
  if (entry.schema == "deepep") {
    const std::string_view m = find_meaning(low_latency_fields(), name);
    return m.empty() || !entry.dtype.starts_with("low") ? find_meaning(exchange_fields(), name) : m;
  }
  for (const std::string_view m :
       {find_meaning(expert_fields(), name), find_meaning(tile_fields(), name), find_meaning(quant_fields(), name)})
    if (!m.empty()) return m;
  return {};
}

// A TOML float: never a bare integer, five digits.
std::string number(double v) {
  std::string out = fmt::format("{:.5g}", v);
  return out.find_first_of(".e") == std::string::npos ? out + ".0" : out;
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out + '"';
}

void write_entry(const FitEntry& e, std::string& out) {
  const auto text = [&](std::string_view key, std::string_view value) {
    if (!value.empty()) out += fmt::format("{} = {}\n", key, quoted(value));
  };
  out += "\n[[fit]]\n";
  text("schema", e.schema);
  text("library", e.library);
  text("dtype", e.dtype);
  text("variant", e.variant);
  text("gpu", e.gpu);
  text("source", e.source);
  out += fmt::format("rows = {}\n", e.rows);
  text("holdout", e.holdout);
  text("transferred_from", e.transferred_from);
  if (!e.transferred_from.empty()) out += fmt::format("transfer_sigma = {:.4g}\n", e.transfer_sigma);
  if (!e.notes.empty()) {
    out += "notes = [\n";
    for (const std::string& note : e.notes) out += fmt::format("  {},\n", quoted(note));
    out += "]\n";
  }
  out += "\n[fit.parameters]\n";
  std::size_t width = 0;
  for (const auto& [name, value] : e.parameters) width = std::max(width, name.size());
  for (const auto& [name, value] : e.parameters)
    out += fmt::format("{:<{}} = {:<10} # {}\n", name, width, number(value), meaning(e, name));
  out += "\n[fit.ranges]\n";
  for (const CalibratedRange& r : e.ranges)
    out += fmt::format("{} = [{}, {}]\n", r.quantity, number(r.low), number(r.high));
  for (const Accuracy& a : e.accuracy) {
    out += fmt::format("\n[[fit.accuracy]]\nregime = {}\nrows = {}\n", quoted(a.regime), a.rows);
    for (const auto& [key, field] : accuracy_keys) out += fmt::format("{} = {:.4f}\n", key, a.*field);
  }
}

void read_entry(TomlDocument& document, TomlTable table, FitEntry& e) {
  table.require("schema", e.schema);
  table.maybe("library", e.library);
  table.maybe("dtype", e.dtype);
  table.maybe("variant", e.variant);
  table.maybe("gpu", e.gpu);
  table.maybe("source", e.source);
  table.require("rows", e.rows, {0, 100'000'000});
  table.maybe("holdout", e.holdout);
  table.maybe("transferred_from", e.transferred_from);
  table.maybe("transfer_sigma", e.transfer_sigma);
  table.strings("notes", e.notes);
  for (const RawValue& v : table.require_table("parameters").rest()) {
    const double* real = std::get_if<double>(&v.value);
    const std::int64_t* whole = std::get_if<std::int64_t>(&v.value);
    const double value = real ? *real : whole ? static_cast<double>(*whole) : 0;
    if (!(value > 0)) {
      document.error(v.place, fmt::format("parameter '{}' is {}: a number above 0 is due", v.key, to_text(v)));
      continue;
    }
    e.parameters[v.key] = value;
  }
  if (TomlTable ranges = table.table("ranges"))
    for (const std::string& key : ranges.keys()) {
      std::vector<RawValue> ends;
      ranges.list(key, ends);
      std::array<double, 2> at{};
      bool good = ends.size() == 2;
      for (std::size_t i = 0; good && i < 2; ++i) {
        const double* real = std::get_if<double>(&ends[i].value);
        const std::int64_t* whole = std::get_if<std::int64_t>(&ends[i].value);
        good = real || whole;
        at[i] = real ? *real : whole ? static_cast<double>(*whole) : 0;
      }
      if (good && at[0] <= at[1])
        e.ranges.push_back({key, at[0], at[1]});
      else
        ranges.error_at(key, "a list of two rising numbers is due");
    }
  for (TomlTable row : table.tables("accuracy")) {
    Accuracy a;
    row.require("regime", a.regime);
    row.require("rows", a.rows, {0, 100'000'000});
    for (const auto& [key, field] : accuracy_keys) row.maybe(key, a.*field, {-1e9, 1e9});
    e.accuracy.push_back(std::move(a));
  }
}

}  // namespace

const Accuracy* FitEntry::find(std::string_view regime) const {
  for (const Accuracy& a : accuracy)
    if (a.regime == regime) return &a;
  return nullptr;
}

std::string to_toml(const FitFile& file) {
  std::string out =
      "# Fitted cost-model parameters, written by `moesim calibrate`. docs/cost_models.md has the equations.\n"
      "# Errors are of rows that the fit had not seen: |ln(predicted / measured)|; low and high bound the middle 90 % "
      "of\n"
      "# ln(measured / predicted).\n";
  out += fmt::format("format = {}\nmachine = {}\n", format_version, quoted(file.machine));
  for (const FitEntry& e : file.entries) write_entry(e, out);
  return out;
}

void write_fit_file(const FitFile& file, const std::string& path) { write_file(path, to_toml(file)); }

FitFile read_fit_file(const std::string& path) {
  TomlDocument document(path);
  TomlTable root = document.root();
  FitFile file;
  int format = 0;
  root.require("format", format, {format_version, format_version});
  root.require("machine", file.machine);
  for (const TomlTable& table : root.tables("fit")) {
    FitEntry entry;
    read_entry(document, table, entry);
    file.entries.push_back(std::move(entry));
  }
  document.throw_if_errors();
  return file;
}

std::optional<std::string> shipped_fit_file(std::string_view machine) {
  try {
    return data_path(fmt::format("models/fitted/{}.fit.toml", machine));
  } catch (const InputError&) {
    return std::nullopt;
  }
}

}  // namespace moesim::cost
