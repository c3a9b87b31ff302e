#include "study/text_table.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace moesim::study {

std::string TextTable::text() const {
  std::vector<std::size_t> width(rows_.front().size());
  for (const auto& row : rows_)
    for (std::size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
  std::string out;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    for (std::size_t c = 0; c < rows_[r].size(); ++c)
      out += c == 0 ? fmt::format("{:<{}}", rows_[r][c], width[c]) : fmt::format("  {:>{}}", rows_[r][c], width[c]);
    while (out.back() == ' ') out.pop_back();
    out += '\n';
    if (r == 0) {
      std::size_t total = 0;
      for (std::size_t c = 0; c < width.size(); ++c) total += width[c] + (c == 0 ? 0 : 2);
      out += std::string(total, '-') + "\n";
    }
  }
  return out;
}

}  // namespace moesim::study
