#include "models/hardware/machine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "support/files.hpp"
#include "support/quantity.hpp"
#include "support/text.hpp"

namespace moesim::hardware {

std::vector<std::string> machine_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(data_path("models/hardware/machines")))
    if (entry.path().extension() == ".toml") names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::string summary_header() {
  return fmt::format("{:<14} {:<30} {:>4} {:>10} {:>12} {:>12} {:>12} {:>12}  {}", "machine", "GPU", "GPUs", "memory",
                     "bandwidth", "bf16/f16", "GPU link", "NICs", "node");
}

namespace {

// What joins one GPU to the others, one direction.
std::string gpu_link(const NodeFabric& node) {
  if (node.kind == NodeFabric::Kind::single) return "-";
  const char* links = node.kind == NodeFabric::Kind::hybrid_cube_mesh ? "6x " : "";
  return fmt::format("{}{}", links, to_text(node.gpu_link.nominal));
}

}  // namespace

std::string summary(const MachineSpec& m) {
  const auto matrix = m.gpu.peak_of(Math::bf16) ? m.gpu.peak_of(Math::bf16) : m.gpu.peak_of(Math::f16);
  return fmt::format(
      "{:<14} {:<30} {:>4} {:>10} {:>12} {:>12} {:>12} {:>12}  {}", m.id, m.gpu.name, m.gpus_per_node,
      human_binary(m.gpu.memory), human(m.gpu.memory_bandwidth), matrix ? to_text(*matrix) : "-", gpu_link(m.node),
      fmt::format("{}x {:g} Gb/s", m.network.nics_per_node, m.network.nic.nominal.value() * 8e-9), m.summary);
}

TopologySpec topology_spec(const MachineSpec& machine, const ClusterShape& shape) {
  TopologySpec spec;
  spec.nodes = shape.nodes;
  spec.gpus_per_node = shape.gpus_per_node > 0 ? shape.gpus_per_node : machine.gpus_per_node;
  spec.node = machine.node;
  spec.network = machine.network;
  spec.degraded = shape.degraded;
  // The NICs beside the GPUs that are used, at least one.
  const int nics = machine.network.nics_per_node * spec.gpus_per_node + machine.gpus_per_node - 1;
  spec.network.nics_per_node = std::max(1, nics / machine.gpus_per_node);
  if (spec.gpus_per_node == 1) spec.node.kind = NodeFabric::Kind::single;
  if (spec.nodes == 1) spec.network.kind = NetworkFabric::Kind::none;
  return spec;
}

Cluster make_cluster(const MachineSpec& machine, const ClusterShape& shape, const SourcePlace& place) {
  const TopologySpec spec = topology_spec(machine, shape);
  if (spec.nodes < 1) throw InputError(place, fmt::format("a cluster of {} nodes", spec.nodes));
  if (spec.gpus_per_node > machine.gpus_per_node)
    throw InputError(place, fmt::format("{} GPUs of each node are asked for; {} has {}", spec.gpus_per_node, machine.id,
                                        machine.gpus_per_node));
  Cluster c;
  c.name = fmt::format("{} x {}", spec.nodes, machine.id);
  c.nodes = spec.nodes;
  c.gpus_per_node = spec.gpus_per_node;
  c.gpu = machine.gpu;
  c.collectives = machine.collectives;
  c.host_link = machine.host_link;
  c.sources = machine.sources;
  try {
    c.topology = make_topology(spec);
  } catch (const InputError& e) {
    std::vector<Diagnostic> placed = e.diagnostics();
    for (Diagnostic& d : placed) d.place = place;
    throw InputError(std::move(placed));
  }
  return c;
}

}  // namespace moesim::hardware
