// Where the buffers of a rank lie: one piece of device memory (and one of the host), laid out from the Plan's
// lifetimes, so that buffers that are never alive together share addresses.
#pragma once

#include <cstdint>
#include <vector>

#include "moesim/plan.hpp"

namespace moesim::backend::gpu {

struct Place {
  std::int64_t begin = -1;  // bytes from the start of the piece; -1: no op touches the buffer
  std::int64_t bytes = 0;
  OpId first, last;  // ops that it is alive for; the whole plan for weights and caches
  Location location = Location::device;
};

struct Arena {
  static constexpr std::int64_t alignment = 256;
  std::vector<Place> places;  // [buffer]
  std::int64_t device_bytes = 0;
  std::int64_t host_bytes = 0;
  // reuse[op]: ops of other streams that must be done before it, because it is the first to write where they last read
  // or wrote. The Plan's own dependencies do not know which buffers share addresses.
  std::vector<std::vector<OpId>> reuse;
};

Arena arena_of(const Plan& plan, Rank rank);

}  // namespace moesim::backend::gpu
