// Machine files: models/hardware/machines/NAME.toml describes one type of node. docs/machine_format.md has the format.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "models/hardware/topology_spec.hpp"
#include "moesim/error.hpp"
#include "moesim/machine.hpp"

namespace moesim::hardware {

// One type of node as its file describes it. How many of them a cluster has, and on what network, is for the scenario.
struct MachineSpec {
  std::string id;       // the file's name without .toml: "h100_sxm"
  std::string name;     // "DGX H100"
  std::string summary;  // one line
  int gpus_per_node = 1;
  Gpu gpu;
  NodeFabric node;
  NetworkFabric network;  // NICs and switch latency; the kind of fabric is `single` until a scenario says otherwise
  CollectiveCosts collectives;
  BytesPerSecond host_link;
  std::map<std::string, std::string> sources;  // of every number: "gpu.memory_bandwidth" -> where it is from
};

// A machine that ships, by name, or a file by a path that ends in .toml. Throws InputError: at `place` for an unknown
// name, with the nearest one; in the file for everything that is wrong there, all at once. A number without a source is
// wrong.
MachineSpec load_machine(std::string_view name_or_path, const SourcePlace& place = {});

// Replaces single numbers by those of a file with the same keys, all optional: the result of a calibration. A file that
// names another `machine` than this one is refused.
void apply_overlay(MachineSpec& machine, const std::string& path);

// The machines that ship, sorted by name; a table of them has summary_header() and a summary() each, columns aligned.
std::vector<std::string> machine_names();
std::string summary_header();
std::string summary(const MachineSpec& machine);

struct ClusterShape {
  int nodes = 1;
  int gpus_per_node = 0;  // 0 = all that a node has
  std::vector<Degradation> degraded;
};

// What make_topology is asked for. One node has no network, one GPU no fabric.
TopologySpec topology_spec(const MachineSpec& machine, const ClusterShape& shape);

// Throws InputError at `place` for a shape that the machine does not have and for what make_topology refuses.
Cluster make_cluster(const MachineSpec& machine, const ClusterShape& shape, const SourcePlace& place = {});

}  // namespace moesim::hardware
