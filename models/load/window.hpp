// Parts of a record.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>

#include "models/load/problems.hpp"

namespace moesim::load {

// A part of the record, so that a plan can be made on one part and judged on another: `count` tokens from `first` (of
// .csv: iterations). A negative `first` counts from the end; count 0 is up to the end.
struct Window {
  std::int64_t first = 0;
  std::int64_t count = 0;
};

// [begin, end) of `n` things; adds a problem, and returns [0, n), where the window does not lie inside or is empty.
std::pair<std::int64_t, std::int64_t> bounds(const Window& window, std::int64_t n, std::string_view what,
                                             Problems& problems);

}  // namespace moesim::load
