// Tables for people: columns as wide as their widest cell; the first is left-aligned, numbers are right-aligned.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace moesim::study {

class TextTable {
 public:
  explicit TextTable(std::vector<std::string> head) { rows_.push_back(std::move(head)); }
  void head(std::string column) { rows_.front().push_back(std::move(column)); }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }  // as many cells as the head
  [[nodiscard]] std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace moesim::study
