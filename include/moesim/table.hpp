// A dense table of counts (tokens, rows). Plans share tables between ops and ranks instead of copying counts.
#pragma once

#include <cstdint>
#include <numeric>
#include <span>
#include <stdexcept>
#include <vector>

namespace moesim {

class Table {
 public:
  Table() = default;
  Table(int rows, int cols) : rows_(rows), cols_(cols), cells_(size(rows, cols)) {}

  [[nodiscard]] int rows() const { return rows_; }
  [[nodiscard]] int cols() const { return cols_; }
  [[nodiscard]] std::int32_t& at(int row, int col) { return cells_[offset(row) + static_cast<std::size_t>(col)]; }
  [[nodiscard]] std::int32_t at(int row, int col) const { return cells_[offset(row) + static_cast<std::size_t>(col)]; }
  // The counts of one rank. A table of one row is the same for every rank.
  [[nodiscard]] std::span<const std::int32_t> row(int row) const {
    return std::span(cells_).subspan(offset(row), static_cast<std::size_t>(cols_));
  }
  [[nodiscard]] std::span<std::int32_t> row(int row) {
    return std::span(cells_).subspan(offset(row), static_cast<std::size_t>(cols_));
  }
  [[nodiscard]] std::int64_t row_sum(int r) const {
    const auto cells = row(r);
    return std::accumulate(cells.begin(), cells.end(), std::int64_t{0});
  }
  [[nodiscard]] std::int64_t sum() const { return std::accumulate(cells_.begin(), cells_.end(), std::int64_t{0}); }
  [[nodiscard]] std::span<const std::int32_t> cells() const { return cells_; }
  friend bool operator==(const Table&, const Table&) = default;

 private:
  static std::size_t size(int rows, int cols) {
    if (rows < 0 || cols < 0) throw std::invalid_argument("a table has a negative size");
    return static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
  }
  [[nodiscard]] std::size_t offset(int row) const {
    return rows_ == 1 ? 0 : static_cast<std::size_t>(row) * static_cast<std::size_t>(cols_);
  }
  int rows_ = 0;
  int cols_ = 0;
  std::vector<std::int32_t> cells_;
};

}  // namespace moesim
