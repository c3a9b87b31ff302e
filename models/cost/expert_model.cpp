// t = launch + mis (t_up + t_down) + elementwise * bytes / B + routing_us T k / 10^4 + expert_us E / 100
//   t_up:   n = 2 I (gated) or I, k = h       t_down: n = h, k = I       (tile_model.cpp, grouped, k never split)
//   bytes:  gather M h, activation M (2 I + I), weighted sum M h + 2 T h, in bf16 whatever the weights' format
// M: token copies on the rank, T: tokens of the expert-parallel group (engines permute over all of them), E: experts of
// the rank. mis = 1 where I is a multiple of 16, else `misaligned`: such rows cannot be loaded in full vectors.

#include "models/cost/expert_model.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace moesim::cost {
namespace {

TileWork up(const ExpertWork& w) {
  return {w.rows, (w.gated ? 2 : 1) * w.inter, w.hidden, w.weight_bytes, w.weight_bytes, 2, false};
}
TileWork down(const ExpertWork& w) { return {w.rows, w.hidden, w.inter, w.weight_bytes, w.weight_bytes, 2, false}; }

}  // namespace

std::span<const Field<ExpertParameters>> expert_fields() {
  using P = ExpertParameters;
  static constexpr std::array fields{
      Field<P>{&P::elementwise, "elementwise", "bytes of the kernels around the GEMMs, in compulsory bytes", 1.3, 0.7,
               0.05, 10},
      Field<P>{&P::routing_us, "routing_us", "us: per 10,000 token copies of the whole expert-parallel group", 0.5, 1.0,
               1e-3, 20},
      Field<P>{&P::expert_us, "expert_us", "us: per 100 experts of the rank", 0.5, 1.5, 1e-3, 50},
      Field<P>{&P::misaligned, "misaligned", "factor on GEMMs whose intermediate width is no multiple of 16", 1.5, 0.5,
               1, 6}};
  return fields;
}

std::span<const Field<TileParameters>> expert_tile_fields() {
  static const std::vector<Field<TileParameters>> fields = [] {
    std::vector<Field<TileParameters>> out;
    for (Field<TileParameters> f : tile_fields()) {
      if (f.name == "split_us" || f.name == "split_rate") continue;  // grouped GEMMs do not split k
      if (f.name == "ragged") continue;                              // their rows are ragged anyway
      if (f.name == "launch_us") f.prior = 25;                       // about ten kernels
      if (f.name == "sharpness") f.prior = 2;  // experts in memory-bound and compute-bound states overlap less
      out.push_back(f);
    }
    return out;
  }();
  return fields;
}

double expert_us(const ExpertParameters& p, TilePolicy policy, const Device& device, const ExpertWork& w) {
  const double m = w.rows.rows;
  const bool aligned = std::fmod(w.inter, 16) == 0;
  const double gemms = tile_us(p.tiles, policy, device, up(w)) + tile_us(p.tiles, policy, device, down(w));
  const double bytes = 2 * (2 * m * w.hidden + m * ((w.gated ? 2 : 1) + 1) * w.inter + 2 * w.tokens * w.hidden);
  return p.tiles.launch_us + (aligned ? 1 : p.misaligned) * gemms + p.elementwise * bytes / device.bytes_per_us +
         p.routing_us * w.tokens * w.top_k / 1e4 + p.expert_us * w.experts / 100;
}

double expert_bound_us(const Device& device, const ExpertWork& w) {
  // Activations between the GEMMs may stay in the cache; weights, tokens in and tokens out may not.
  const double weights = w.weight_bytes * w.rows.groups * ((w.gated ? 3 : 2) * w.inter * w.hidden);
  const double flops = 2 * w.rows.rows * (w.gated ? 3 : 2) * w.inter * w.hidden;
  return std::max(flops / (device.flops_per_us * device.sms), weights / device.bytes_per_us);
}

}  // namespace moesim::cost
