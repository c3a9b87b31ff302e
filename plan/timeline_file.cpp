#include "plan/timeline_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>

#include "moesim/error.hpp"
#include "plan/file.hpp"
#include "plan/names.hpp"
#include "support/files.hpp"

namespace moesim {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::array<std::string_view, 5> kind_names{"predicted", "measured_wall", "measured_composed",
                                                     "measured_virtual_ranks", "predicted_virtual_ranks"};

class Reader {
 public:
  Reader(const std::string& path, const json& root) : path_(path), root_(root) {}

  TimelineFile read() {
    TimelineFile out;
    out.plan_hash = text(root_, "plan");
    out.strategy = text(root_, "strategy");
    out.model = text(root_, "model");
    out.workload = text(root_, "workload");
    out.method = text(root_, "method");
    const std::string kind = text(root_, "kind");
    const auto parsed = parse_name<Timeline::Kind>(kind_names, kind);
    if (!parsed) fail(fmt::format("kind is '{}', which is not one of the known names", kind));
    out.timeline.kind = *parsed;
    out.timeline.ranks = static_cast<int>(number(root_, "ranks", 1, 1 << 24));
    for (const json& op : array(root_, "ops")) {
      const std::string pass_name = text(op, "pass");
      const auto pass = parse_name<Pass>(pass_names, pass_name);
      if (!pass) fail(fmt::format("pass is '{}', which is not one of the known names", pass_name));
      out.ops.push_back({text(op, "name"), text(op, "kind"), text(op, "category"),
                         Layer(static_cast<std::int32_t>(number(op, "layer", -1, 1 << 24))), *pass});
    }
    for (const json& s : array(root_, "spans")) out.timeline.spans.push_back(span(s, out));
    const auto key = [](const Span& s) { return std::pair(s.op, s.rank); };
    for (std::size_t i = 1; i < out.timeline.spans.size(); ++i)
      if (key(out.timeline.spans[i - 1]) >= key(out.timeline.spans[i]))
        fail(fmt::format("span {} is not in order of ops and ranks", i));
    for (const Span& s : out.timeline.spans) out.timeline.makespan = std::max(out.timeline.makespan, s.end);
    return out;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw InputError({path_, 0, 0}, what, "the file was damaged or edited; make it again");
  }
  const json& field(const json& j, const char* name) const {
    if (!j.is_object()) fail(fmt::format("there is something else where '{}' should be", name));
    const auto found = j.find(name);
    if (found == j.end()) fail(fmt::format("{} is missing", name));
    return *found;
  }
  std::string text(const json& j, const char* name) const {
    const json& v = field(j, name);
    if (!v.is_string()) fail(fmt::format("{} should be a string", name));
    return v.get<std::string>();
  }
  const json& array(const json& j, const char* name) const {
    const json& v = field(j, name);
    if (!v.is_array()) fail(fmt::format("{} should be an array", name));
    return v;
  }
  std::int64_t number(const json& v, std::int64_t min, std::int64_t max, const std::string& what) const {
    const bool whole =
        v.is_number_integer() &&
        (!v.is_number_unsigned() || v.get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<std::int64_t>::max()});
    if (!whole) fail(fmt::format("{} should be an integer", what));
    const auto n = v.get<std::int64_t>();
    if (n < min || n > max) fail(fmt::format("{} is {}, outside {} to {}", what, n, min, max));
    return n;
  }
  std::int64_t number(const json& j, const char* name, std::int64_t min, std::int64_t max) const {
    return number(field(j, name), min, max, name);
  }

  Span span(const json& j, const TimelineFile& file) const {
    const std::size_t i = file.timeline.spans.size();
    if (!j.is_array() || j.size() != 7) fail(fmt::format("span {} should have 7 numbers", i));
    constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
    const auto at = [&](std::size_t n, std::int64_t max, const char* what) {
      return number(j[n], 0, max, fmt::format("{} of span {}", what, i));
    };
    Span s;
    s.op = OpId(static_cast<std::int32_t>(at(0, static_cast<std::int64_t>(file.ops.size()) - 1, "the op")));
    s.rank = Rank(static_cast<std::int32_t>(at(1, file.timeline.ranks - 1, "the rank")));
    s.ready = Picoseconds(at(2, most, "ready"));
    s.start = Picoseconds(at(3, most, "start"));
    s.end = Picoseconds(at(4, most, "end"));
    s.launch = Picoseconds(at(5, most, "launch"));
    s.wait = Picoseconds(at(6, most, "wait"));
    if (s.ready > s.start || s.start > s.end) fail(fmt::format("span {} does not run from ready over start to end", i));
    return s;
  }

  const std::string& path_;
  const json& root_;
};

}  // namespace

std::string plan_hash(const Plan& plan) {
  std::uint64_t h = 0xcbf29ce484222325ULL;  // FNV-1a
  for (const char c : plan_text(plan)) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return fmt::format("{:016x}", h);
}

std::string_view to_string(Timeline::Kind kind) { return name_of(kind_names, kind); }

bool on_one_gpu(Timeline::Kind kind) {
  return kind == Timeline::Kind::predicted_virtual_ranks || kind == Timeline::Kind::measured_virtual_ranks;
}

std::vector<TimelineOp> timeline_ops(const Plan& plan) {
  std::vector<TimelineOp> out;
  for (const Op& op : plan.ops)
    out.push_back({op.name, std::string(to_string(op.work)), std::string(to_string(op.category)), op.layer, op.pass});
  return out;
}

TimelineFile timeline_file(const Plan& plan, const Timeline& timeline, std::string method) {
  return {plan_hash(plan), plan.strategy, plan.model, plan.workload, std::move(method), timeline_ops(plan), timeline};
}

void write_timeline(const TimelineFile& file, const std::string& path) {
  ordered_json out = {{"timeline_version", TimelineFile::format_version},
                      {"plan", file.plan_hash},
                      {"strategy", file.strategy},
                      {"model", file.model},
                      {"workload", file.workload},
                      {"kind", to_string(file.timeline.kind)},
                      {"method", file.method},
                      {"ranks", file.timeline.ranks},
                      {"makespan", file.timeline.makespan.value()}};
  for (const TimelineOp& op : file.ops)
    out["ops"].push_back({{"name", op.name},
                          {"kind", op.kind},
                          {"category", op.category},
                          {"layer", op.layer.value()},
                          {"pass", to_string(op.pass)}});
  for (const Span& s : file.timeline.spans)
    out["spans"].push_back({s.op.value(), s.rank.value(), s.ready.value(), s.start.value(), s.end.value(),
                            s.launch.value(), s.wait.value()});
  for (const char* list : {"ops", "spans"})
    if (!out.contains(list)) out[list] = ordered_json::array();
  write_file(path, [&](std::ostream& stream) { stream << out.dump() << '\n'; });
}

TimelineFile read_timeline(const std::string& path) {
  const json root = json::parse(read_file(path), nullptr, false);
  if (root.is_discarded() || !root.is_object() || !root.contains("timeline_version"))
    throw InputError({path, 0, 0}, "is not a timeline", "'moesim simulate --out' and 'moesim run --out' write them");
  if (root["timeline_version"] != TimelineFile::format_version)
    throw InputError({path, 0, 0}, fmt::format("has timeline format {}, and this program reads {}",
                                               root["timeline_version"].dump(), TimelineFile::format_version));
  return Reader(path, root).read();
}

}  // namespace moesim
