// Tokens per expert and layer, from a table.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/load/window.hpp"

namespace moesim::load {

struct RecordedCounts {
  std::vector<int> layers;                        // as the file numbers them, rising
  std::vector<std::vector<std::int64_t>> tokens;  // [layer][expert]
  std::int64_t iterations = 1;                    // summed
};

// Comma-separated, with one of these headers (blank lines and lines that begin with # are skipped):
//   layer,expert,count                                 one cell per row; experts that are not named have 0
//   num_experts,layer,iteration,tokens_per_expert      one layer and iteration per row, tokens_per_expert separated by
//                                                      blanks; rows of other num_experts are skipped
// A layer is a number, or a letter and a number (l3). The window selects iterations; the first form has one.
// Throws InputError with every fault.
RecordedCounts read_counts(const std::string& path, int experts, const Window& window);
// The same, each iteration of the window apart.
std::vector<RecordedCounts> read_iterations(const std::string& path, int experts, const Window& window);

}  // namespace moesim::load
