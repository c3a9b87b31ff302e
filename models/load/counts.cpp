#include "models/load/counts.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <string_view>

#include "models/load/problems.hpp"
#include "support/files.hpp"

namespace moesim::load {
namespace {

std::string_view trim(std::string_view s) {
  const std::size_t begin = s.find_first_not_of(" \t\r");
  return begin == std::string_view::npos ? "" : s.substr(begin, s.find_last_not_of(" \t\r") - begin + 1);
}

std::vector<std::string_view> split(std::string_view s, char separator) {
  std::vector<std::string_view> out;
  for (;;) {
    const std::size_t end = s.find(separator);
    out.push_back(trim(s.substr(0, end)));
    if (end == std::string_view::npos) return out;
    s.remove_prefix(end + 1);
  }
}

std::optional<std::int64_t> whole(std::string_view s) {
  std::int64_t n = 0;
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), n);
  if (s.empty() || error != std::errc{} || end != s.data() + s.size()) return std::nullopt;
  return n;
}

class Reader {
 public:
  Reader(const std::string& path, int experts) : problems_(path), experts_(experts) {}

  void parse(std::string_view text) {
    bool has_header = false;
    for (int line = 1; !text.empty(); ++line) {
      const std::size_t end = std::min(text.find('\n'), text.size());
      const std::string_view row = trim(text.substr(0, end));
      text.remove_prefix(std::min(end + 1, text.size()));
      if (row.empty() || row.starts_with("#")) continue;
      const std::vector<std::string_view> cells = split(row, ',');
      if (!has_header) {
        read_header(cells, line);
        has_header = true;
      } else if (cells.size() != columns_) {
        problems_.add(line, 1, fmt::format("has {} columns, the header has {}", cells.size(), columns_));
      } else {
        per_cell_ ? read_cell(cells, line) : read_row(cells, line);
      }
    }
    problems_.throw_if_any();
  }

  // The sum over the iterations of a window.
  RecordedCounts assemble(const Window& window) {
    if (layers_.empty() && sizes_.empty())
      problems_.add(0, 0, "is empty: it has no row of counts");
    else if (layers_.empty())
      problems_.add(0, 0, fmt::format("has rows for {} experts, none for {}", fmt::join(sizes_, ", "), experts_));
    problems_.throw_if_any();
    RecordedCounts out;
    const auto recorded = static_cast<std::int64_t>(layers_.begin()->second.by_iteration.size());
    const auto [begin, end] = bounds(window, per_cell_ ? 1 : recorded, "iterations", problems_);
    out.iterations = end - begin;
    for (const auto& [layer, rows] : layers_) {
      out.layers.push_back(layer);
      if (per_cell_) {
        out.tokens.push_back(rows.cells);
      } else if (static_cast<std::int64_t>(rows.by_iteration.size()) != recorded) {
        problems_.add(0, 0,
                      fmt::format("layer {} has {} iterations, layer {} has {}", layer, rows.by_iteration.size(),
                                  layers_.begin()->first, recorded));
        continue;
      } else {
        std::vector<std::int64_t>& sum = out.tokens.emplace_back(static_cast<std::size_t>(experts_));
        auto it = std::next(rows.by_iteration.begin(), begin);
        for (std::int64_t i = begin; i < end; ++i, ++it)
          std::transform(sum.begin(), sum.end(), it->second.begin(), sum.begin(), std::plus<>());
      }
      if (std::all_of(out.tokens.back().begin(), out.tokens.back().end(), [](std::int64_t n) { return n == 0; }))
        problems_.add(0, 0, fmt::format("layer {} has no tokens", layer));
    }
    problems_.throw_if_any();
    return out;
  }

 private:
  using Cells = std::vector<std::string_view>;
  struct LayerRows {
    std::vector<std::int64_t> cells;                                 // [expert], of the first form
    std::set<std::int64_t> named;                                    // experts, of the first form
    std::map<std::int64_t, std::vector<std::int64_t>> by_iteration;  // of the second
  };

  void read_header(const Cells& cells, int line) {
    per_cell_ = cells == Cells{"layer", "expert", "count"};
    columns_ = cells.size();
    if (per_cell_ || cells == Cells{"num_experts", "layer", "iteration", "tokens_per_expert"}) return;
    problems_.add(line, 1, "is not a header of expert counts",
                  "begin with 'layer,expert,count' or 'num_experts,layer,iteration,tokens_per_expert'");
    problems_.throw_if_any();
  }

  // A whole number in [0, limit), or a fault.
  std::optional<std::int64_t> number(std::string_view what, std::string_view cell, int line, std::int64_t limit) {
    const auto n = whole(cell);
    if (n && *n >= 0 && *n < limit) return n;
    problems_.add(line, 1, fmt::format("{} is '{}'; it must be a whole number in [0, {})", what, cell, limit));
    return std::nullopt;
  }

  std::optional<std::int64_t> layer_number(std::string_view cell, int line) {
    std::string_view digits = cell;
    if (!digits.empty() && std::isalpha(static_cast<unsigned char>(digits.front())) != 0) digits.remove_prefix(1);
    if (const auto n = whole(digits); n && *n >= 0 && *n < 1'000'000) return n;
    problems_.add(line, 1, fmt::format("layer is '{}'; it must be a number, or a letter and a number", cell));
    return std::nullopt;
  }

  static constexpr std::int64_t most = std::int64_t{1} << 40;  // sums stay far inside 64 bits

  void read_cell(const Cells& cells, int line) {
    const auto layer = layer_number(cells[0], line);
    const auto expert = number("expert", cells[1], line, experts_);
    const auto count = number("count", cells[2], line, most);
    if (!layer || !expert || !count) return;
    LayerRows& rows = layers_[static_cast<int>(*layer)];
    rows.cells.resize(static_cast<std::size_t>(experts_));
    if (!rows.named.insert(*expert).second)
      problems_.add(line, 1, fmt::format("layer {} names expert {} a second time", *layer, *expert));
    rows.cells[static_cast<std::size_t>(*expert)] = *count;
  }

  void read_row(const Cells& cells, int line) {
    const auto experts = number("num_experts", cells[0], line, 65'536);
    if (!experts) return;
    sizes_.insert(*experts);
    if (*experts != experts_) return;
    const auto layer = layer_number(cells[1], line);
    const auto iteration = number("iteration", cells[2], line, most);
    std::vector<std::int64_t> counts;
    for (const std::string_view cell : split(cells[3], ' ')) {
      if (cell.empty()) continue;
      const auto n = number("tokens_per_expert", cell, line, most);
      if (!n) return;
      counts.push_back(*n);
    }
    if (counts.size() != static_cast<std::size_t>(experts_))
      return problems_.add(line, 1,
                           fmt::format("tokens_per_expert has {} numbers for {} experts", counts.size(), experts_));
    if (!layer || !iteration) return;
    if (!layers_[static_cast<int>(*layer)].by_iteration.emplace(*iteration, std::move(counts)).second)
      problems_.add(line, 1, fmt::format("layer {} has iteration {} a second time", *layer, *iteration));
  }

  Problems problems_;
  int experts_;
  bool per_cell_ = false;
  std::size_t columns_ = 0;
  std::set<std::int64_t> sizes_;  // num_experts met
  std::map<int, LayerRows> layers_;
};

}  // namespace

RecordedCounts read_counts(const std::string& path, int experts, const Window& window) {
  Reader reader(path, experts);
  reader.parse(read_file(path));
  return reader.assemble(window);
}

std::vector<RecordedCounts> read_iterations(const std::string& path, int experts, const Window& window) {
  Reader reader(path, experts);
  reader.parse(read_file(path));
  std::vector<RecordedCounts> out;
  const std::int64_t n = reader.assemble(window).iterations;
  const std::int64_t all = reader.assemble({}).iterations;
  const std::int64_t first = window.first < 0 ? all + window.first : window.first;
  for (std::int64_t i = first; i < first + n; ++i) out.push_back(reader.assemble({i, 1}));
  return out;
}

}  // namespace moesim::load
