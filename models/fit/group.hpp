// Rows of one library and number format on one GPU, ready to be fitted and judged, whatever the schema.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "models/cost/fit_file.hpp"
#include "models/fit/least_squares.hpp"
#include "models/fit/rows.hpp"
#include "models/hardware/machine.hpp"

namespace moesim::fit {

// What is kept from the fit and predicted by it.
enum class Holdout : std::uint8_t {
  shape,  // all rows of one (n, k), of one model's experts, of one hidden size
  size,   // all rows of one range of sizes, the smallest and the largest among them
  count,  // all rows of one number of GPUs, or of nodes
};
std::string_view to_string(Holdout holdout);

struct Group {
  cost::FitEntry entry;  // schema, library, dtype; parameters and accuracy come from the fit
  std::vector<Parameter> parameters;
  std::vector<std::string> names;     // of the parameters
  std::vector<std::string> variants;  // of the model, tried in turn: tile policies

  // By row.
  std::vector<double> log_us;
  std::vector<SourcePlace> places;
  std::vector<std::string> shape;    // rows of one shape are held out together
  std::vector<double> size;          // by which Holdout::size orders rows
  std::vector<int> count;            // GPUs or nodes
  std::vector<std::string> regime;   // a line of the accuracy table
  std::vector<double> log_bound;     // data sheet
  std::vector<double> log_roofline;  // the baseline: roofline, or latency and bandwidth of the machine file
  std::vector<std::array<double, 7>> coordinates;  // of the nearest-row baseline
  std::vector<bool> train;                         // used by the fit (all are used to judge)
  // Whether the measurement is in order: not longer than the same with twice the work on the rank. By row, or empty.
  std::vector<bool> in_order;
  std::vector<std::pair<std::size_t, std::size_t>> skewed;  // (balanced row, the same with skew): slowdown is judged

  // ln of the model's time in us at the rows `which`.
  std::function<void(std::span<const double> theta, std::size_t variant, std::span<const std::size_t> which,
                     std::span<double> out)>
      log_model;

  [[nodiscard]] std::size_t rows() const { return log_us.size(); }
};

// `machine` gives data-sheet rates and the baseline's numbers. Rows whose rates are off by orders of magnitude (times
// in milliseconds or nanoseconds, another GPU's rows) throw InputError.
std::vector<Group> gemm_groups(const std::vector<GemmRow>& rows, const hardware::MachineSpec& machine);
std::vector<Group> expert_groups(const std::vector<ExpertRow>& rows, const hardware::MachineSpec& machine);
std::vector<Group> collective_groups(const std::vector<CollectiveRow>& rows, const hardware::MachineSpec& machine);
std::vector<Group> exchange_groups(const std::vector<ExchangeRow>& rows, const hardware::MachineSpec& machine);

// Folds 0 ... n-1 by row. Throws InputError when the rows have no two parts to hold out in turn.
std::vector<int> folds(const Group& group, Holdout holdout);

// Exposed to tests.
cost::Fabric fabric_of(const hardware::MachineSpec& machine);

}  // namespace moesim::fit
