// Validation: predictions of shipped fits against figures that the fits have not seen. What `moesim validate` does.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/cost/fit_file.hpp"
#include "models/cost/fitted.hpp"
#include "models/fit/calibrate.hpp"
#include "models/fit/group.hpp"

namespace moesim::fit {

struct ValidationOptions {
  // CSV files of a schema whose `gpu` column names machine files; empty: models/validation/, as shipped.
  std::vector<std::string> files;
  Schema schema = Schema::gemm;  // of `files`
  std::string gpu;               // of `files`: only this GPU's rows, as they name it
  std::string machine;           // only this one; of `files` with a `gpu`: whose data sheet holds
  std::string fit;               // predict by this fit file, transferred where it is another machine's; empty: shipped
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
  std::vector<PredictedRow> rows;  // of the figures that were predicted now
};

// Two kinds of lines: what the fit files say of their held-out rows, and the figures predicted now. Machines without a
// shipped fit are predicted by transfer. Throws InputError for files that cannot be read.
ValidationTable validate(const ValidationOptions& options = {});

// Columns: machine, op, regime, rows, median and 90 % quantile of |ln(predicted / measured)|, bias, coverage of the 90
// % interval, the baselines. `markdown` for a README.
std::string render(const ValidationTable& table, bool markdown = false);
std::string to_json(const ValidationTable& table);
void write_csv(const ValidationTable& table, const std::string& path);

}  // namespace moesim::fit
