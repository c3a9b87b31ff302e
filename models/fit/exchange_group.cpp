// DeepEP's dispatch and combine: one group per kernel.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "models/cost/fitted.hpp"
#include "models/fit/group_builder.hpp"

namespace moesim::fit {
namespace {

double alpha_beta_us(const hardware::MachineSpec& m, const cost::Fabric& fabric, const cost::ExchangeShape& s) {
  const double alpha = to_microseconds(m.collectives.launch) + to_microseconds(m.collectives.intra_message) +
                       (s.nodes > 1 ? to_microseconds(m.collectives.inter_message) : 0);
  cost::Fabric reached = fabric;
  reached.link *= m.node.gpu_link.efficiency;
  reached.nic *= m.network.nic.efficiency;
  return alpha + exchange_bound_us(reached, s);
}

}  // namespace

std::vector<Group> exchange_groups(const std::vector<ExchangeRow>& rows, const hardware::MachineSpec& machine) {
  std::map<std::string, std::vector<const ExchangeRow*>> by_key;
  for (const ExchangeRow& r : rows) by_key[r.origin.dtype].push_back(&r);
  const cost::Fabric fabric = fabric_of(machine);
  std::vector<Group> out;
  for (const auto& [key, members] : by_key) {
    auto shapes = std::make_shared<std::vector<cost::ExchangeShape>>();
    Builder b;
    b.group.entry.schema = "deepep";
    b.group.entry.library = members.front()->origin.library;
    b.group.entry.dtype = key;
    b.group.entry.gpu = members.front()->origin.gpu;
    const bool low_latency = members.front()->shape.low_latency;
    for (const ExchangeRow* r : members) {
      cost::ExchangeShape s = r->shape;
      s.gpus_per_node = machine.gpus_per_node;
      b.add({.us = r->us,
             .place = r->origin.place,
             .shape = fmt::format("{} top-{} of {}", s.hidden, s.top_k, s.experts),
             .size = s.tokens * s.hidden * s.top_k,
             .count = s.nodes,
             .regime = cost::exchange_regime(s.nodes),
             .bound_us = exchange_bound_us(fabric, s),
             .roofline_us = alpha_beta_us(machine, fabric, s),
             .coordinates = {std::log2(s.tokens), std::log2(s.hidden), std::log2(s.top_k), std::log2(s.experts),
                             std::log2(s.sms), std::log2(s.nodes)}});
      b.range("tokens", s.tokens);
      b.range("hidden", s.hidden);
      b.range("top_k", s.top_k);
      b.range("experts", s.experts);
      b.range("nodes", s.nodes);
      if (!low_latency) b.range("sms", s.sms);
      shapes->push_back(s);
    }
    if (low_latency)
      add_fields(b.group, cost::low_latency_fields());
    else
      add_fields(b.group, cost::exchange_fields());
    b.group.variants = {""};
    b.group.log_model = [shapes, fabric, low_latency](std::span<const double> theta, std::size_t,
                                                      std::span<const std::size_t> which, std::span<double> result) {
      for (std::size_t i = 0; i < which.size(); ++i) {
        const cost::ExchangeShape& s = (*shapes)[which[i]];
        result[i] = std::log(low_latency ? exchange_us(cost::from_vector(cost::low_latency_fields(), theta), fabric, s)
                                         : exchange_us(cost::from_vector(cost::exchange_fields(), theta), fabric, s));
      }
    };
    check_units(b.group, machine.id);
    out.push_back(std::move(b.group));
  }
  return out;
}

}  // namespace moesim::fit
