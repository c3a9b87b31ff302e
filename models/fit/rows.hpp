// The CSV schemas that calibration reads. docs/cost_models.md lists their columns; other columns are ignored.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/cost/collective_model.hpp"
#include "models/cost/device_costs.hpp"
#include "models/cost/exchange_model.hpp"
#include "moesim/error.hpp"

namespace moesim::fit {

enum class Schema : std::uint8_t { gemm, moe_kernel, nccl, deepep, device };
std::string_view to_string(Schema schema);

// Where a row stands and what it was measured on.
struct Origin {
  std::string gpu;      // as the file spells it: "h100_sxm"
  std::string library;  // "vllm 0.24.0"
  std::string dtype;    // "bfloat16", "fp8", "fp8_block"; deepep: the kernel ("dispatch", "low-latency combine")
  SourcePlace place;
};

struct GemmRow {
  Origin origin;
  std::int64_t m = 0, n = 0, k = 0;
  double us = 0;
};

struct ExpertRow {
  Origin origin;  // library: with the kernel's name
  std::int64_t hidden = 0, inter = 0, top_k = 0, experts = 0;
  int tp = 1, ep = 1;
  double power_law = 0;  // 0 = balanced, else the exponent
  std::int64_t tokens = 0;
  bool gated = true;
  double us = 0;
};

struct CollectiveRow {
  Origin origin;
  cost::CollectiveShape shape;
  double us = 0;
};

struct ExchangeRow {
  Origin origin;
  cost::ExchangeShape shape;
  double us = 0;
};

struct DeviceRow {
  Origin origin;
  cost::DeviceCost cost = cost::DeviceCost::issue;
  std::string shape;  // which kernel streams, for reports
  double amount = 0;  // launches or bytes
  double us = 0;
};

// Reads and checks: columns there, numbers that are numbers and in bounds, no file given twice, no row twice. All
// faults at once, by file and line. `gpu` keeps that GPU's rows only; empty: all rows have to be of one GPU. Rows that
// measure the same thing twice are merged into their median; they contradict each other beyond a factor of 5.
std::vector<GemmRow> read_gemm(const std::vector<std::string>& files, const std::string& gpu);
std::vector<ExpertRow> read_experts(const std::vector<std::string>& files, const std::string& gpu);
std::vector<CollectiveRow> read_collectives(const std::vector<std::string>& files, const std::string& gpu);
std::vector<ExchangeRow> read_exchanges(const std::vector<std::string>& files, const std::string& gpu);
std::vector<DeviceRow> read_device(const std::vector<std::string>& files, const std::string& gpu);

}  // namespace moesim::fit
