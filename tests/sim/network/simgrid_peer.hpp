// SimGrid 3.32 (LGPL, a development dependency: never linked into the program) on the same links and flows.
//
// Model CM02 with the TCP window off and no cross traffic: max-min sharing of link capacities, one message one fluid
// flow. SimGrid knows one simulation per process, so each runs in a child process.
#pragma once

#include <vector>

namespace moesim::peer {

struct Flow {
  std::vector<int> route;  // link numbers
  double bytes = 0;
  double start = 0;  // seconds
  double cap = 0;    // bytes per second, 0 = none
};

struct Result {
  std::vector<double> finish;  // seconds, by flow
  double seconds = 0;          // of processor time that SimGrid's run() took: it uses one thread
  double peak_mb = 0;          // of the child process
};

// capacity: bytes per second by link. Throws std::runtime_error when SimGrid fails or takes more than `limit` seconds.
Result simgrid(const std::vector<double>& capacity, const std::vector<Flow>& flows, double limit = 600);

}  // namespace moesim::peer
