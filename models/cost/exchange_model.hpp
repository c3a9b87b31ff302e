// Dispatch and combine of tokens to experts as DeepEP's kernels do them: over NVLink inside a node, over RDMA between
// nodes, on a number of SMs that the user gives away. docs/cost_models.md, "Dispatch and combine".
#pragma once

#include <cstdint>
#include <span>

#include "models/cost/collective_model.hpp"

namespace moesim::cost {

enum class ExchangeKind : std::uint8_t { dispatch, combine };

struct ExchangeShape {
  ExchangeKind kind = ExchangeKind::dispatch;
  bool low_latency = false;  // direct to every expert's GPU, no forwarding; else one copy per node, forwarded inside it
  double tokens = 0;         // of one rank
  double hidden = 0;
  double top_k = 1;
  double experts = 1;
  int nodes = 1;
  int gpus_per_node = 8;
  double sms = 24;           // normal mode
  double bytes_per_element;  // of a token on the wire: FP8 with scales 1.03, bf16 2
};

// Expected number of distinct groups (ranks, nodes) among top_k distinct experts of E drawn evenly, G groups of E/G.
double distinct_groups(double groups, double experts, double top_k);

struct ExchangeParameters {
  double latency_us;       // of one token
  double row_us;           // more per kilobyte of a token
  double sm_rate;          // bytes per microsecond that one SM copies, send and receive counted once
  double row_bytes;        // bytes that a row costs besides its own
  double token_rows;       // rows that a token costs at each end besides its copies
  double link_efficiency;  // of NVLink
  double nic_efficiency;
  double sharpness;
};
std::span<const Field<ExchangeParameters>> exchange_fields();

// What is moved, as the busiest rank sees it.
struct ExchangeLoad {
  double tokens = 0, copies = 0, relays = 0;  // its own; rows to or from all ranks; rows to or from other nodes
  double row = 0;                             // bytes
  double link = 0, nic = 0;                   // bytes through its NVLinks and its share of the NICs, one direction
  double sms = 24;                            // normal mode
  double experts = 1;                         // low latency
};

struct LowLatencyParameters {
  double latency_us, row_us;
  double expert_us;  // per 100 experts: one message and one flag per expert
  double net_us;     // more between nodes
  double sm_rate;    // bytes per microsecond of the SMs that serve one expert
  double link_efficiency, nic_efficiency;
  double sharpness;
};
std::span<const Field<LowLatencyParameters>> low_latency_fields();

double exchange_us(const ExchangeParameters& p, const Fabric& fabric, const ExchangeShape& shape);
double exchange_us(const ExchangeParameters& p, const Fabric& fabric, const ExchangeLoad& load);
double exchange_us(const LowLatencyParameters& p, const Fabric& fabric, const ExchangeLoad& load);
double exchange_us(const LowLatencyParameters& p, const Fabric& fabric, const ExchangeShape& shape);
double exchange_bound_us(const Fabric& fabric, const ExchangeShape& shape);

}  // namespace moesim::cost
