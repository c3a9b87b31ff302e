// T tokens of h bytes on every rank, top_k of E experts, N nodes of g ranks, S SMs.
//   R = distinct ranks of a token, M = distinct nodes                      (drawn evenly, without replacement)
// Normal mode (DeepEP's intranode and internode kernels):
//   copies  c = R T + token_rows (T + [N > 1] M T) + [N > 1] M T
//           a token is handled once more at each node, and staged once through the RDMA buffer
//   t = latency + row_us h + p-norm( c (h + row_bytes) / (S sm_rate),
//                                    R T h (g-1)/g / (e B_link), M T h (N-1)/N / (e B_nic) )
// Low-latency mode: every copy travels by itself, top_k T h of them, (g-1)/G over NVLink and (N-1)/N over the NIC;
//   t = latency + row_us h + expert_us E/100 + [N > 1] net_us + p-norm( link, NIC, k T h / (min(E, 128) sm_rate) )
// Limits: uniform routing; one-node fits say nothing about the NIC, whose efficiency then stays at its prior.

#include "models/cost/exchange_model.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace moesim::cost {
namespace {

double norm(std::array<double, 3> terms, double p) {
  const double large = *std::max_element(terms.begin(), terms.end());
  if (large == 0) return 0;
  double sum = 0;
  for (const double t : terms) sum += std::pow(t / large, p);
  return large * std::pow(sum, 1 / p);
}

struct Loads {
  double link, nic;  // bytes of one rank
};

Loads loads(const ExchangeShape& s) {
  const double ranks = static_cast<double>(s.nodes) * s.gpus_per_node;
  const double token = s.hidden * s.bytes_per_element;
  const double away = static_cast<double>(s.nodes - 1) / s.nodes;
  if (s.low_latency) {
    const double copies = s.tokens * s.top_k;
    return {copies * token * (s.gpus_per_node - 1) / ranks, copies * token * away};
  }
  const double copies = s.tokens * distinct_groups(ranks, s.experts, s.top_k);
  const double relays = s.tokens * distinct_groups(s.nodes, s.experts, s.top_k);
  return {copies * token * (s.gpus_per_node - 1) / s.gpus_per_node, relays * token * away};
}

}  // namespace

double distinct_groups(double groups, double experts, double top_k) {
  // 1 - C(E - E/G, k) / C(E, k), as a product so that neither factor overflows.
  const double others = experts - experts / groups;
  double missed = 1;
  for (int i = 0; i < static_cast<int>(top_k); ++i) missed *= std::max(0.0, others - i) / (experts - i);
  return groups * (1 - missed);
}

std::span<const Field<ExchangeParameters>> exchange_fields() {
  using P = ExchangeParameters;
  static constexpr std::array fields{
      Field<P>{&P::latency_us, "latency_us", "us: of one short token", 25, 0.5, 1, 500},
      Field<P>{&P::row_us, "row_us", "us: more per kilobyte of a token", 0.5, 1.0, 1e-3, 20},
      Field<P>{&P::sm_rate, "sm_rate", "bytes per us that one SM copies", 30e3, 0.5, 1e3, 3e5},
      Field<P>{&P::row_bytes, "row_bytes", "bytes that a row costs besides its own", 1500, 1.0, 10, 2e4},
      Field<P>{&P::token_rows, "token_rows", "rows that a token costs at each end besides its copies", 1.5, 1.0, 0.01,
               20},
      Field<P>{&P::link_efficiency, "link_efficiency", "of NVLink's data-sheet rate", 0.72, 0.15, 0.1, 1},
      Field<P>{&P::nic_efficiency, "nic_efficiency", "of the NIC's data-sheet rate", 0.88, 0.08, 0.1, 1},
      Field<P>{&P::sharpness, "sharpness", "norm that joins SMs, NVLink and NIC", 4, 0.4, 1, 10}};
  return fields;
}

std::span<const Field<LowLatencyParameters>> low_latency_fields() {
  using P = LowLatencyParameters;
  static constexpr std::array fields{
      Field<P>{&P::latency_us, "latency_us", "us: of one short token", 8, 0.5, 1, 500},
      Field<P>{&P::row_us, "row_us", "us: more per kilobyte of a token", 0.1, 1.0, 1e-3, 20},
      Field<P>{&P::expert_us, "expert_us", "us: per 100 experts", 1, 1.0, 1e-2, 50},
      Field<P>{&P::net_us, "net_us", "us: more between nodes", 8, 0.5, 0.5, 200},
      Field<P>{&P::sm_rate, "sm_rate", "bytes per us to one expert", 3e3, 1.0, 100, 1e5},
      Field<P>{&P::link_efficiency, "link_efficiency", "of NVLink's data-sheet rate", 0.6, 0.2, 0.1, 1},
      Field<P>{&P::nic_efficiency, "nic_efficiency", "of the NIC's data-sheet rate", 0.85, 0.08, 0.1, 1},
      Field<P>{&P::sharpness, "sharpness", "norm that joins SMs, NVLink and NIC", 3, 0.5, 1, 10}};
  return fields;
}

double exchange_us(const ExchangeParameters& p, const Fabric& fabric, const ExchangeLoad& l) {
  const double rows = l.copies + p.token_rows * (l.tokens + l.relays) + l.relays;
  const double nic = l.nic > 0 ? l.nic / (fabric.nic * p.nic_efficiency) : 0;
  const double work =
      norm({rows * (l.row + p.row_bytes) / (l.sms * p.sm_rate), l.link / (fabric.link * p.link_efficiency), nic},
           p.sharpness);
  return p.latency_us + p.row_us * l.row / 1e3 + work;
}

double exchange_us(const ExchangeParameters& p, const Fabric& fabric, const ExchangeShape& s) {
  if (s.tokens <= 0) return 0;
  const double ranks = static_cast<double>(s.nodes) * s.gpus_per_node;
  const Loads l = loads(s);
  ExchangeLoad load;
  load.tokens = s.tokens;
  load.copies = s.tokens * distinct_groups(ranks, s.experts, s.top_k);
  load.relays = s.nodes > 1 ? s.tokens * distinct_groups(s.nodes, s.experts, s.top_k) : 0;
  load.row = s.hidden * s.bytes_per_element;
  load.link = l.link;
  load.nic = s.nodes > 1 ? l.nic : 0;
  load.sms = s.sms;
  return std::max(exchange_us(p, fabric, load), exchange_bound_us(fabric, s));
}

double exchange_us(const LowLatencyParameters& p, const Fabric& fabric, const ExchangeLoad& l) {
  const double serving = std::min(l.experts, 128.0);
  const double nic = l.nic > 0 ? l.nic / (fabric.nic * p.nic_efficiency) : 0;
  const double work =
      norm({l.copies * l.row / (serving * p.sm_rate), l.link / (fabric.link * p.link_efficiency), nic}, p.sharpness);
  return p.latency_us + p.row_us * l.row / 1e3 + p.expert_us * l.experts / 100 + (l.nic > 0 ? p.net_us : 0) + work;
}

double exchange_us(const LowLatencyParameters& p, const Fabric& fabric, const ExchangeShape& s) {
  if (s.tokens <= 0) return 0;
  const Loads l = loads(s);
  ExchangeLoad load;
  load.copies = s.tokens * s.top_k;
  load.row = s.hidden * s.bytes_per_element;
  load.link = l.link;
  load.nic = s.nodes > 1 ? l.nic : 0;
  load.experts = s.experts;
  return std::max(exchange_us(p, fabric, load), exchange_bound_us(fabric, s));
}

double exchange_bound_us(const Fabric& fabric, const ExchangeShape& s) {
  const Loads l = loads(s);
  return std::max(l.link / fabric.link, s.nodes > 1 && fabric.nic > 0 ? l.nic / fabric.nic : 0);
}

}  // namespace moesim::cost
