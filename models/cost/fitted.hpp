// Kernel and communication models from a fit file. docs/cost_models.md has the equations.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "models/cost/collective_model.hpp"
#include "models/cost/exchange_model.hpp"
#include "models/cost/expert_model.hpp"
#include "models/cost/fit_file.hpp"
#include "models/cost/kernel_model.hpp"

namespace moesim::cost {

// Kernels of one GPU. `library`: whose kernels run, the beginning of a fit's library; empty: the fastest of all that
// were measured, shape by shape, as engines choose. What the file does not cover comes from its nearest fit with a
// wider interval and in_range = false; a file without any GEMM leaves the roofline. No result beats the data sheet.
//   gemm, grouped_gemm   the tile model; the grouped one with the parameters of the expert kernels
//   attention            the machine file's attention efficiency behind the fitted launch; not calibrated
//   streaming            the fitted memory efficiency behind the fitted launch
// `other_pipeline_sigma` is added in quadrature where a pipeline takes the parameters of another (tf32 those of bf16).
std::unique_ptr<KernelModel> make_fitted(const Gpu& gpu, const FitFile& fits, const std::string& library = {},
                                         double other_pipeline_sigma = 0);

// One prediction of a fit with its 90 % interval.
struct Prediction {
  double us = 0;
  double low_us = 0, high_us = 0;
  bool in_range = true;  // calibrated on this GPU, and inside its ranges
};

// A whole expert kernel, as serving engines time it. Empty where the file has no fit of the format.
std::optional<Prediction> predict_experts(const Gpu& gpu, const FitFile& fits, const ExpertWork& work, DType weights,
                                          const std::string& library = {});
std::optional<Prediction> predict_collective(const Fabric& fabric, const FitFile& fits, const CollectiveShape& shape,
                                             const std::string& library = {});
std::string exchange_regime(int nodes);                          // a line of the accuracy table
std::string exchange_name(ExchangeKind kind, bool low_latency);  // as the fit's dtype: "low-latency dispatch"
std::optional<Prediction> predict_exchange(const Fabric& fabric, const FitFile& fits, const ExchangeShape& shape);

// The entry of a schema and format that `library` asks for: the longest common beginning, then the most rows.
const FitEntry* find_entry(const FitFile& fits, std::string_view schema, std::string_view dtype,
                           std::string_view library = {});
// Whether the measurements enclose the value; true where the entry has no such range.
bool inside(const FitEntry& entry, std::string_view quantity, double value);
// Measured on this GPU, with sizes and numbers of GPUs that the measurements enclose.
bool in_range(const FitEntry& entry, const CollectiveShape& shape);
// Standard deviation of ln(measured / predicted): of the regime where the entry has it, else of all its rows.
double log_sigma(const FitEntry& entry, std::string_view regime);
// The same over `nodes` nodes: `beyond_nodes` times as wide where fewer were measured. DeepEP's two nodes, predicted
// from one, are in intervals of that width in 88 to 100 % of the rows (docs/cost_models.md, "Intervals").
inline constexpr double beyond_nodes = 2;
double log_sigma(const FitEntry& entry, std::string_view regime, int nodes);

// ---- transfer
// ---------------------------------------------------------------------------------------------------------

// How unlike two GPUs are: the root of the summed squares of ln ratios of bf16 peak, memory bandwidth and SMs.
double distance(const Gpu& a, const Gpu& b);

// What predicting one GPU from another's parameters costs, measured where both are known.
struct TransferError {
  std::string schema;
  double sigma = 0;     // added in quadrature, of ln(measured / predicted), at
  double distance = 1;  // this distance; in proportion elsewhere, at most 1.5 times
};

// The parameters of `from` for another GPU: efficiencies and norms are fractions of its data sheet, a tile's step and
// epilogue take the time of as many operations of an SM, other latencies carry over as they are; intervals widen.
FitFile transfer(const FitFile& from, const Gpu& from_gpu, const Gpu& to_gpu, const std::string& to_machine,
                 const std::vector<TransferError>& errors);

}  // namespace moesim::cost
