// Expert kernels: one group per library, kernel family and number format.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "models/cost/expert_model.hpp"
#include "models/cost/kernel_model.hpp"
#include "models/fit/expert_load.hpp"
#include "models/fit/formats.hpp"
#include "models/fit/group_builder.hpp"

namespace moesim::fit {
namespace {

constexpr int draws = 8;  // of a skewed load, each row of the data being one

struct Data {
  cost::Device device;
  std::vector<std::vector<cost::ExpertWork>> work;  // by row: its draws; one where the load is balanced
};

constexpr std::array policies{cost::TilePolicy::best, cost::TilePolicy::best_large};

// The mean of ln t over the draws: the median of what a benchmark would have drawn.
double log_us(const Data& data, const cost::ExpertParameters& p, cost::TilePolicy policy, std::size_t i) {
  double sum = 0;
  for (const cost::ExpertWork& w : data.work[i])
    sum += std::log(std::max(cost::expert_us(p, policy, data.device, w), cost::expert_bound_us(data.device, w)));
  return sum / static_cast<double>(data.work[i].size());
}

cost::ExpertParameters unpack(std::span<const double> theta) {
  const auto tiles = cost::expert_tile_fields();
  auto p = cost::from_vector(cost::expert_fields(), theta.subspan(tiles.size()));
  p.tiles = cost::from_vector(tiles, theta.first(tiles.size()));
  return p;
}

std::vector<cost::ExpertWork> works(const ExpertRow& r, double bytes, bool gated) {
  const ExpertLoadShape shape{r.tokens, r.top_k, r.experts, r.ep};
  const auto local_experts = r.experts / r.ep, local_columns = r.inter / r.tp;
  cost::ExpertWork w;
  w.tokens = static_cast<double>(r.tokens);
  w.top_k = static_cast<double>(r.top_k);
  w.experts = static_cast<double>(local_experts);
  w.hidden = static_cast<double>(r.hidden);
  w.inter = static_cast<double>(local_columns);
  w.gated = gated;
  w.weight_bytes = bytes;
  std::vector<cost::ExpertWork> out;
  for (int d = 0; d < (r.power_law > 0 ? draws : 1); ++d) {
    w.rows = cost::RowTiles::grouped(r.power_law > 0 ? power_law_load(shape, r.power_law, static_cast<std::uint64_t>(d))
                                                     : balanced_load(shape));
    out.push_back(w);
  }
  return out;
}

// "moe_torch_flow_nongated" times the same code as "moe_torch_flow_cutlass", with two matrices.
std::string family(std::string library) {
  for (const std::string_view end : {"_nongated", "_cutlass", "_min_latency"})
    if (library.ends_with(end)) library.resize(library.size() - end.size());
  return library;
}

std::string shape_name(const ExpertRow& r) {
  return fmt::format("{}x{} top-{} of {}", r.hidden, r.inter, r.top_k, r.experts);
}

// The files do not say whether an expert has two matrices or three. Where one model's rows stream their weights, they
// show it: a shape whose balanced, memory-bound rows run faster than three matrices can be read at the rate of the
// other shapes has two.
std::map<std::string, bool> find_gated(const std::vector<const ExpertRow*>& rows, const cost::Device& device,
                                       double bytes) {
  std::map<std::string, std::vector<double>> slowness;  // measured / bound of three matrices
  std::map<std::string, bool> out;
  for (const ExpertRow* r : rows) {
    const std::string name = shape_name(*r);
    out.emplace(name, r->gated);
    if (!r->gated || r->power_law > 0 || (r->inter / r->tp) % 16 != 0) continue;
    const double bound = cost::expert_bound_us(device, works(*r, bytes, true).front());
    if (bound > 200 && r->tokens <= 256) slowness[name].push_back(r->us / bound);
  }
  std::vector<double> typical;
  for (auto& [name, values] : slowness) {
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
    typical.push_back(values[values.size() / 2]);
  }
  if (typical.size() < 3) return out;
  std::vector<double> sorted = typical;
  std::sort(sorted.begin(), sorted.end());
  const double middle = sorted[sorted.size() / 2];
  for (const auto& [name, values] : slowness)
    if (values.size() >= 5 && values[values.size() / 2] < 0.8 * middle) out[name] = false;
  return out;
}

// A rank with half of another's experts, or half of their width, has less to do for the same tokens. Rows that take
// longer by more than half were measured on something else: an autotuner that missed, most likely.
std::vector<bool> in_order(const std::vector<const ExpertRow*>& rows) {
  const auto key = [](const ExpertRow& r, int tp, int ep) {
    return fmt::format("{} {} {} {} {} {}", r.origin.library, shape_name(r), r.power_law, tp, ep, r.tokens);
  };
  std::map<std::string, double> times;
  for (const ExpertRow* r : rows) times[key(*r, r->tp, r->ep)] = r->us;
  std::vector<bool> out;
  for (const ExpertRow* r : rows) {
    bool good = true;
    for (const auto& [tp, ep] : {std::pair{r->tp / 2, r->ep}, std::pair{r->tp, r->ep / 2}})
      if (const auto it = times.find(key(*r, tp, ep)); it != times.end()) good = good && r->us <= 1.5 * it->second;
    out.push_back(good);
  }
  return out;
}

std::string row_key(const ExpertRow& r) {
  return fmt::format("{} {} {} {} {}", r.origin.library, shape_name(r), r.tp, r.ep, r.tokens);
}

}  // namespace

std::vector<Group> expert_groups(const std::vector<ExpertRow>& rows, const hardware::MachineSpec& machine) {
  std::map<std::pair<std::string, std::string>, std::vector<const ExpertRow*>> by_key;
  for (const ExpertRow& r : rows) by_key[{family(r.origin.library), r.origin.dtype}].push_back(&r);
  std::vector<Group> out;
  for (const auto& [key, members] : by_key) {
    const Format format = format_of(key.second, members.front()->origin.place);
    auto data = std::make_shared<Data>();
    data->device = cost::device_of(machine.gpu, format.math);
    Builder b;
    cost::FitEntry& entry = b.group.entry;
    entry.schema = "moe_kernel";
    entry.library = key.first;
    entry.dtype = key.second;
    entry.gpu = members.front()->origin.gpu;
    const std::map<std::string, bool> gated = find_gated(members, data->device, format.bytes);
    for (const auto& [name, is_gated] : gated)
      if (!is_gated) entry.notes.push_back(name + ": two matrices (no gate)");
    const bool balanced =
        std::any_of(members.begin(), members.end(), [](const ExpertRow* r) { return r->power_law == 0; });
    std::map<std::string, std::size_t> balanced_row;
    for (const ExpertRow* r : members) {
      const bool has_gate = gated.at(shape_name(*r));
      std::vector<cost::ExpertWork> work = works(*r, format.bytes, has_gate);
      const cost::ExpertWork& w = work.front();
      const double bound = cost::expert_bound_us(data->device, w);
      const double weights = w.weight_bytes * w.rows.groups * (has_gate ? 3 : 2) * w.inter * w.hidden;
      const bool memory = weights / data->device.bytes_per_us >= bound;
      const double compute =
          2 * w.rows.rows * (has_gate ? 3 : 2) * w.inter * w.hidden / (data->device.flops_per_us * data->device.sms);
      const double roofline =
          std::max({weights / data->device.bytes_per_us / machine.gpu.memory_efficiency,
                    compute / machine.gpu.matrix_efficiency, to_microseconds(machine.gpu.kernel_floor)});
      const std::size_t i = b.group.rows();
      if (r->power_law == 0)
        balanced_row[row_key(*r)] = i;
      else if (const auto it = balanced_row.find(row_key(*r)); it != balanced_row.end())
        b.group.skewed.emplace_back(it->second, i);
      b.add({.us = r->us,
             .place = r->origin.place,
             .shape = shape_name(*r),
             .size = w.tokens * w.top_k * w.hidden * w.inter,
             .count = r->ep,
             .regime = r->power_law > 0 ? "skewed"
                       : memory         ? "balanced, memory"
                                        : "balanced, compute",
             .bound_us = bound,
             .roofline_us = roofline,
             .coordinates = {std::log2(w.tokens), std::log2(w.hidden), std::log2(w.inter), std::log2(w.top_k),
                             std::log2(w.experts), std::log2(static_cast<double>(r->ep)), 10 * r->power_law},
             .train = !balanced || r->power_law == 0});
      b.range("tokens", w.tokens);
      b.range("hidden", w.hidden);
      b.range("inter", w.inter);
      b.range("experts", w.experts);
      b.range("top_k", w.top_k);
      data->work.push_back(std::move(work));
    }
    add_fields(b.group, cost::expert_tile_fields());
    add_fields(b.group, cost::expert_fields());
    for (const cost::TilePolicy policy : policies) b.group.variants.emplace_back(to_string(policy));
    b.group.log_model = [data](std::span<const double> theta, std::size_t variant, std::span<const std::size_t> which,
                               std::span<double> result) {
      const cost::ExpertParameters p = unpack(theta);
      for (std::size_t i = 0; i < which.size(); ++i) result[i] = log_us(*data, p, policies[variant], which[i]);
    };
    b.group.in_order = in_order(members);
    check_units(b.group, machine.id);
    out.push_back(std::move(b.group));
  }
  return out;
}

}  // namespace moesim::fit
