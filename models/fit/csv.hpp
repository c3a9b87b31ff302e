// Comma-separated tables with a header line, plain or .gz, read with errors that name file, line and column.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moesim/error.hpp"

namespace moesim::fit {

class CsvTable {
 public:
  // Throws InputError: a file that cannot be read, no header, a header that names a column twice, a line with too few
  // or too many cells (all such lines, up to `most_faults`). Cells may be quoted as RFC 4180 says.
  explicit CsvTable(const std::string& path);
  CsvTable(std::string content, const std::string& name);

  [[nodiscard]] const std::string& file() const { return file_; }
  [[nodiscard]] const std::vector<std::string_view>& header() const { return header_; }
  [[nodiscard]] std::optional<std::size_t> find(std::string_view column) const;
  [[nodiscard]] std::size_t rows() const { return lines_.size(); }
  [[nodiscard]] std::string_view cell(std::size_t row, std::size_t column) const {
    return cells_[row * header_.size() + column];
  }
  // Column c, 1-based, as SourcePlace::column.
  [[nodiscard]] SourcePlace place(std::size_t row, std::size_t column) const;

 private:
  void parse();

  std::string file_;
  std::string content_;
  std::vector<std::string_view> header_;
  std::vector<std::string_view> cells_;
  std::vector<int> lines_;
};

// Faults of a file, at most `most_faults` of them spelled out.
class Faults {
 public:
  static constexpr std::size_t most_faults = 20;
  void add(SourcePlace place, std::string message, std::string hint = {});
  [[nodiscard]] bool empty() const { return total_ == 0; }
  void throw_if_any() const;

 private:
  std::vector<Diagnostic> list_;
  std::size_t total_ = 0;
};

// A whole number or a real number that fills the cell; nothing otherwise.
std::optional<std::int64_t> parse_int(std::string_view cell);
std::optional<double> parse_real(std::string_view cell);

}  // namespace moesim::fit
