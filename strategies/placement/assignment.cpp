#include "strategies/placement/assignment.hpp"

#include <algorithm>
#include <cassert>
#include <limits>
#include <numeric>
#include <tuple>

namespace moesim::placement {

double Matrix::sum() const { return std::accumulate(cells_.begin(), cells_.end(), 0.0); }

std::vector<int> least_total(const Matrix& cost) {
  assert(cost.rows() == cost.cols());
  const auto n = static_cast<std::size_t>(cost.rows());
  // Rows and columns are counted from 1; column 0 stands for the row that is looking for a place.
  std::vector<double> row_price(n + 1);
  std::vector<double> column_price(n + 1);
  std::vector<std::size_t> row_of(n + 1);  // of each column, 0 = free
  for (std::size_t r = 1; r <= n; ++r) {
    std::vector<double> shortest(n + 1, std::numeric_limits<double>::infinity());
    std::vector<std::size_t> from(n + 1);
    std::vector<bool> done(n + 1);
    std::size_t column = 0;
    row_of[0] = r;
    do {
      done[column] = true;
      const std::size_t row = row_of[column];
      std::size_t next = 0;
      double step = std::numeric_limits<double>::infinity();
      for (std::size_t c = 1; c <= n; ++c) {
        if (done[c]) continue;
        const double reduced =
            cost.at(static_cast<int>(row) - 1, static_cast<int>(c) - 1) - row_price[row] - column_price[c];
        if (reduced < shortest[c]) {
          shortest[c] = reduced;
          from[c] = column;
        }
        if (shortest[c] < step) {
          step = shortest[c];
          next = c;
        }
      }
      for (std::size_t c = 0; c <= n; ++c) {
        if (done[c]) {
          row_price[row_of[c]] += step;
          column_price[c] -= step;
        } else {
          shortest[c] -= step;
        }
      }
      column = next;
    } while (row_of[column] != 0);
    for (; column != 0; column = from[column]) row_of[column] = row_of[from[column]];
  }
  std::vector<int> out(n);
  for (std::size_t c = 1; c <= n; ++c) out[row_of[c] - 1] = static_cast<int>(c) - 1;
  return out;
}

std::vector<int> least_unchosen(const Matrix& value, double* left) {
  assert(value.rows() == value.cols());
  const int n = value.rows();
  std::vector<std::tuple<double, int, int>> cells;
  for (int r = 0; r < n; ++r)
    for (int c = 0; c < n; ++c) cells.emplace_back(-value.at(r, c), r, c);
  std::sort(cells.begin(), cells.end());
  std::vector<bool> row_taken(static_cast<std::size_t>(n));
  std::vector<bool> column_taken(static_cast<std::size_t>(n));
  double stays = 0;
  for (const auto& [negative, r, c] : cells) {
    if (row_taken[static_cast<std::size_t>(r)] || column_taken[static_cast<std::size_t>(c)]) {
      stays = -negative;
      break;
    }
    row_taken[static_cast<std::size_t>(r)] = column_taken[static_cast<std::size_t>(c)] = true;
  }
  // Cells above `stays` get a bonus that no other choice makes up for.
  Matrix cost(n, n);
  const double bonus = value.sum() + 1;
  for (int r = 0; r < n; ++r)
    for (int c = 0; c < n; ++c) cost.at(r, c) = -value.at(r, c) - (value.at(r, c) > stays ? bonus : 0);
  if (left != nullptr) *left = stays;
  return least_total(cost);
}

}  // namespace moesim::placement
