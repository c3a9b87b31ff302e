#include "support/text.hpp"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <string_view>

#include "moesim/workload.hpp"

namespace moesim {
namespace {

std::string scaled(double v, double step, const std::array<std::string_view, 6>& units) {
  std::size_t i = 0;
  while (i + 1 < units.size() && std::abs(v) >= step) {
    v /= step;
    ++i;
  }
  if (i == 0 && v == std::floor(v)) return fmt::format("{:.0f} {}", v, units[i]);
  const int decimals = std::abs(v) < 10 ? 2 : std::abs(v) < 100 ? 2 : 1;
  return fmt::format("{:.{}f} {}", v, decimals, units[i]);
}

}  // namespace

std::string human(Bytes b) { return scaled(static_cast<double>(b.value()), 1000, {"B", "kB", "MB", "GB", "TB", "PB"}); }
std::string human_binary(Bytes b) {
  return scaled(static_cast<double>(b.value()), 1024, {"B", "KiB", "MiB", "GiB", "TiB", "PiB"});
}
std::string human(Picoseconds t) {
  if (t.value() >= 1'000'000'000'000) return fmt::format("{:.3f} s", to_seconds(t));
  return scaled(static_cast<double>(t.value()), 1000, {"ps", "ns", "us", "ms", "s", "ks"});
}
std::string human(BytesPerSecond r) { return scaled(r.value(), 1000, {"B/s", "kB/s", "MB/s", "GB/s", "TB/s", "PB/s"}); }

std::string to_string(const Workload& w) {
  switch (w.phase) {
    case Workload::Phase::encode:
      return fmt::format("encode, {} sequences of {} tokens", w.sequences, w.sequence_length);
    case Workload::Phase::prefill:
      return fmt::format("prefill, {} sequences of {} tokens", w.sequences, w.sequence_length);
    case Workload::Phase::decode:
      return fmt::format("decode, {} sequences, one token each on {} cached", w.sequences, w.context());
    case Workload::Phase::train:
      return fmt::format("train, {} sequences of {} tokens{}", w.sequences, w.sequence_length,
                         w.recompute ? ", activations recomputed" : "");
  }
  return {};
}

}  // namespace moesim
