// Loads of S bytes over G GPUs on N nodes of g = G / N (nccl-tests, doc/PERFORMANCE.md):
//   ring       W = all-gather, reduce-scatter S (G-1)/G; all-reduce twice that. Over several nodes one ring per NIC:
//              NIC W / g, link W (g-1)/g; on one node link W
//   tree       all-reduce over several nodes: link 2 S (g-1)/g, NIC S / g, twice that over more than two nodes (the
//              inner nodes of two binary trees, each for half of the bytes)
//   exchange   link S (g-1)/G, NIC S (G-g)/G;   own part (not all-reduce): S/G, out of place
//   in switch  S through every link once (NVLink SHARP); between nodes as the tree
// Steps: ring (G-1) - (N-1) inside and N-1 between nodes, all-reduce twice (NCCL, src/graph/tuning.cc); tree 2 (g-1)
// and 2 log2 N. NCCL has three protocols with rising latency and rate (LL, LL128, Simple; the same file states the
// trade), and takes the fastest:
//   ring, tree  t_i = ring_us + steps step_us + hops (inter_step_us + h_i) + l_i + max(W/B_i, V/B_nic) + C/B_c
//   exchange    t_i = exchange_us + (G-1) peer_us + [N > 1] (inter_step_us + h_i) + l_i + max over ports
//               i = LL (S/G per peer, all peers at once), Simple
//   in switch   t = switch_us + hops (inter_step_us + h_Simple) + max(S/B_s, V/B_nic)   (more than two GPUs)
// l_LL = h_LL = 0; LL's bytes on a NIC count twice, half of them are flags. t is the soft minimum (sum t_i^-p)^(-1/p):
// near a crossing NCCL's choice is now one, now the other.

#include "models/cost/collective_model.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace moesim::cost {
namespace {

constexpr double flagged = 2;  // LL sends a flag of 4 bytes with every 4 bytes

constexpr double log2_ceil(int n) {
  int depth = 0;
  while ((1 << depth) < n) ++depth;
  return depth;
}

bool reduces_in_switch(const Fabric& fabric, const CollectiveShape& s) {
  return fabric.in_switch && s.kind == CollectiveKind::all_reduce && s.gpus > 2;
}

// Times of the protocols that one form can use, into `out`; how many there are.
std::size_t protocol_times(const CollectiveParameters& p, const Fabric& fabric, const CollectiveLoad& l,
                           std::span<double, 3> out) {
  const double nic = l.nic > 0 ? l.nic / (fabric.nic * p.nic_efficiency) : 0;
  const double own = l.own / (fabric.memory * p.copy_rate);
  const auto hops = [&](double more) { return l.hops * (p.inter_step_us + more); };
  switch (l.form) {
    case CollectiveForm::exchange: {
      const double enter = p.exchange_us + (l.peers - 1) * p.peer_us;
      out[0] = enter + hops(0) + std::max(l.pair / (fabric.link * p.exchange_rate), flagged * nic);
      out[1] = enter + hops(p.inter_large_us) + p.bulk_us + std::max(l.link / (fabric.link * p.large_rate) + own, nic);
      return 2;
    }
    case CollectiveForm::in_switch:
      out[0] = p.switch_us + hops(p.inter_large_us) + std::max(l.link / (fabric.link * p.switch_rate), nic);
      return 1;
    case CollectiveForm::ring:
    case CollectiveForm::tree:
      break;
  }
  const double enter = p.ring_us + l.steps * p.step_us + own;
  const auto wire = [&](double rate, double load) { return std::max(l.link / (fabric.link * rate), load * nic); };
  out[0] = enter + hops(0) + wire(p.small_rate, flagged);
  out[1] = enter + hops(p.inter_medium_us) + p.medium_us + wire(p.medium_rate, 1);
  out[2] = enter + hops(p.inter_large_us) + p.large_us + wire(p.large_rate, 1);
  return 3;
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
      Field<P>{&P::nic_efficiency, "nic_efficiency", "of the NICs' data-sheet rate", 0.85, 0.1, 0.1, 1},
      Field<P>{&P::inter_medium_us, "inter_medium_us", "us: what LL128 costs more, per step between nodes", 3.5, 0.7,
               0.1, 300},
      Field<P>{&P::inter_large_us, "inter_large_us", "us: what Simple costs more, per step between nodes", 9, 0.7, 0.1,
               300}};
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
  if (s.nodes > 1) return "several nodes";
  if (s.bytes < kib) return "under 1 KiB";
  if (s.bytes <= 64 * kib) return "1 to 64 KiB";
  if (s.bytes <= 16 * mib) return "64 KiB to 16 MiB";
  return s.bytes <= 512 * mib ? "16 to 512 MiB" : "over 512 MiB";
}

std::vector<CollectiveLoad> loads(const Fabric& fabric, const CollectiveShape& s) {
  const double gpus = s.gpus;
  const double nodes = s.nodes;
  const double per_node = gpus / nodes;
  if (s.kind == CollectiveKind::all_to_all)
    return {{CollectiveForm::exchange, s.bytes * (per_node - 1) / gpus, s.bytes * (gpus - per_node) / gpus,
             s.bytes / gpus, s.bytes / gpus, 0, s.nodes > 1 ? 1.0 : 0.0, s.gpus}};
  const bool both = s.kind == CollectiveKind::all_reduce;
  const double twice = both ? 2 : 1;
  const double around = twice * s.bytes * (gpus - 1) / gpus;
  const bool several = s.nodes > 1;
  const double inside = several ? (per_node - 1) / per_node : 1;  // of a GPU's rings, all but one go on to a neighbour
  std::vector<CollectiveLoad> out{{CollectiveForm::ring, around * inside, several ? around / per_node : 0,
                                   both ? 0 : s.bytes / gpus, 0, twice * (gpus - nodes), twice * (nodes - 1), s.gpus}};
  if (!both) return out;
  const double up = several ? s.bytes / per_node * (s.nodes > 2 ? 2 : 1) : 0;
  const double climb = 2 * log2_ceil(s.nodes);
  if (several)
    out.push_back(
        {CollectiveForm::tree, 2 * s.bytes * (per_node - 1) / per_node, up, 0, 0, 2 * (per_node - 1), climb, s.gpus});
  if (reduces_in_switch(fabric, s) && per_node > 1)
    out.push_back({CollectiveForm::in_switch, s.bytes, up, 0, 0, 0, climb, s.gpus});
  return out;
}

double collective_us(const CollectiveParameters& p, const Fabric& fabric, std::span<const CollectiveLoad> choices) {
  std::array<double, 9> times{};
  std::size_t n = 0;
  for (const CollectiveLoad& l : choices) n += protocol_times(p, fabric, l, std::span<double, 3>(times.data() + n, 3));
  const double least = *std::min_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(n));
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += std::pow(least / times[i], p.sharpness);
  return least * std::pow(sum, -1 / p.sharpness);
}

const CollectiveLoad& fastest_form(const CollectiveParameters& p, const Fabric& fabric,
                                   std::span<const CollectiveLoad> choices) {
  const auto least = [&](const CollectiveLoad& l) {
    std::array<double, 3> times{};
    return *std::min_element(times.begin(),
                             times.begin() + static_cast<std::ptrdiff_t>(protocol_times(p, fabric, l, times)));
  };
  return *std::ranges::min_element(choices, {}, least);
}

double collective_us(const CollectiveParameters& p, const Fabric& fabric, const CollectiveShape& s) {
  if (s.gpus <= 1 || s.bytes <= 0) return 0;
  return std::max(collective_us(p, fabric, loads(fabric, s)), collective_bound_us(fabric, s));
}

double collective_bound_us(const Fabric& fabric, const CollectiveShape& s) {
  if (s.gpus <= 1) return 0;
  // Whatever the form: what has to leave a node and what has to leave a GPU. In the switch each rank sends its buffer
  // once and receives the sum once.
  const double gpus = s.gpus;
  const double nodes = s.nodes;
  const double per_node = gpus / nodes;
  const double twice = s.kind == CollectiveKind::all_reduce ? 2 : 1;
  double wire = twice * s.bytes * (gpus - 1) / gpus;
  double nic = twice * s.bytes * (nodes - 1) / nodes / per_node;
  if (s.kind == CollectiveKind::all_to_all) {
    wire = s.bytes * (per_node - 1) / gpus;
    nic = s.bytes * (gpus - per_node) / gpus;
  }
  if (reduces_in_switch(fabric, s)) wire = s.bytes;
  return std::max(wire / fabric.link, s.nodes > 1 && fabric.nic > 0 ? nic / fabric.nic : 0);
}

}  // namespace moesim::cost
