#include "models/fit/csv.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <set>

#include "support/files.hpp"

namespace moesim::fit {
namespace {

std::string_view trim(std::string_view s) {
  while (!s.empty() && (s.front() == ' ' || s.front() == '\t')) s.remove_prefix(1);
  while (!s.empty() && (s.back() == ' ' || s.back() == '\t' || s.back() == '\r')) s.remove_suffix(1);
  return s;
}

// Cells of the line that begins at `at`; moves `at` behind its end. A quoted cell may hold commas and line ends.
std::vector<std::string_view> split_line(std::string_view text, std::size_t& at, int& line) {
  std::vector<std::string_view> cells;
  std::size_t begin = at;
  bool quoted = false;
  for (;; ++at) {
    const bool end = at >= text.size();
    if (!end && text[at] == '"') quoted = !quoted;
    if (!end && text[at] == '\n') ++line;
    if (!end && (quoted || (text[at] != ',' && text[at] != '\n'))) continue;
    std::string_view cell = trim(text.substr(begin, at - begin));
    if (cell.size() >= 2 && cell.front() == '"' && cell.back() == '"') cell = cell.substr(1, cell.size() - 2);
    cells.push_back(cell);
    begin = at + 1;
    if (end || text[at] == '\n') break;
  }
  ++at;
  return cells;
}

template <class T>
std::optional<T> parse(std::string_view cell) {
  T value{};
  const auto [end, error] = std::from_chars(cell.data(), cell.data() + cell.size(), value);
  if (error != std::errc{} || end != cell.data() + cell.size()) return std::nullopt;
  return value;
}

}  // namespace

void Faults::add(SourcePlace place, std::string message, std::string hint) {
  if (++total_ <= most_faults) list_.push_back({std::move(place), std::move(message), std::move(hint)});
}

void Faults::throw_if_any() const {
  if (empty()) return;
  std::vector<Diagnostic> all = list_;
  if (total_ > most_faults) all.push_back({{}, fmt::format("{} more faults of this kind", total_ - most_faults), {}});
  throw InputError(std::move(all));
}

CsvTable::CsvTable(const std::string& path) : CsvTable(read_file(path), path) {}

CsvTable::CsvTable(std::string content, const std::string& name) : file_(name), content_(std::move(content)) {
  parse();
}

void CsvTable::parse() {
  const std::string_view text = content_;
  std::size_t at = 0;
  int line = 1;
  if (trim(text.substr(0, text.find('\n'))).empty())
    throw InputError({file_, 1, 1}, "the file is empty: a header line with column names is due");
  header_ = split_line(text, at, line);
  std::set<std::string_view> seen;
  Faults faults;
  for (std::size_t i = 0; i < header_.size(); ++i)
    if (!seen.insert(header_[i]).second)
      faults.add({file_, 1, static_cast<int>(i) + 1}, fmt::format("two columns are named '{}'", header_[i]));
  while (at < text.size()) {
    const int here = line;
    const std::vector<std::string_view> cells = split_line(text, at, line);
    if (cells.size() == 1 && cells.front().empty()) continue;
    if (cells.size() != header_.size()) {
      faults.add({file_, here, 1}, fmt::format("{} cells, the header has {}", cells.size(), header_.size()));
      continue;
    }
    cells_.insert(cells_.end(), cells.begin(), cells.end());
    lines_.push_back(here);
  }
  faults.throw_if_any();
  if (lines_.empty()) throw InputError({file_, 1, 1}, "the file has a header and no rows");
}

std::optional<std::size_t> CsvTable::find(std::string_view column) const {
  for (std::size_t i = 0; i < header_.size(); ++i)
    if (header_[i] == column) return i;
  return std::nullopt;
}

SourcePlace CsvTable::place(std::size_t row, std::size_t column) const {
  return {file_, lines_[row], static_cast<int>(column) + 1};
}

std::optional<std::int64_t> parse_int(std::string_view cell) { return parse<std::int64_t>(cell); }

std::optional<double> parse_real(std::string_view cell) {
  const auto value = parse<double>(cell);
  return value && std::isfinite(*value) ? value : std::nullopt;
}

}  // namespace moesim::fit
