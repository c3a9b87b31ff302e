// Which experts are where during one training iteration: the algorithms of Hecate (arXiv 2502.02581, section 4) and of
// the systems it is compared with. Pure functions over loads (tokens per expert) and placements; devices are ranks,
// numbered node by node.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "moesim/placement.hpp"
#include "moesim/table.hpp"
#include "moesim/units.hpp"

namespace moesim::materialization {

using Loads = std::vector<double>;  // [experts]: tokens

// Hecate's overlap degree: how many experts can reach every device while `hidden` passes on the compute stream,
//   t = hidden * bandwidth / bytes of an expert, rounded down.
std::int64_t overlap_degree(Picoseconds hidden, BytesPerSecond bandwidth, Bytes expert);

// Algorithm 1, sparse materialization. Returns `owners` and copies: at most `slots` per device, of the t hottest
// experts. t <= slots: each of them on every device. Otherwise the |D| * slots free slots are shared out: replicas in
// proportion to load (largest remainders, at most one per device), hottest first, each on a device of the node that has
// no copy yet and most free slots, then on the device with most. Ties to the lower number.
ExpertPlacement materialize(const ExpertPlacement& owners, std::span<const double> load, std::int64_t t,
                            std::int64_t slots, int devices_per_node);

// Algorithm 2, heterogeneous sharding: one owner for each expert of each layer. The t hottest of a layer are left
// aside, for they will be materialized; layers by falling maximum load, the other experts by falling load go to the
// least loaded node of the layer, there to the least loaded device with a free slot (ties: fewer slots used, lower
// number); the hottest fill what is left. A device has ceil(all experts / devices) slots over all layers together.
std::vector<ExpertPlacement> shard_heterogeneously(const std::vector<Loads>& loads, std::int64_t t, int devices,
                                                   int devices_per_node);

// FasterMoE's shadowing (PPoPP'22, section 4.1; papers.md section 5): the k hottest experts on every device, k rising
// while the predicted time falls:
//   T(k) = max over devices of (forward and backward compute + 4 exchanges) of its copies + k * broadcast.
struct ShadowCosts {
  double compute;    // seconds per token copy, forward and backward: 3 c
  double exchange;   // seconds per token copy that leaves its device, there and back twice: 4 f
  double broadcast;  // seconds to send one expert to all and to reduce its gradient: s
};
ExpertPlacement shadow(const ExpertPlacement& owners, const Table& counts, const ShadowCosts& costs);

// SmartMoE's exchange (ATC'23): experts of the most and the least loaded device change places while that lowers the
// maximum; devices keep their number of experts.
ExpertPlacement exchange_experts(const ExpertPlacement& owners, std::span<const double> load);

// FlexMoE (SIGMOD'23): the hottest expert (load / replicas) gets a replica in place of one of the coldest expert that
// has several, on a device that lacks it; at most `changes` of them, each only if the maximum device load falls.
ExpertPlacement replicate_and_shrink(const ExpertPlacement& placement, std::span<const double> load, int changes);
// Its first placement: contiguous owners, then `spare` replicas per device dealt in turn.
ExpertPlacement with_spare_slots(int experts, int devices, int spare);

// Load of each device, replicas sharing their expert's evenly.
std::vector<double> device_loads(const ExpertPlacement& placement, std::span<const double> load);

// [devices, devices]: experts that each device sends to each other to turn one placement into the other; from the first
// holder, nothing that is there already.
Table moves(const ExpertPlacement& from, const ExpertPlacement& to);

// (expert, device) pairs of `to` that `from` lacks: chunks that a sparse all-gather moves. lambda S of the paper is
// this times the bytes of an expert.
std::int64_t gathered(const ExpertPlacement& from, const ExpertPlacement& to);

}  // namespace moesim::materialization
