// Dense GEMMs: one group per library and number format.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "models/cost/kernel_model.hpp"
#include "models/cost/tile_model.hpp"
#include "models/fit/formats.hpp"
#include "models/fit/group_builder.hpp"

namespace moesim::fit {
namespace {

struct Data {
  cost::Device device;
  bool quantized = false;
  std::vector<cost::TileWork> work;
};

double model_us(const Data& data, std::span<const double> theta, cost::TilePolicy policy, std::size_t i) {
  const auto tile = cost::tile_fields();
  const auto p = cost::from_vector(tile, theta.first(tile.size()));
  const cost::TileWork& w = data.work[i];
  double us = p.launch_us + cost::tile_us(p, policy, data.device, w);
  if (data.quantized)
    us += cost::quant_us(cost::from_vector(cost::quant_fields(), theta.subspan(tile.size())), data.device, w.rows.rows,
                         w.k);
  return std::max(us, cost::bound_us(data.device, w));
}

}  // namespace

std::vector<Group> gemm_groups(const std::vector<GemmRow>& rows, const hardware::MachineSpec& machine) {
  std::map<std::pair<std::string, std::string>, std::vector<const GemmRow*>> by_key;
  for (const GemmRow& r : rows) by_key[{r.origin.library, r.origin.dtype}].push_back(&r);
  const auto roofline = cost::make_roofline(machine.gpu);
  std::vector<Group> out;
  for (const auto& [key, members] : by_key) {
    const Format format = format_of(key.second, members.front()->origin.place);
    auto data = std::make_shared<Data>();
    data->device = cost::device_of(machine.gpu, format.math);
    // DeepGEMM is timed alone, with inputs that were quantized before.
    data->quantized = format.quantized && !key.first.starts_with("deepgemm");
    Builder b;
    b.group.entry.schema = "gemm";
    b.group.entry.library = key.first;
    b.group.entry.dtype = key.second;
    b.group.entry.gpu = members.front()->origin.gpu;
    for (const GemmRow* r : members) {
      cost::TileWork work;
      work.rows = cost::RowTiles::dense(r->m);
      work.n = static_cast<double>(r->n);
      work.k = static_cast<double>(r->k);
      work.in_bytes = work.weight_bytes = format.bytes;
      work.ragged = r->m % 16 != 0;
      const cost::GemmShape shape{.m = r->m,
                                  .n = r->n,
                                  .k = r->k,
                                  .in = format.dtype,
                                  .weight = format.dtype,
                                  .out = DType::bf16,
                                  .math = format.math};
      const double flops = 2.0 * static_cast<double>(r->m) * work.n * work.k;
      const double bound = cost::bound_us(data->device, work);
      const double compute = flops / (data->device.flops_per_us * data->device.sms);
      b.add({.us = r->us,
             .place = r->origin.place,
             .shape = fmt::format("{}x{}", r->n, r->k),
             .size = flops,
             .regime = bound < 2          ? "short"
                       : compute >= bound ? "compute"
                                          : "memory",
             .bound_us = bound,
             .roofline_us = to_microseconds(roofline->gemm(shape).duration),
             .coordinates = {std::log2(static_cast<double>(r->m)), std::log2(work.n), std::log2(work.k)}});
      b.range("m", static_cast<double>(r->m));
      b.range("n", work.n);
      b.range("k", work.k);
      data->work.push_back(work);
    }
    add_fields(b.group, cost::tile_fields());
    if (data->quantized) add_fields(b.group, cost::quant_fields());
    b.group.variants = {std::string(to_string(cost::TilePolicy::best)),
                        std::string(to_string(cost::TilePolicy::by_rows))};
    b.group.log_model = [data](std::span<const double> theta, std::size_t variant, std::span<const std::size_t> which,
                               std::span<double> result) {
      const auto policy = variant == 0 ? cost::TilePolicy::best : cost::TilePolicy::by_rows;
      for (std::size_t i = 0; i < which.size(); ++i) result[i] = std::log(model_us(*data, theta, policy, which[i]));
    };
    check_units(b.group, machine.id);
    out.push_back(std::move(b.group));
  }
  return out;
}

}  // namespace moesim::fit
