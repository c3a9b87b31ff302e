#include "models/cost/fitted.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "models/cost/device_costs.hpp"

namespace moesim::cost {
namespace {

constexpr double z90 = 1.6449;  // half-width of a 90 % interval in standard deviations

// The formats a fit may have been made for, by the pipeline that multiplies: scales per tensor or per block.
std::vector<std::string_view> format_names(Math math) {
  switch (math) {
    case Math::fp8:
    case Math::int8:
    case Math::fp4:
      return {"fp8", "fp8_block"};
    case Math::f32:
    case Math::tf32:
    case Math::bf16:
    case Math::f16:
      return {"bfloat16"};
  }
  return {"bfloat16"};
}
bool is_own_format(Math math) { return math == Math::bf16 || math == Math::f16 || math == Math::fp8; }

TilePolicy parse_policy(std::string_view name) {
  for (const TilePolicy p : all_tile_policies)
    if (to_string(p) == name) return p;
  return TilePolicy::best;
}

double element_bytes(DType t) { return bits(t) / 8.0; }

struct Fit {
  const FitEntry* entry = nullptr;
  TileParameters tiles{};
  TilePolicy policy = TilePolicy::best;
  std::optional<QuantParameters> quant;  // of the inputs
  bool own_format = true;
};

class Fitted final : public KernelModel {
 public:
  Fitted(const Gpu& gpu, const FitFile& fits, const std::string& library, double other_pipeline_sigma)
      : gpu_(gpu), fits_(fits), other_pipeline_sigma_(other_pipeline_sigma), roofline_(make_roofline(gpu)) {
    for (const Math math : all_maths) {
      dense_[index(math)] = choose("gemm", math, library);
      grouped_[index(math)] = choose("moe_kernel", math, library);
    }
  }

  [[nodiscard]] KernelCost gemm(const GemmShape& s) const override {
    const std::vector<Fit>& fits = dense_[index(s.math)];
    const Flops work = flops(s);
    if (fits.empty() || work.value() == 0) return roofline_->gemm(s);
    TileWork tile = work_of(s.n, s.k, s.in, s.weight, s.out);
    tile.rows = RowTiles::dense(s.m, s.batch);
    tile.splits = s.batch == 1;
    tile.ragged = s.m % 16 != 0;
    const Device device = device_of(gpu_, s.math);
    const auto [fit, us] = fastest(fits, [&](const Fit& f) {
      TileWork w = tile;
      const double quant = quantize(w, f, s.math, device);
      return f.tiles.launch_us + tile_us(f.tiles, f.policy, device, w) + quant;
    });
    const FitEntry& e = *fit->entry;
    const bool in_range = fit->own_format && e.transferred_from.empty() && s.batch == 1 &&
                          inside(e, "m", static_cast<double>(s.m)) && inside(e, "n", tile.n) && inside(e, "k", tile.k);
    const double bound = bound_us(device, tile);
    const bool compute = 2 * tile.rows.rows * tile.n * tile.k >= bound * device.flops_per_us * device.sms;
    return cost(us, s.math, work, bytes(s), *fit, bound < 2 ? "short" : compute ? "compute" : "memory", in_range);
  }

  [[nodiscard]] KernelCost grouped_gemm(const GroupedShape& s) const override {
    const std::vector<Fit>& dense = dense_[index(s.math)];
    const std::vector<Fit>& fits = grouped_[index(s.math)].empty() ? dense : grouped_[index(s.math)];
    const Flops work = flops(s);
    const Bytes traffic = bytes(s);
    if (fits.empty() || work.value() == 0) return roofline_->grouped_gemm(s);
    TileWork tile = work_of(s.n, s.k, s.in, s.weight, s.out);
    std::vector<std::int32_t> padded;
    if (s.block > 0)
      for (const std::int32_t m : s.m)
        padded.push_back(static_cast<std::int32_t>((m + s.block - 1) / s.block * s.block));
    tile.rows = RowTiles::grouped(s.block > 0 ? std::span<const std::int32_t>(padded) : s.m);
    // Groups that share a matrix read it once.
    tile.rows.groups = std::min(tile.rows.groups, static_cast<double>(s.matrices));
    tile.splits = false;
    const Device device = device_of(gpu_, s.math);
    const auto [fit, tiles_us] = fastest(fits, [&](const Fit& f) { return tile_us(f.tiles, f.policy, device, tile); });
    // The fit's own launch is that of a whole sequence of kernels; this is one of them.
    const double launch_us = dense.empty() ? to_microseconds(gpu_.kernel_floor) : dense.front().tiles.launch_us;
    const FitEntry& e = *fit->entry;
    const bool in_range = e.schema == "moe_kernel" && fit->own_format && e.transferred_from.empty();
    const bool memory = traffic / gpu_.memory_bandwidth >= work / *gpu_.peak_of(s.math);
    return cost(launch_us + tiles_us, s.math, work, traffic, *fit, memory ? "balanced, memory" : "balanced, compute",
                in_range);
  }

  [[nodiscard]] KernelCost attention(const AttentionShape& s) const override {
    KernelCost out = roofline_->attention(s);
    out.in_range = false;  // no row of attention was fitted
    const std::vector<Fit>& fits = dense_[index(s.math)];
    if (!fits.empty() && out.duration.value() > 0)
      out.duration = std::max(out.duration, from_microseconds(fits.front().tiles.launch_us));
    return out;
  }

  [[nodiscard]] KernelCost streaming(Bytes bytes, Flops flops) const override {
    KernelCost out = roofline_->streaming(bytes, flops);
    if (out.duration.value() == 0) return out;
    const Picoseconds vector = gpu_.peak_of(Math::f32) ? flops / *gpu_.peak_of(Math::f32) : Picoseconds(0);
    if (const FitEntry* measured = find_device_cost(fits_, DeviceCost::stream)) {
      const double us = line_us(line_of(*measured, DeviceCost::stream), static_cast<double>(bytes.value()) * 1e-6);
      out.duration = std::max({from_microseconds(us), bytes / gpu_.memory_bandwidth, vector});
      out.log_sigma = log_sigma(*measured, "all");
      out.in_range = inside(*measured, "bytes", static_cast<double>(bytes.value()));
      return out;
    }
    const std::vector<Fit>& fits = dense_[index(Math::bf16)];
    if (fits.empty()) return out;
    const Fit& fit = fits.front();
    const Picoseconds memory = bytes / (gpu_.memory_bandwidth * fit.tiles.memory_efficiency);
    out.duration = std::max(from_microseconds(fit.tiles.launch_us) + memory, vector);
    out.log_sigma = log_sigma(*fit.entry, "memory");
    out.in_range = fit.entry->transferred_from.empty();
    return out;
  }

 private:
  static std::size_t index(Math math) { return static_cast<std::size_t>(math); }

  struct Fastest {
    const Fit* fit;
    double us;
  };
  template <class Time>
  static Fastest fastest(const std::vector<Fit>& fits, Time time) {
    Fastest best{&fits.front(), time(fits.front())};
    for (std::size_t i = 1; i < fits.size(); ++i)
      if (const double us = time(fits[i]); us < best.us) best = {&fits[i], us};
    return best;
  }

  // The library that is asked for, or all of them.
  [[nodiscard]] std::vector<Fit> choose(std::string_view schema, Math math, const std::string& library) const {
    std::vector<Fit> out;
    if (!gpu_.peak_of(math)) return out;
    const auto add = [&](std::string_view dtype, bool own_format) {
      for (const FitEntry& e : fits_.entries) {
        if (e.schema != schema || e.dtype != dtype || !e.library.starts_with(library)) continue;
        Fit& fit = out.emplace_back();
        fit.entry = &e;
        fit.own_format = own_format;
        fit.tiles = from_map(schema == "gemm" ? tile_fields() : expert_tile_fields(), e.parameters);
        // Loads run at bytes per second, whatever the pipeline: flop per byte in proportion to its peak.
        const Math fitted_in = dtype == "bfloat16" ? Math::bf16 : Math::fp8;
        if (const auto peak = gpu_.peak_of(fitted_in); peak && math != fitted_in)
          fit.tiles.balance *= *gpu_.peak_of(math) / *peak;
        fit.policy = parse_policy(e.variant);
        if (e.parameters.contains("quant_bytes")) fit.quant = from_map(quant_fields(), e.parameters);
      }
    };
    for (const std::string_view dtype : format_names(math)) add(dtype, is_own_format(math));
    if (out.empty()) add("bfloat16", false);
    return out;
  }

  // Before an 8-bit multiplication a kernel of its own quantizes the activations, which the layers around it keep in 16
  // bits: so the timed code, and plans have no op for it. The tiles then read 8 bits.
  static double quantize(TileWork& work, const Fit& fit, Math math, const Device& device) {
    if (!fit.quant || math != Math::fp8) return 0;
    work.in_bytes = 1;
    return quant_us(*fit.quant, device, work.rows.rows, work.k);
  }

  static TileWork work_of(std::int64_t n, std::int64_t k, DType in, DType weight, DType out) {
    TileWork w;
    w.n = static_cast<double>(n);
    w.k = static_cast<double>(k);
    w.in_bytes = element_bytes(in);
    w.weight_bytes = element_bytes(weight);
    w.out_bytes = element_bytes(out);
    return w;
  }

  [[nodiscard]] KernelCost cost(double us, Math math, Flops work, Bytes traffic, const Fit& fit,
                                std::string_view regime, bool in_range) const {
    KernelCost out;
    out.duration = std::max(from_microseconds(us), speed_of_light(gpu_, math, work, traffic));
    out.flops = work;
    out.bytes = traffic;
    out.log_sigma = std::hypot(log_sigma(*fit.entry, regime), fit.own_format ? 0 : other_pipeline_sigma_);
    out.in_range = in_range;
    return out;
  }

  Gpu gpu_;
  FitFile fits_;
  double other_pipeline_sigma_;
  std::unique_ptr<KernelModel> roofline_;
  std::array<std::vector<Fit>, all_maths.size()> dense_;
  std::array<std::vector<Fit>, all_maths.size()> grouped_;
};

Prediction prediction(const FitEntry& entry, double us, double bound, std::string_view regime, bool in_range,
                      int nodes = 1) {
  const double reach = std::exp(z90 * log_sigma(entry, regime, nodes));
  us = std::max(us, bound);
  return {us, std::max(us / reach, bound), us * reach, in_range && entry.transferred_from.empty()};
}

std::size_t common_prefix(std::string_view a, std::string_view b) {
  const auto [end, other] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return static_cast<std::size_t>(end - a.begin());
}

}  // namespace

bool inside(const FitEntry& entry, std::string_view quantity, double value) {
  for (const CalibratedRange& r : entry.ranges)
    if (r.quantity == quantity) return value >= r.low && value <= r.high;
  return true;
}

const FitEntry* find_entry(const FitFile& fits, std::string_view schema, std::string_view dtype,
                           std::string_view library) {
  const FitEntry* best = nullptr;
  for (const FitEntry& e : fits.entries) {
    if (e.schema != schema || e.dtype != dtype) continue;
    const auto fitness = [&](const FitEntry& x) { return std::pair(common_prefix(x.library, library), x.rows); };
    if (!best || fitness(e) > fitness(*best)) best = &e;
  }
  return best;
}

double log_sigma(const FitEntry& entry, std::string_view regime) {
  const Accuracy* a = entry.find(regime);
  if (!a || a->rows < 30) a = entry.find("all");
  const double own = a ? (a->high - a->low) / 2 / z90 : 0;
  return std::hypot(own, entry.transfer_sigma);
}

double log_sigma(const FitEntry& entry, std::string_view regime, int nodes) {
  const auto measured = std::ranges::find(entry.ranges, "nodes", &CalibratedRange::quantity);
  const bool beyond = measured != entry.ranges.end() && nodes > measured->high;
  return log_sigma(entry, regime) * (beyond ? beyond_nodes : 1);
}

bool in_range(const FitEntry& entry, const CollectiveShape& shape) {
  return entry.transferred_from.empty() && inside(entry, "bytes", shape.bytes) && inside(entry, "gpus", shape.gpus) &&
         inside(entry, "nodes", shape.nodes);
}

std::unique_ptr<KernelModel> make_fitted(const Gpu& gpu, const FitFile& fits, const std::string& library,
                                         double other_pipeline_sigma) {
  return std::make_unique<Fitted>(gpu, fits, library, other_pipeline_sigma);
}

std::optional<Prediction> predict_experts(const Gpu& gpu, const FitFile& fits, const ExpertWork& work, DType weights,
                                          const std::string& library) {
  const Math math = natural_math(weights);
  const FitEntry* entry = find_entry(fits, "moe_kernel", format_names(math).front(), library);
  if (!entry) return std::nullopt;
  const Device device = device_of(gpu, math);
  ExpertParameters p = from_map(expert_fields(), entry->parameters);
  p.tiles = from_map(expert_tile_fields(), entry->parameters);
  const double bound = expert_bound_us(device, work);
  const double flops = 2 * work.rows.rows * (work.gated ? 3 : 2) * work.inter * work.hidden;
  const bool compute = flops >= bound * device.flops_per_us * device.sms;
  const bool in_range = is_own_format(math) && inside(*entry, "tokens", work.tokens) &&
                        inside(*entry, "hidden", work.hidden) && inside(*entry, "inter", work.inter);
  return prediction(*entry, expert_us(p, parse_policy(entry->variant), device, work), bound,
                    compute ? "balanced, compute" : "balanced, memory", in_range);
}

std::optional<Prediction> predict_collective(const Fabric& fabric, const FitFile& fits, const CollectiveShape& shape,
                                             const std::string& library) {
  const FitEntry* entry = find_entry(fits, "nccl", "", library);
  if (!entry) return std::nullopt;
  const auto p = from_map(collective_fields(), entry->parameters);
  return prediction(*entry, collective_us(p, fabric, shape), collective_bound_us(fabric, shape),
                    collective_regime(shape), in_range(*entry, shape), shape.nodes);
}

std::string exchange_regime(int nodes) { return nodes == 1 ? "one node" : fmt::format("{} nodes", nodes); }

std::string exchange_name(ExchangeKind kind, bool low_latency) {
  return std::string(low_latency ? "low-latency " : "") + (kind == ExchangeKind::dispatch ? "dispatch" : "combine");
}

std::optional<Prediction> predict_exchange(const Fabric& fabric, const FitFile& fits, const ExchangeShape& shape) {
  const FitEntry* entry = find_entry(fits, "deepep", exchange_name(shape.kind, shape.low_latency));
  if (!entry) return std::nullopt;
  const double us = shape.low_latency ? exchange_us(from_map(low_latency_fields(), entry->parameters), fabric, shape)
                                      : exchange_us(from_map(exchange_fields(), entry->parameters), fabric, shape);
  const bool in_range = inside(*entry, "tokens", shape.tokens) && inside(*entry, "hidden", shape.hidden) &&
                        inside(*entry, "nodes", shape.nodes) && inside(*entry, "sms", shape.sms);
  return prediction(*entry, us, exchange_bound_us(fabric, shape), exchange_regime(shape.nodes), in_range, shape.nodes);
}

double distance(const Gpu& a, const Gpu& b) {
  const auto ln = [](double x, double y) { return x > 0 && y > 0 ? std::log(x / y) : 0; };
  const auto peak = [](const Gpu& g) {
    return g.peak_of(g.peak_of(Math::bf16) ? Math::bf16 : Math::f16).value_or(FlopsPerSecond(0)).value();
  };
  // A processor without a 16-bit matrix pipeline is no relative of any GPU here.
  if (peak(a) == 0 || peak(b) == 0) return std::numeric_limits<double>::infinity();
  return std::hypot(ln(peak(a), peak(b)), ln(a.memory_bandwidth.value(), b.memory_bandwidth.value()), ln(a.sms, b.sms));
}

// What one SM of `b` does in a time, of what one of `a` does, in the pipeline of the format; 1 where either lacks it.
static double sm_speedup(const Gpu& a, const Gpu& b, std::string_view dtype) {
  const Math math = dtype.starts_with("fp8") ? Math::fp8 : Math::bf16;
  if (!a.peak_of(math) || !b.peak_of(math) || a.sms == 0 || b.sms == 0) return 1;
  return *b.peak_of(math) / b.sms / (*a.peak_of(math) / a.sms);
}

FitFile transfer(const FitFile& from, const Gpu& from_gpu, const Gpu& to_gpu, const std::string& to_machine,
                 const std::vector<TransferError>& errors) {
  constexpr double most = 1.5;
  const double away = distance(from_gpu, to_gpu);
  FitFile out{to_machine, {}};
  for (FitEntry e : from.entries) {
    double sigma = 0;
    for (const TransferError& t : errors)
      if (t.schema == e.schema) sigma = t.sigma * std::min(most, away / t.distance);
    // A step of a tile's loop and its epilogue are instructions of one SM: fewer where each does more.
    for (const char* latency : {"step_us", "epilogue_us"})
      if (const auto it = e.parameters.find(latency); it != e.parameters.end() && e.schema != "nccl")
        it->second /= sm_speedup(from_gpu, to_gpu, e.dtype);
    e.transferred_from = from.machine;
    e.transfer_sigma = std::hypot(e.transfer_sigma, sigma);
    e.notes.push_back(fmt::format("transferred from {}: no measurement of this machine", from.machine));
    out.entries.push_back(std::move(e));
  }
  return out;
}

}  // namespace moesim::cost
