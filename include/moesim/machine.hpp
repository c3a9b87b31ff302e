// GPUs, nodes and clusters as read from models/hardware/*.toml. Every number in those files names its source; what the
// file calls provenance is kept so that a report can say where a number came from.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "moesim/dtype.hpp"
#include "moesim/topology.hpp"
#include "moesim/units.hpp"

namespace moesim {

namespace cost {
struct Communication;  // models/cost/communication.hpp
}

struct Gpu {
  std::string name;
  int sms = 0;
  // Dense data-sheet peaks by pipeline (no structured sparsity); absent where the GPU has no such pipeline.
  std::array<std::optional<FlopsPerSecond>, all_maths.size()> peak;
  BytesPerSecond memory_bandwidth;  // data sheet
  Bytes memory;                     // usable device memory
  Bytes reserved;                   // CUDA context, NCCL, fragmentation: subtracted from memory before a plan fits

  // What a long kernel achieves of the peaks above, 0 < e <= 1.
  double matrix_efficiency = 1.0;
  double memory_efficiency = 1.0;
  double attention_efficiency = 1.0;  // of the matrix peak, in fused attention kernels

  // Launching. `launch` is what the host thread spends per kernel (the framework's dispatch included); a kernel never
  // runs shorter than `kernel_floor` on the device.
  Picoseconds launch;
  Picoseconds kernel_floor;
  Picoseconds host_sync;  // device to host copy of a few bytes and the wake-up of the host thread

  [[nodiscard]] std::optional<FlopsPerSecond> peak_of(Math m) const { return peak[static_cast<std::size_t>(m)]; }
};

// Latency and protocol terms of collectives on this machine (alpha of alpha-beta); bandwidth lives on the links.
// docs/network.md, "Latency", has the equation they stand in.
struct CollectiveCosts {
  Picoseconds launch;         // fixed cost of entering any collective, on the device
  Picoseconds intra_message;  // per sequential step between GPUs of one node
  Picoseconds inter_message;  // per sequential step that crosses nodes
  int sms = 0;                // SMs that a running collective occupies
  Picoseconds message_gap;    // between two messages that a rank sends in one step (LogGP's g); 0 = all at once
  // What a stream loses before it runs at full rate (protocols, pipeline fill): ramp * b / (b + ramp_half) for b bytes.
  Picoseconds ramp;
  Bytes ramp_half;
  // All-reduce inside the switch (NVLink SHARP): what it achieves of a link's capacity, 0 = the switch cannot; and each
  // of its two steps.
  double in_switch = 0;
  Picoseconds in_switch_message;
};

struct Cluster {
  std::string name;
  int nodes = 1;
  int gpus_per_node = 1;
  Gpu gpu;
  CollectiveCosts collectives;
  std::shared_ptr<const cost::Communication> communication;  // as calibrated; null: `collectives` alone
  BytesPerSecond host_link;                    // one GPU's path to host memory, one direction (PCIe, NVLink-C2C)
  std::shared_ptr<const Topology> topology;    // ranks = nodes * gpus_per_node, node-major
  std::map<std::string, std::string> sources;  // dotted key -> where the number is from

  [[nodiscard]] int ranks() const { return nodes * gpus_per_node; }
};

}  // namespace moesim
