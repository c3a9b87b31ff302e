// Square assignment problems: which column each row takes.
#pragma once

#include <span>
#include <vector>

namespace moesim::placement {

class Matrix {
 public:
  Matrix() = default;
  Matrix(int rows, int cols, double value = 0)
      : rows_(rows), cols_(cols), cells_(static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols), value) {}
  [[nodiscard]] int rows() const { return rows_; }
  [[nodiscard]] int cols() const { return cols_; }
  [[nodiscard]] double& at(int r, int c) { return cells_[offset(r, c)]; }
  [[nodiscard]] double at(int r, int c) const { return cells_[offset(r, c)]; }
  [[nodiscard]] double sum() const;

 private:
  [[nodiscard]] std::size_t offset(int r, int c) const {
    return static_cast<std::size_t>(r) * static_cast<std::size_t>(cols_) + static_cast<std::size_t>(c);
  }
  int rows_ = 0;
  int cols_ = 0;
  std::vector<double> cells_;
};

// The permutation of least total cost; column[r] is row r's. Shortest augmenting paths (Kuhn 1955; Jonker and Volgenant
// 1987), O(n^3).
std::vector<int> least_total(const Matrix& cost);

// The permutation with the least maximum over the cells that are NOT chosen, and among these the largest chosen total.
// In falling order, cells have to be chosen as long as no two share a row or a column; the first that does share one is
// the maximum that stays, because not all cells down to it can be chosen. `left` receives it (0 where none stays).
std::vector<int> least_unchosen(const Matrix& value, double* left = nullptr);

}  // namespace moesim::placement
