// Bad input files say themselves what is wrong with them:
//
//   # expect: 7:12: 'memory' has no unit | did you mean GB/s?
//
// is a fault at line 7, column 12 whose message contains the first text and whose hint contains the second. A file has
// one such line for each of its faults, in the order of places, and must have no other.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "moesim/error.hpp"

namespace moesim::test {

struct Expected {
  std::string place;  // "7:12"
  std::string message;
  std::string hint;
};

std::vector<Expected> expected_faults(const std::string& path);

// The files of a directory below tests/bad_input, sorted.
std::vector<std::string> bad_files(const std::string& directory);

// Runs `read` on the file and checks the faults that it throws against the file's own list.
void check_faults(const std::string& path, const std::function<void(const std::string&)>& read);

}  // namespace moesim::test
