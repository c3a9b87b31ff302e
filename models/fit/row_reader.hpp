// What the readers of all schemas share: cells with faults, repeated rows, rows of one GPU.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "models/fit/csv.hpp"
#include "models/fit/rows.hpp"

namespace moesim::fit {

// The cells of one row of a table by column name. Faults are recorded; the row is then not good().
class RowReader {
 public:
  // `required` columns that the header lacks are faults of the file, at once and with the nearest name that it has.
  RowReader(const CsvTable& table, const std::vector<std::string_view>& required, Faults& faults);
  [[nodiscard]] bool has_columns() const { return complete_; }
  [[nodiscard]] bool has(std::string_view column) const { return table_.find(column).has_value(); }

  void start(std::size_t row);
  [[nodiscard]] bool good() const { return good_; }
  [[nodiscard]] std::string text(std::string_view column, std::string_view absent = "");
  std::int64_t count(std::string_view column, std::int64_t absent = 1);  // whole, at least 1
  double time_us(std::string_view column);                               // above 0
  void fault(std::string_view column, std::string message, std::string hint = {});
  [[nodiscard]] SourcePlace place() const { return table_.place(row_, 0); }

 private:
  const CsvTable& table_;
  Faults& faults_;
  std::size_t row_ = 0;
  bool complete_ = true;
  bool good_ = true;
};

// Reads every file with `parse`, which fills rows from one table.
template <class Row>
std::vector<Row> read_tables(const std::vector<std::string>& files,
                             const std::function<void(const CsvTable&, Faults&, std::vector<Row>&)>& parse) {
  if (files.empty()) throw InputError({}, "no file to calibrate from", "give at least one CSV file");
  Faults faults;
  std::vector<Row> rows;
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (std::find(files.begin(), files.begin() + static_cast<std::ptrdiff_t>(i), files[i]) !=
        files.begin() + static_cast<std::ptrdiff_t>(i)) {
      faults.add({files[i], 0, 0}, "the file is given twice");
      continue;
    }
    const CsvTable table(files[i]);
    parse(table, faults, rows);
  }
  faults.throw_if_any();
  return rows;
}

template <class Row>
void keep_one_gpu(std::vector<Row>& rows, const std::string& gpu) {
  std::map<std::string, std::size_t> seen;
  for (const Row& row : rows) ++seen[row.origin.gpu];
  if (gpu.empty() && seen.size() > 1) {
    std::string list;
    for (const auto& [name, n] : seen) list += (list.empty() ? "" : ", ") + name + " (" + std::to_string(n) + " rows)";
    throw InputError(rows.front().origin.place, "the rows are of " + std::to_string(seen.size()) + " GPUs: " + list,
                     "a fit is of one GPU: choose it, as in --gpu " + seen.begin()->first);
  }
  if (gpu.empty()) return;
  std::erase_if(rows, [&](const Row& row) { return row.origin.gpu != gpu; });
  if (!rows.empty()) return;
  std::vector<std::string_view> names;
  for (const auto& [name, n] : seen) names.push_back(name);
  std::string list;
  for (const std::string_view n : names) list += (list.empty() ? "" : ", ") + std::string(n);
  throw InputError({}, "no row is of GPU '" + gpu + "'", "the files have: " + list);
}

// Rows of equal `key` become one with the median time. A file in which more than one row in fifty repeats another one
// to the last digit has been pasted twice, and medians that differ by more than `most` contradict each other: faults.
template <class Row>
std::vector<Row> merge_repeats(std::vector<Row> rows, const std::function<std::string(const Row&)>& key,
                               double most = 5) {
  std::unordered_map<std::string, std::vector<std::size_t>> same;
  std::vector<const std::string*> order;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto [it, fresh] = same.try_emplace(key(rows[i]));
    it->second.push_back(i);
    if (fresh) order.push_back(&it->first);
  }
  Faults twice;
  Faults contradictions;
  std::size_t exact = 0;
  std::vector<Row> out;
  for (const std::string* k : order) {
    std::vector<std::size_t>& at = same[*k];
    std::stable_sort(at.begin(), at.end(), [&](std::size_t a, std::size_t b) { return rows[a].us < rows[b].us; });
    for (std::size_t i = 1; i < at.size(); ++i) {
      const Row& a = rows[at[i - 1]];
      const Row& b = rows[at[i]];
      if (a.us != b.us) continue;
      ++exact;
      twice.add(b.origin.place, "duplicate of the row at line " + std::to_string(a.origin.place.line) + " of " +
                                    a.origin.place.file + ", the time included");
    }
    const Row& least = rows[at.front()];
    const Row& largest = rows[at.back()];
    if (largest.us > most * least.us)
      contradictions.add(largest.origin.place,
                         "the same shape takes " + std::to_string(largest.us) + " us here and " +
                             std::to_string(least.us) + " us at line " + std::to_string(least.origin.place.line) +
                             " of " + least.origin.place.file,
                         "different units, GPUs or libraries under one name?");
    Row row = least;
    const std::size_t half = at.size() / 2;
    row.us = at.size() % 2 == 1 ? rows[at[half]].us : std::sqrt(rows[at[half - 1]].us * rows[at[half]].us);
    out.push_back(std::move(row));
  }
  if (exact * 50 > rows.size()) twice.throw_if_any();
  contradictions.throw_if_any();
  return out;
}

}  // namespace moesim::fit
