// What a Timeline says, in the numbers that a report shows.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "moesim/machine.hpp"
#include "moesim/plan.hpp"
#include "moesim/timeline.hpp"
#include "study/uncertainty.hpp"

namespace moesim::study {

// Where the time of a rank goes. Every instant of a step belongs to exactly one part: a kernel that computes, else a
// transfer, else waiting for peers in a collective, else the host being behind with launches, else nothing.
enum class Part : std::uint8_t {
  attention,
  gate,
  dispatch,
  experts,
  combine,
  dense,
  embedding,
  other,
  parameters,  // gathering parameters and reducing gradients, where no kernel hides it
  optimizer,
  wait,    // in a collective, for ranks that are not there yet
  launch,  // for the host thread
  idle,
};
inline constexpr std::size_t part_count = 13;
std::string_view to_string(Part part);

struct BusyLink {
  std::string name;
  Bytes bytes;
  double busy = 0;         // share of the step with traffic on it
  double utilization = 0;  // bytes / (capacity x time with traffic)
};

// Links that were full: those that differ only in numbers other than the node's, or than the first, are one group.
struct FullLinks {
  std::string name;  // "n3/nic*>leaf*"
  int links = 0;     // of the group that were ever full
  Picoseconds time;  // the longest of them
  double share = 0;  // of the time with a collective under way anywhere
};

struct Summary {
  Picoseconds step;       // end to end: TTFT of a prefill, TPOT of a decode step, the pass of an encoder
  Picoseconds moe_layer;  // gate to combine, and back where the plan trains; mean over MoE layers and ranks
  Interval step_interval;
  Interval moe_layer_interval;
  std::string outside;   // of the calibrated range: which kinds of op; empty = none, or no calibration
  double straggler = 1;  // copies that experts compute, padding included: most of any rank / mean, layer by layer
  Rank slowest;          // the rank with the most of them
  Bytes sent;            // by collectives, application bytes, most of any rank
  Bytes received;
  MemoryPeak memory;      // of the rank that needs most; of all together, where they share one GPU
  bool together = false;  // all ranks are on one GPU
  Bytes memory_limit;
  bool fits = true;
  double dropped = 0;      // share of token copies over capacity
  Flops expert_flops_max;  // of one rank: equal for all ranks under expert sharding
  Flops expert_flops_min;
  std::array<Picoseconds, part_count> parts{};  // mean over ranks; sums to step up to rounding
  std::vector<BusyLink> links;                  // the five that carry most for their capacity
  std::vector<FullLinks> full;                  // the five longest: the cut that the network's time goes through
  Picoseconds network;                          // time with a collective under way anywhere
  Picoseconds network_early;                    // Timeline
  Picoseconds network_late;
  std::string bottleneck;  // one sentence
};

// Without errors the intervals stay empty.
Summary summarize(const Plan& plan, const Timeline& timeline, const Cluster& cluster, const Errors& errors = {});

}  // namespace moesim::study
