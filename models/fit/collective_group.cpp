// Collectives: one group per library version.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "models/fit/group_builder.hpp"

namespace moesim::fit {
namespace {

// The machine file's latency and link rate: t = launch + steps * message + bytes / (rate * efficiency).
double alpha_beta_us(const hardware::MachineSpec& m, const cost::CollectiveShape& s) {
  const double per_node = static_cast<double>(s.gpus) / s.nodes;
  const double twice = s.kind == cost::CollectiveKind::all_reduce ? 2 : 1;
  const double steps = s.kind == cost::CollectiveKind::all_to_all ? 1 : twice * (per_node - 1);
  const double hops = s.kind == cost::CollectiveKind::all_to_all ? (s.nodes > 1 ? 1 : 0) : twice * (s.nodes - 1);
  const double alpha = to_microseconds(m.collectives.launch) + steps * to_microseconds(m.collectives.intra_message) +
                       hops * to_microseconds(m.collectives.inter_message);
  const cost::Fabric fabric = fabric_of(m);
  const double wire = twice * s.bytes * (s.gpus - 1) / s.gpus / (fabric.link * m.node.gpu_link.efficiency);
  const double nic = s.nodes > 1 && fabric.nic > 0 ? twice * s.bytes * (s.nodes - 1) / s.nodes / per_node /
                                                         (fabric.nic * m.network.nic.efficiency)
                                                   : 0;
  return alpha + std::max(wire, nic);
}

}  // namespace

std::vector<Group> collective_groups(const std::vector<CollectiveRow>& rows, const hardware::MachineSpec& machine) {
  std::map<std::string, std::vector<const CollectiveRow*>> by_key;
  for (const CollectiveRow& r : rows) by_key[r.origin.library].push_back(&r);
  const cost::Fabric fabric = fabric_of(machine);
  std::vector<Group> out;
  for (const auto& [key, members] : by_key) {
    auto shapes = std::make_shared<std::vector<cost::CollectiveShape>>();
    Builder b;
    b.group.entry.schema = "nccl";
    b.group.entry.library = key;
    b.group.entry.gpu = members.front()->origin.gpu;
    for (const CollectiveRow* r : members) {
      const cost::CollectiveShape& s = r->shape;
      const double kind = static_cast<double>(s.kind);
      b.add({.us = r->us,
             .place = r->origin.place,
             .shape = std::string(to_string(s.kind)),
             .size = s.bytes,
             .count = s.gpus,
             .regime = std::string(collective_regime(s)),
             .bound_us = collective_bound_us(fabric, s),
             .roofline_us = alpha_beta_us(machine, s),
             .coordinates = {std::log2(s.bytes), 10 * kind, std::log2(s.gpus), std::log2(s.nodes)}});
      b.range("bytes", s.bytes);
      b.range("gpus", s.gpus);
      b.range("nodes", s.nodes);
      shapes->push_back(s);
    }
    add_fields(b.group, cost::collective_fields());
    b.group.variants = {""};
    b.group.log_model = [shapes, fabric](std::span<const double> theta, std::size_t, std::span<const std::size_t> which,
                                         std::span<double> result) {
      const auto p = cost::from_vector(cost::collective_fields(), theta);
      for (std::size_t i = 0; i < which.size(); ++i)
        result[i] = std::log(collective_us(p, fabric, (*shapes)[which[i]]));
    };
    check_units(b.group, machine.id);
    out.push_back(std::move(b.group));
  }
  return out;
}

}  // namespace moesim::fit
