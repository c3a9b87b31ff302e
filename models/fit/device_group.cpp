// Launches, waits, copies and streaming kernels: one group per cost, each a straight line.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "models/fit/device.hpp"
#include "models/fit/group_builder.hpp"

namespace moesim::fit {
namespace {

using cost::DeviceCost;

// The machine file's word for it: the baseline.
cost::Line machine_line(DeviceCost cost, const hardware::MachineSpec& m) {
  const double memory = 1e12 / (m.gpu.memory_bandwidth.value() * m.gpu.memory_efficiency);
  const double link = m.host_link.value() > 0 ? 1e12 / m.host_link.value() : 0;
  switch (cost) {
    case DeviceCost::issue:
      return {0, to_microseconds(m.gpu.launch)};
    case DeviceCost::kernels:
      return {0, to_microseconds(m.gpu.kernel_floor)};
    case DeviceCost::sync:
      return {to_microseconds(m.gpu.host_sync), link};
    case DeviceCost::to_device:
    case DeviceCost::to_host:
      return {0, link};
    case DeviceCost::copy:
    case DeviceCost::stream:
      return {to_microseconds(m.gpu.kernel_floor), memory};
  }
  return {};
}

}  // namespace

std::vector<Group> device_groups(const std::vector<DeviceRow>& rows, const hardware::MachineSpec& machine) {
  std::map<std::pair<DeviceCost, std::string>, std::vector<const DeviceRow*>> by_key;
  for (const DeviceRow& r : rows) by_key[{r.cost, r.origin.library}].push_back(&r);
  std::vector<Group> out;
  for (const auto& [key, members] : by_key) {
    const DeviceCost cost = key.first;
    const cost::Line baseline = machine_line(cost, machine);
    const bool on_device = cost == DeviceCost::copy || cost == DeviceCost::stream;
    auto amounts = std::make_shared<std::vector<double>>();
    Builder b;
    b.group.entry.schema = cost::device_schema;
    b.group.entry.library = key.second;
    b.group.entry.dtype = cost::to_string(cost);
    b.group.entry.gpu = members.front()->origin.gpu;
    for (const DeviceRow* r : members) {
      const double amount = cost::counts_launches(cost) ? r->amount : r->amount * 1e-6;
      b.add({.us = r->us,
             .place = r->origin.place,
             .shape = r->shape,
             .size = r->amount,
             .regime = r->us < 20 ? "short" : "long",
             .bound_us = on_device ? r->amount * 1e6 / machine.gpu.memory_bandwidth.value() : 0,
             .roofline_us = cost::line_us(baseline, amount),
             .coordinates = {std::log2(1e-3 + amount)}});
      b.range(cost::counts_launches(cost) ? "launches" : "bytes", r->amount);
      amounts->push_back(amount);
    }
    add_fields(b.group, cost::line_fields(cost));
    b.group.variants = {""};
    b.group.log_model = [amounts](std::span<const double> theta, std::size_t, std::span<const std::size_t> which,
                                  std::span<double> result) {
      const cost::Line line{theta[0], theta[1]};
      for (std::size_t i = 0; i < which.size(); ++i) result[i] = std::log(cost::line_us(line, (*amounts)[which[i]]));
    };
    check_units(b.group, machine.id);
    out.push_back(std::move(b.group));
  }
  return out;
}

void apply_device(hardware::MachineSpec& m, const cost::FitFile& fits, const std::string& name) {
  const auto with = [&](DeviceCost cost, std::initializer_list<const char*> keys, const auto& use) {
    const cost::FitEntry* e = cost::find_device_cost(fits, cost);
    if (e == nullptr) return;
    use(cost::line_of(*e, cost));
    for (const char* key : keys) m.sources[key] = fmt::format("{}: {}", name, e->source);
  };
  with(DeviceCost::issue, {"gpu.launch"}, [&](const cost::Line& l) { m.gpu.launch = from_microseconds(l.each_us); });
  with(DeviceCost::kernels, {"gpu.kernel_floor"},
       [&](const cost::Line& l) { m.gpu.kernel_floor = from_microseconds(l.each_us); });
  with(DeviceCost::sync, {"gpu.host_sync"},
       [&](const cost::Line& l) { m.gpu.host_sync = from_microseconds(l.fixed_us); });
  with(DeviceCost::stream, {"gpu.memory_efficiency"}, [&](const cost::Line& l) {
    m.gpu.memory_efficiency = std::min(1.0, 1e12 / l.each_us / m.gpu.memory_bandwidth.value());
  });
  double slowest = 0;  // us per 10^6 bytes; the machine file has one number for both ways
  for (const DeviceCost way : {DeviceCost::to_device, DeviceCost::to_host})
    with(way, {"host.link"}, [&](const cost::Line& l) { slowest = std::max(slowest, l.each_us); });
  if (slowest > 0) m.host_link = BytesPerSecond(1e12 / slowest);
}

}  // namespace moesim::fit
