#include "models/load/window.hpp"

namespace moesim::load {

std::pair<std::int64_t, std::int64_t> bounds(const Window& window, std::int64_t n, std::string_view what,
                                             Problems& problems) {
  const std::int64_t begin = window.first < 0 ? n + window.first : window.first;
  const bool inside = begin >= 0 && begin < n && window.count >= 0 && window.count <= n - begin;
  if (inside) return {begin, window.count == 0 ? n : begin + window.count};
  problems.add(0, 0,
               fmt::format("has {} {}; the window of {} from {} is not inside", n, what,
                           window.count == 0 ? "all" : fmt::format("{}", window.count), window.first));
  return {0, n};
}

}  // namespace moesim::load
