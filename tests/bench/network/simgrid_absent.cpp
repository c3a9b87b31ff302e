#include <fmt/format.h>

#include "tests/bench/network/measure.hpp"

bool moesim::bench::against_simgrid(bool) {
  fmt::print("SimGrid is not installed (libsimgrid-dev): nothing to compare with\n\n");
  return true;
}
