// Collectives and expert exchanges of one machine as its calibration knows them: what the simulator takes latencies
// from (sim/collectives/measured.cpp). docs/cost_models.md, "Collectives".
#pragma once

#include <optional>
#include <string>

#include "models/cost/collective_model.hpp"
#include "models/cost/exchange_model.hpp"
#include "models/cost/fit_file.hpp"

namespace moesim::cost {

struct Communication {
  Fabric fabric;    // data sheet: what the fits' rates are fractions of
  double link = 0;  // bytes per microsecond that the simulated links of one GPU carry,
  double nic = 0;   // and its share of the NICs
  CollectiveParameters nccl{};
  std::optional<ExchangeParameters> dispatch, combine;                // DeepEP's normal kernels,
  std::optional<LowLatencyParameters> quick_dispatch, quick_combine;  // and its low-latency ones
};

// Empty where the fits have no collectives. `library`: the beginning of the fit's name, as find_entry.
std::optional<Communication> communication(const FitFile& fits, const Fabric& fabric, double link, double nic,
                                           const std::string& library = {});

}  // namespace moesim::cost
