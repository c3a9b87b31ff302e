// The faults of one file, all reported at once.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "moesim/error.hpp"

namespace moesim::load {

class Problems {
 public:
  explicit Problems(std::string file) : file_(std::move(file)) {}

  // line and column are 1-based, 0 where the format has none.
  void add(int line, int column, std::string message, std::string hint = {}) {
    if (++count_ > limit) return;
    Diagnostic d;
    d.place.file = file_;
    d.place.line = line;
    d.place.column = column;
    d.message = std::move(message);
    d.hint = std::move(hint);
    found_.push_back(std::move(d));
  }
  [[nodiscard]] bool any() const { return count_ > 0; }

  // Throws InputError with the first 20 and the number of the others.
  void throw_if_any() {
    if (count_ == 0) return;
    if (const std::size_t more = count_ - found_.size(); more > 0) {
      Diagnostic rest;
      rest.place.file = file_;
      rest.message = fmt::format("... and {} more", more);
      found_.push_back(std::move(rest));
    }
    throw InputError(std::move(found_));
  }

 private:
  static constexpr std::size_t limit = 20;
  std::string file_;
  std::vector<Diagnostic> found_;
  std::size_t count_ = 0;
};

}  // namespace moesim::load
