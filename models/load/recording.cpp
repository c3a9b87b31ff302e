#include "models/load/recording.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace moesim::load {

std::string TokenCheck::fault(std::span<const std::int64_t> ids) {
  ++serial_;
  const auto experts = static_cast<std::int64_t>(last_seen_.size());
  for (const std::int64_t e : ids) {
    if (e < 0 || e >= experts) return fmt::format("expert id {} is not in [0, {})", e, experts);
    std::uint64_t& seen = last_seen_[static_cast<std::size_t>(e)];
    if (seen == serial_) return fmt::format("expert {} is named twice by one token", e);
    seen = serial_;
  }
  return {};
}

Run longest_repetition(const Recording& recording, std::int64_t begin, std::int64_t end) {
  // same[t]: token begin + t chooses as the one before it, at every layer so far.
  std::vector<std::uint8_t> same(static_cast<std::size_t>(std::max<std::int64_t>(0, end - begin)), 1);
  if (same.empty()) return {};
  same[0] = 0;
  const auto k = static_cast<std::size_t>(recording.top_k);
  std::vector<ExpertIndex> before(k);
  std::vector<ExpertIndex> now(k);
  for (int layer = 0; layer < recording.layers; ++layer) {
    recording.ids.get(recording.offset(layer, begin), before);
    for (std::size_t t = 1; t < same.size(); ++t) {
      recording.ids.get(recording.offset(layer, begin + static_cast<std::int64_t>(t)), now);
      if (now != before) same[t] = 0;
      now.swap(before);
    }
  }
  Run best;
  Run run{begin, 0};
  for (std::size_t t = 0; t < same.size(); ++t) {
    if (same[t] == 0) run = {begin + static_cast<std::int64_t>(t), 0};
    if (++run.length > best.length) best = run;
  }
  return best;
}

}  // namespace moesim::load
