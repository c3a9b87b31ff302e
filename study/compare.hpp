// Predicted against measured: two sets of Timelines, joined op for op. The error of a time is (predicted - measured) /
// measured: above 0 the prediction is too slow.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/timeline_file.hpp"

namespace moesim::study {

struct CompareOptions {
  enum class By : std::uint8_t { op, layer, rank, strategy };
  By by = By::op;  // op: by kind of work
  // What passes or fails: end-to-end times, or those of MoE layers where the rest is not comparable.
  enum class Judge : std::uint8_t { end_to_end, moe_layer };
  Judge judge = Judge::end_to_end;
  double tolerance = 0.25;  // of that error; strategies closer to each other than this have no order
  std::size_t worst = 5;    // ops listed by name
  bool common = false;      // strategies that only one side has are left out
};

// Errors of the op times of one group. Times are of work: from start to end, without waiting for peers or launches.
struct ErrorRow {
  std::string name;
  std::int64_t spans = 0;
  Picoseconds predicted;  // sum over the spans
  Picoseconds measured;
  Picoseconds off;    // sum of the absolute differences
  double bias = 0;    // of the sums
  double median = 0;  // of the spans' absolute errors
  double p90 = 0;
};

struct StrategyComparison {
  std::string strategy;
  std::string method;  // of the measurement
  Picoseconds predicted;
  Picoseconds measured;
  double error = 0;  // end to end
  // MoE layers (moe_layers.hpp), forward and backward together; times are means over layers and ranks. No layers:
  // zeros.
  std::int64_t moe_layers = 0;
  Picoseconds moe_predicted;
  Picoseconds moe_measured;
  double moe_error = 0;  // of the means

  [[nodiscard]] Picoseconds judged_predicted(CompareOptions::Judge by) const {
    return by == CompareOptions::Judge::moe_layer ? moe_predicted : predicted;
  }
  [[nodiscard]] Picoseconds judged_measured(CompareOptions::Judge by) const {
    return by == CompareOptions::Judge::moe_layer ? moe_measured : measured;
  }
  [[nodiscard]] double judged_error(CompareOptions::Judge by) const {
    return by == CompareOptions::Judge::moe_layer ? moe_error : error;
  }
};

struct Comparison {
  CompareOptions options;
  std::vector<StrategyComparison> strategies;  // fastest first, as measured and judged
  // Quantiles of the absolute errors of all strategies' MoE layers, each the mean over its ranks.
  double moe_median = 0;
  double moe_p90 = 0;
  std::vector<ErrorRow> rows;           // most measured time first; layers and ranks in order
  std::vector<ErrorRow> worst;          // ops by the time that they are off, over all ranks
  std::vector<std::string> misordered;  // "a is predicted faster than b, and measured 1.4 times as slow"
  std::vector<std::string> close;       // pairs within the tolerance of each other, predicted the other way round

  [[nodiscard]] bool passed() const;  // every error that is judged within the tolerance, no pair misordered
};

// A timeline file, or all *.timeline.json of a directory by name. Throws InputError where there are none.
std::vector<TimelineFile> read_timelines(const std::string& path);

// Throws InputError when the two sets do not match op for op, with the first mismatches; when one has all ranks on one
// GPU and the other has not.
Comparison compare(const std::vector<TimelineFile>& predicted, const std::vector<TimelineFile>& measured,
                   const CompareOptions& options);

std::string render(const Comparison& comparison);
std::string to_json(const Comparison& comparison);

}  // namespace moesim::study
