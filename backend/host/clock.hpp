// From what a clock saw of each op to a Timeline.
#pragma once

#include <time.h>

#include <chrono>
#include <cstdint>
#include <vector>

#include "moesim/plan.hpp"
#include "moesim/timeline.hpp"

namespace moesim::backend {

using Nanoseconds = std::int64_t;
inline Nanoseconds now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Processor time of the calling thread: what an op takes on a core that nobody else wants.
inline Nanoseconds thread_time() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return Nanoseconds{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

// One op on one rank. met: all members had come (a local op: as begun); negative end: the rank took no part.
struct Mark {
  Nanoseconds begun = 0;
  Nanoseconds met = 0;
  Nanoseconds end = -1;
};
using Marks = std::vector<Mark>;  // [op]

// Ranks that ran side by side: marks[rank][op] on one clock that starts at 0. A rank's thread issues and runs its ops
// one by one, so an op that was ready earlier than begun waited for the thread: that is `launch`.
Timeline wall_timeline(const Plan& plan, const std::vector<Marks>& marks);

// Ranks whose ops ran one at a time: durations[rank][op] (negative: takes no part), put on a clock per rank and stream
// along the plan's dependencies. Members leave a collective when the last has come and their own data is moved.
Timeline composed_timeline(const Plan& plan, const std::vector<std::vector<Nanoseconds>>& durations);

}  // namespace moesim::backend
