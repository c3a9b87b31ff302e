// A run of training iterations in the numbers that a report shows.
#pragma once

#include "study/summary.hpp"

namespace moesim::study {

// What is kept of each iteration.
struct IterationPoint {
  Picoseconds step;
  Picoseconds moe_layer;
  Picoseconds parameters;  // gathering and reducing that nothing hid, mean over ranks
  double straggler = 1;
  Bytes memory;  // peak of the rank that needs most
};
IterationPoint point_of(const Summary& summary);

// Times, the straggler factor and where the time goes: means over iterations. Memory, traffic and flops: of the
// iteration that needs most. Links, slowest rank and bottleneck: of the last.
class IterationMean {
 public:
  void add(const Summary& summary);
  [[nodiscard]] Summary summary() const;

 private:
  std::int64_t count_ = 0;
  Picoseconds step_;
  Picoseconds moe_layer_;
  double straggler_ = 0;
  double dropped_ = 0;
  std::array<Picoseconds, part_count> parts_{};
  Summary worst_;
};

}  // namespace moesim::study
