// Calibration: measured rows in, a fit file out. What `moesim calibrate` does.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "models/cost/fit_file.hpp"
#include "models/fit/group.hpp"
#include "models/fit/rows.hpp"

namespace moesim::fit {

struct CalibrationOptions {
  std::vector<std::string> files;
  Schema schema = Schema::gemm;
  std::string machine;  // whose data sheet the rows are judged by; empty: the machine named like the rows' GPU
  std::string gpu;      // keep the rows of this GPU, as the files name it; empty: there is only one
  std::string library;  // keep rows whose library begins so; empty: all
  std::string source;   // for the provenance; empty: the files' names
  Holdout holdout = Holdout::shape;
  std::vector<std::string> excluded_shapes;  // never fitted: kept for validation ("4096x7168", see the fit's notes)
  int most_rows = 1500;                      // of one group that a fit looks at, evenly picked; all rows judge it
  std::string output;                        // empty: write nothing
  bool update = false;                       // keep what `output` already has of other schemas, libraries, formats
  std::function<void(double fraction, std::string_view what)> progress;
};

// Prediction of every row by a fit that has not seen its fold.
struct HeldOut {
  std::vector<double> log_us;  // of the model
  std::vector<double> log_nearest;
  std::vector<int> fold;
};

struct GroupReport {
  Group group;
  HeldOut held_out;
};

struct CalibrationReport {
  cost::FitFile file;                // as written
  std::vector<GroupReport> groups;   // those of this run
  std::vector<std::string> skipped;  // groups that could not be fitted, and why
};

// Throws InputError for rows that cannot be used: missing columns, no or negative times, units off by a thousand, two
// GPUs mixed, duplicates, too few rows. The result does not depend on the number of threads.
CalibrationReport calibrate(const CalibrationOptions& options);

// The parts, for tests and for validation.
HeldOut hold_out(const Group& group, Holdout holdout, int most_rows, const std::function<void(double)>& progress = {});
// Errors by regime, and of the slowdown under skew.
std::vector<cost::Accuracy> accuracy(const Group& group, const HeldOut& held_out);
void fit_all(Group& group, int most_rows);  // on every row that is to be fitted; fills entry.parameters and variant

// The table of a report as text: one line per group and regime, the baselines beside it.
std::string render(const CalibrationReport& report);
std::string accuracy_header();
std::string accuracy_lines(const cost::FitEntry& entry);

// Predicted against measured, one line per row, for notebooks and spreadsheets.
struct PredictedRow {
  std::string machine, schema, library, dtype, shape, regime;
  double size = 0;
  double us = 0, predicted_us = 0, low_us = 0, high_us = 0;
  double roofline_us = 0, nearest_us = 0;  // nearest: 0 where there is no table of rows to look in
};
PredictedRow predicted_row(const Group& group, std::size_t row, const std::string& machine, double log_predicted,
                           double log_reach);
std::vector<PredictedRow> predictions(const CalibrationReport& report);  // of the folds that had not seen the row
void write_predictions(const std::vector<PredictedRow>& rows, const std::string& path);

}  // namespace moesim::fit
