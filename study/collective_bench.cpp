#include "study/collective_bench.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "moesim/error.hpp"
#include "moesim/version.hpp"
#include "plan/names.hpp"
#include "sim/collectives/predict.hpp"
#include "support/files.hpp"
#include "support/quantity.hpp"

namespace moesim::study {

namespace {

using Kind = Collective::Kind;

struct Spelling {
  std::string_view name;
  Kind kind;
};
constexpr std::array spellings{
    Spelling{"all_to_all", Kind::all_to_all_v}, Spelling{"alltoall", Kind::all_to_all_v},
    Spelling{"all_gather", Kind::all_gather_v}, Spelling{"reduce_scatter", Kind::reduce_scatter_v},
    Spelling{"all_reduce", Kind::all_reduce},   Spelling{"broadcast", Kind::broadcast},
    Spelling{"reduce", Kind::reduce},           Spelling{"send_recv", Kind::send_recv},
    Spelling{"sendrecv", Kind::send_recv},
};

std::string_view spelling(Kind kind) { return std::ranges::find(spellings, kind, &Spelling::kind)->name; }

Bytes parse_size(std::string_view text) {
  const auto parsed = parse_quantity<Bytes>(text, positive<Bytes>());
  if (const auto* fault = std::get_if<Fault>(&parsed)) throw InputError({"--sizes"}, fault->message, fault->hint);
  return std::get<Bytes>(parsed);
}

struct Word {
  std::string_view text;
  int column;  // 1-based
};

std::vector<Word> words(std::string_view line) {
  std::vector<Word> out;
  for (std::size_t i = 0; i < line.size();) {
    if (line[i] == ' ' || line[i] == '\t' || line[i] == '\r') {
      ++i;
      continue;
    }
    const std::size_t begin = i;
    while (i < line.size() && line[i] != ' ' && line[i] != '\t' && line[i] != '\r') ++i;
    out.push_back({line.substr(begin, i - begin), static_cast<int>(begin) + 1});
  }
  return out;
}

template <class T>
std::optional<T> number(std::string_view text) {
  T value{};
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (fault != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

Kind parse_collective_kind(std::string_view name) {
  const auto found = std::ranges::find(spellings, name, &Spelling::name);
  if (found != spellings.end()) return found->kind;
  std::vector<std::string_view> names;
  for (const Spelling& s : spellings) names.push_back(s.name);
  const std::string_view near = nearest_name(name, names);
  throw InputError({"--op"}, fmt::format("there is no collective '{}'", name),
                   near.empty() ? fmt::format("one of: {}", fmt::join(names, ", ")) : fmt::format("'{}'?", near));
}

std::vector<Bytes> parse_sizes(std::string_view text, int factor) {
  if (factor < 2)
    throw InputError({"--factor"}, fmt::format("is {}, below 2", factor), "2 doubles the size from row to row");
  const auto dots = text.find("..");
  if (dots == std::string_view::npos) return {parse_size(text)};
  const Bytes first = parse_size(text.substr(0, dots)), last = parse_size(text.substr(dots + 2));
  if (last < first)
    throw InputError({"--sizes"}, fmt::format("{} is below {}", to_text(last), to_text(first)),
                     "the smallest size comes first");
  std::vector<Bytes> out;
  for (std::int64_t size = first.value(); size <= last.value(); size *= factor) {
    out.emplace_back(size);
    if (size > last.value() / factor) break;
  }
  return out;
}

std::vector<MeasuredRow> read_nccl_tests(const std::string& path) { return parse_nccl_tests(read_file(path), path); }

// '#' begins a comment; the comment with the words "size" and "time" names the columns, which differ between programs.
// The first "time" is of the out-of-place run.
std::vector<MeasuredRow> parse_nccl_tests(std::string_view content, const std::string& name) {
  std::vector<MeasuredRow> out;
  std::vector<Diagnostic> faults;
  std::optional<std::size_t> time_column;
  int number_of_line = 0;
  while (!content.empty()) {
    const std::size_t end = std::min(content.find('\n'), content.size());
    const std::vector<Word> line = words(content.substr(0, end));
    content.remove_prefix(std::min(end + 1, content.size()));
    ++number_of_line;
    if (line.empty()) continue;
    if (line[0].text[0] == '#') {
      const auto time = std::ranges::find(line, "time", &Word::text);
      const auto size = std::ranges::find(line, "size", &Word::text);
      if (time != line.end() && size != line.end()) time_column = static_cast<std::size_t>(time - size);
      continue;
    }
    const auto size = number<std::int64_t>(line[0].text);
    if (!size) continue;  // what mpirun or NCCL_DEBUG printed in between
    const SourcePlace place{name, number_of_line, line[0].column};
    if (!time_column) {
      faults.push_back({place, "a row before the header line", "the whole output of nccl-tests, '#' lines included"});
      break;
    }
    if (*size < 0 || *time_column >= line.size()) {
      faults.push_back({place, fmt::format("a row of {} columns and size {}", line.size(), *size), {}});
      continue;
    }
    const Word& cell = line[*time_column];
    const auto us = number<double>(cell.text);
    if (!us || !(*us > 0) || !std::isfinite(*us)) {
      faults.push_back(
          {{name, number_of_line, cell.column}, fmt::format("'{}' is not a time in microseconds", cell.text), {}});
      continue;
    }
    if (*size > 0) out.push_back({Bytes(*size), *us});
  }
  if (!faults.empty()) throw InputError(std::move(faults));
  if (out.empty())
    throw InputError({name}, "has no row of an nccl-tests table", "the output of all_reduce_perf and the like");
  return out;
}

std::vector<CollectiveRow> predict_collective(const CollectiveBench& bench, const Cluster& cluster) {
  if (bench.zipf > 0 && bench.kind != Kind::all_to_all_v)
    throw InputError({"--skew"}, fmt::format("{} has no destinations to weigh", spelling(bench.kind)),
                     "it goes with all_to_all");
  std::vector<double> skew;
  if (bench.zipf > 0)
    for (int j = 0; j < cluster.ranks(); ++j) skew.push_back(std::pow(j + 1, -bench.zipf));
  std::vector<CollectiveRow> out;
  for (const Bytes size : bench.sizes) {
    const auto measured = std::ranges::find(bench.measured, size, &MeasuredRow::size);
    if (!bench.measured.empty() && measured == bench.measured.end()) continue;
    const Plan plan = sim::single_collective(bench.kind, bench.algorithm, cluster.ranks(), size, skew);
    const sim::Prediction p = sim::predict(plan, cluster, bench.fidelity);
    CollectiveRow& row = out.emplace_back();
    row.size = size;
    row.time = p.time;
    row.algbw = p.algbw;
    row.busbw = p.busbw;
    row.bracket = p.bracket;
    row.least = p.least;
    row.flows = p.flows;
    if (measured != bench.measured.end()) row.measured_us = measured->us;
  }
  return out;
}

std::string render_collective(const CollectiveBench& bench, const std::vector<CollectiveRow>& rows,
                              const Cluster& cluster) {
  const bool compared = !bench.measured.empty();
  std::string out =
      fmt::format("# {} ({}) on {} x {} {}{}\n", spelling(bench.kind), name_of(algorithm_names, bench.algorithm),
                  cluster.nodes, cluster.gpus_per_node, cluster.gpu.name,
                  bench.zipf > 0 ? fmt::format(", destinations by zipf {}", bench.zipf) : "");
  out += fmt::format("# latencies: {}\n", cluster.communication ? "measured (fitted)" : "the machine file's");
  out += fmt::format("# {:>12} {:>12} {:>9} {:>9} {:>12}{}\n", "size", "time", "algbw", "busbw", "bound",
                     compared ? fmt::format(" {:>12} {:>8}", "measured", "error") : "");
  out += fmt::format("# {:>12} {:>12} {:>9} {:>9} {:>12}{}\n", "(B)", "(us)", "(GB/s)", "(GB/s)", "(us)",
                     compared ? fmt::format(" {:>12} {:>8}", "(us)", "(%)") : "");
  std::vector<double> errors;
  for (const CollectiveRow& r : rows) {
    out += fmt::format("  {:>12} {:>12.2f} {:>9.2f} {:>9.2f} {:>12.2f}", r.size.value(), to_microseconds(r.time),
                       r.algbw.value() / 1e9, r.busbw.value() / 1e9, to_microseconds(r.least));
    if (r.measured_us) {
      out += fmt::format(" {:>12.2f} {:>+8.1f}", *r.measured_us, 100 * r.error());
      errors.push_back(std::abs(r.error()));
    }
    out += '\n';
  }
  if (!errors.empty()) {
    std::ranges::sort(errors);
    out += fmt::format("# error of {} sizes: median {:.1f} %, largest {:.1f} %\n", errors.size(),
                       100 * errors[errors.size() / 2], 100 * errors.back());
  }
  return out;
}

std::string collective_json(const CollectiveBench& bench, const std::vector<CollectiveRow>& rows,
                            const Cluster& cluster) {
  using nlohmann::ordered_json;
  ordered_json list = ordered_json::array();
  for (const CollectiveRow& r : rows) {
    ordered_json row{{"bytes", r.size.value()},
                     {"time_us", to_microseconds(r.time)},
                     {"algbw_gb_per_s", r.algbw.value() / 1e9},
                     {"busbw_gb_per_s", r.busbw.value() / 1e9},
                     {"bracket_us", {to_microseconds(r.bracket.low), to_microseconds(r.bracket.high)}},
                     {"bound_us", to_microseconds(r.least)},
                     {"flows", r.flows}};
    if (r.measured_us) {
      row["measured_us"] = *r.measured_us;
      row["error"] = r.error();
    }
    list.push_back(std::move(row));
  }
  const ordered_json out{{"moesim_version", version},
                         {"op", spelling(bench.kind)},
                         {"algorithm", name_of(algorithm_names, bench.algorithm)},
                         {"machine", cluster.name},
                         {"gpus", cluster.ranks()},
                         {"nodes", cluster.nodes},
                         {"calibrated", cluster.communication != nullptr},
                         {"zipf", bench.zipf},
                         {"rows", std::move(list)}};
  return out.dump(2) + "\n";
}

}  // namespace moesim::study
