// Volumes of S bytes over G GPUs on N nodes of g = G / N (nccl-tests, doc/PERFORMANCE.md):
//   wire W  all-gather, reduce-scatter S (G-1)/G; all-reduce 2 S (G-1)/G; all-to-all S (G-1)/G, of which S (g-1)/G
//   inside NIC  V  all-gather, reduce-scatter S (N-1)/N / g; all-reduce twice that; all-to-all S (G-g)/G own  C  S/G
//   copied locally, out of place (not all-reduce)
// Steps: g-1 inside and N-1 between nodes; all-reduce makes them twice. NCCL has three protocols with rising latency
// and rate (LL, LL128, Simple; NCCL's src/graph/tuning.cc states the trade), and takes the fastest:
//   ring       t_i = ring_us + steps step_us + l_i + W/B_i + C/B_c,  i = LL, LL128, Simple;  l_LL = 0
//   exchange   t_i = exchange_us + (G-1) peer_us + l_i + max over ports,  i = LL (S/G per peer, all peers at once),
//   Simple in switch  t = switch_us + S/B_s   (all-reduce, more than two GPUs, NVLink SHARP)
// t is the soft minimum (sum t_i^-p)^(-1/p): near a crossing NCCL's choice is now one, now the other.

#include "models/cost/collective_model.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace moesim::cost {
namespace {

struct Volumes {
  double wire, nic, own;
};

Volumes volumes(const CollectiveShape& s) {
  const double gpus = s.gpus;
  const double nodes = s.nodes;
  const double per_node = gpus / nodes;
  const double twice = s.kind == CollectiveKind::all_reduce ? 2 : 1;
  if (s.kind == CollectiveKind::all_to_all)
    return {s.bytes * (per_node - 1) / gpus, s.bytes * (gpus - per_node) / gpus, s.bytes / gpus};
  return {twice * s.bytes * (gpus - 1) / gpus, twice * s.bytes * (nodes - 1) / nodes / per_node,
          s.kind == CollectiveKind::all_reduce ? 0 : s.bytes / gpus};
}

bool reduces_in_switch(const Fabric& fabric, const CollectiveShape& s) {
  return fabric.in_switch && s.kind == CollectiveKind::all_reduce && s.gpus > 2;
}

}  // namespace

std::span<const Field<CollectiveParameters>> collective_fields() {
  using P = CollectiveParameters;
  static constexpr std::array fields{
      Field<P>{&P::ring_us, "ring_us", "us: entering all-gather, reduce-scatter, all-reduce", 5, 0.5, 0.5, 200},
      Field<P>{&P::exchange_us, "exchange_us", "us: entering an all-to-all", 6, 0.5, 0.5, 200},
      Field<P>{&P::step_us, "step_us", "us: one step of a ring inside a node", 0.9, 0.2, 0.1, 20},
      Field<P>{&P::peer_us, "peer_us", "us: one more peer of an all-to-all", 0.3, 0.4, 0.01, 20},
      Field<P>{&P::medium_us, "medium_us", "us: what protocol LL128 costs more than LL", 1.5, 0.7, 0.05, 50},
      Field<P>{&P::large_us, "large_us", "us: what protocol Simple costs more than LL, in a ring", 14, 0.7, 0.5, 200},
      Field<P>{&P::bulk_us, "bulk_us", "us: the same in an all-to-all", 6, 0.5, 0.5, 200},
      Field<P>{&P::small_rate, "small_rate", "of the link: LL", 0.03, 0.6, 1e-3, 0.5},
      Field<P>{&P::exchange_rate, "exchange_rate", "of the link: LL, to one peer", 0.012, 0.6, 1e-3, 0.5},
      Field<P>{&P::medium_rate, "medium_rate", "of the link: LL128", 0.4, 0.3, 0.02, 1},
      Field<P>{&P::large_rate, "large_rate", "of the link: Simple", 0.74, 0.06, 0.1, 1},
      Field<P>{&P::copy_rate, "copy_rate", "of the memory bandwidth: copying a rank's own part", 0.3, 0.4, 0.02, 1},
      Field<P>{&P::switch_us, "switch_us", "us: all-reduce inside the switch", 40, 0.4, 2, 200},
      Field<P>{&P::switch_rate, "switch_rate", "of the link: all-reduce inside the switch, whole buffer", 0.56, 0.08,
               0.1, 1},
      Field<P>{&P::sharpness, "sharpness", "how close to the fastest protocol NCCL's choice is", 8, 0.3, 2, 20},
      Field<P>{&P::inter_step_us, "inter_step_us", "us: one step between nodes", 7, 0.7, 0.5, 300},
      Field<P>{&P::nic_efficiency, "nic_efficiency", "of the NICs' data-sheet rate", 0.85, 0.1, 0.1, 1}};
  return fields;
}

std::string_view to_string(CollectiveKind kind) {
  switch (kind) {
    case CollectiveKind::all_gather:
      return "all_gather";
    case CollectiveKind::reduce_scatter:
      return "reduce_scatter";
    case CollectiveKind::all_reduce:
      return "all_reduce";
    case CollectiveKind::all_to_all:
      return "alltoall";
  }
  return "all_reduce";
}

std::optional<CollectiveKind> parse_collective(std::string_view name) {
  for (const CollectiveKind kind : all_collective_kinds)
    if (to_string(kind) == name) return kind;
  if (name == "all_to_all") return CollectiveKind::all_to_all;
  return std::nullopt;
}

std::string_view collective_regime(const CollectiveShape& s) {
  constexpr double kib = 1024;
  constexpr double mib = 1024 * 1024;
  if (s.bytes < kib) return "under 1 KiB";
  if (s.bytes <= 64 * kib) return "1 to 64 KiB";
  if (s.bytes <= 16 * mib) return "64 KiB to 16 MiB";
  return s.bytes <= 512 * mib ? "16 to 512 MiB" : "over 512 MiB";
}

double collective_us(const CollectiveParameters& p, const Fabric& fabric, const CollectiveShape& s) {
  if (s.gpus <= 1 || s.bytes <= 0) return 0;
  const Volumes v = volumes(s);
  const double nodes = s.nodes;
  const double per_node = s.gpus / nodes;
  const double nic = s.nodes > 1 ? v.nic / (fabric.nic * p.nic_efficiency) : 0;
  const double own = v.own / (fabric.memory * p.copy_rate);
  std::array<double, 4> times{};
  std::size_t n = 0;
  if (s.kind == CollectiveKind::all_to_all) {
    const double enter = p.exchange_us + (s.gpus - 1) * p.peer_us + (s.nodes > 1 ? p.inter_step_us : 0);
    times[n++] = enter + std::max(s.bytes / s.gpus / (fabric.link * p.exchange_rate), nic);
    times[n++] = enter + p.bulk_us + std::max(v.wire / (fabric.link * p.large_rate) + own, nic);
  } else {
    const double twice = s.kind == CollectiveKind::all_reduce ? 2 : 1;
    const double steps = twice * ((per_node - 1) * p.step_us + (nodes - 1) * p.inter_step_us);
    const auto ring = [&](double extra, double rate) {
      times[n++] = p.ring_us + steps + extra + std::max(v.wire / (fabric.link * rate), nic) + own;
    };
    ring(0, p.small_rate);
    ring(p.medium_us, p.medium_rate);
    ring(p.large_us, p.large_rate);
    if (reduces_in_switch(fabric, s))
      times[n++] =
          p.switch_us + twice * (nodes - 1) * p.inter_step_us + std::max(s.bytes / (fabric.link * p.switch_rate), nic);
  }
  const double least = *std::min_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(n));
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += std::pow(least / times[i], p.sharpness);
  return std::max(least * std::pow(sum, -1 / p.sharpness), collective_bound_us(fabric, s));
}

double collective_bound_us(const Fabric& fabric, const CollectiveShape& s) {
  if (s.gpus <= 1) return 0;
  const Volumes v = volumes(s);
  // In the switch each rank sends its buffer once and receives the sum once.
  const double wire = reduces_in_switch(fabric, s) ? s.bytes : v.wire;
  return std::max(wire / fabric.link, s.nodes > 1 && fabric.nic > 0 ? v.nic / fabric.nic : 0);
}

}  // namespace moesim::cost
