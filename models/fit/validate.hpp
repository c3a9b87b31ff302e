// Validation: predictions of shipped fits against figures that the fits have not seen. What `moesim validate` does.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/cost/fit_file.hpp"
#include "models/cost/fitted.hpp"
#include "models/fit/group.hpp"

namespace moesim::fit {

struct ValidationOptions {
  // CSV files of a schema whose `gpu` column names machine files; empty: models/validation/, as shipped.
  std::vector<std::string> files;
  Schema schema = Schema::gemm;  // of `files`
  std::string machine;           // only this one; empty: all
};

struct ValidationLine {
  std::string machine;
  std::string schema;
  std::string library;
  std::string dtype;
  std::string what;  // "held out by shape", "quoted figures"; and where the parameters are transferred from
  cost::Accuracy accuracy;
  bool has_nearest = true;  // quoted figures have no table of rows to interpolate in
};

struct ValidationTable {
  std::vector<ValidationLine> lines;
};

// Two kinds of lines: what the fit files say of their held-out rows, and the figures predicted now. Machines without a
// shipped fit are predicted by transfer. Throws InputError for files that cannot be read.
ValidationTable validate(const ValidationOptions& options = {});

// Columns: machine, op, regime, rows, median and 90 % quantile of |ln(predicted / measured)|, bias, coverage of the 90
// % interval, the baselines. `markdown` for a README.
std::string render(const ValidationTable& table, bool markdown = false);
void write_csv(const ValidationTable& table, const std::string& path);

// The shipped fits of a machine; without any, those of the nearest machine that has some, transferred. Throws
// InputError when nothing ships at all.
cost::FitFile fits_for(const hardware::MachineSpec& machine);

// models/fitted/transfer.toml: what transfers cost, measured.
std::vector<cost::TransferError> transfer_errors();
// The additional error of predicting `group` (of one GPU) by `entry` of another: sqrt(rms^2 - own^2) of ln residuals,
// by their 90 % quantiles.
double transfer_error(const Group& group, const cost::FitEntry& foreign, const cost::FitEntry& own);

}  // namespace moesim::fit
