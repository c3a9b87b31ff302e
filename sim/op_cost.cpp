#include "sim/op_cost.hpp"

#include <algorithm>
#include <array>

namespace moesim::sim {
namespace {

constexpr std::int64_t megablocks_block = 128;  // arXiv 2211.15841, section 5.1

}  // namespace

Picoseconds OpCost::device() const {
  Picoseconds sum;
  for (const Picoseconds k : kernels) sum += k;
  return sum;
}

// A kernel, and the small ones that a framework issues with it.
void OpCosts::append(OpCost& out, const cost::KernelCost& kernel, Math math, int launches) const {
  cost::check_physics(cluster_.gpu, math, kernel);
  out.launches += launches;
  out.set = launches;
  out.flops += kernel.flops;
  out.bytes += kernel.bytes;
  for (int i = 1; i < launches; ++i) out.kernels.push_back(cluster_.gpu.kernel_floor);
  out.kernels.push_back(kernel.duration);
  out.log_sigma += kernel.log_sigma * to_seconds(kernel.duration);  // finish() divides
  out.in_range = out.in_range && kernel.in_range;
}

// Fractions of the peaks that the kernels use while they run.
void OpCosts::finish(OpCost& out, Math math) const {
  const Picoseconds device = out.device();
  if (device.value() == 0) return;
  out.log_sigma /= to_seconds(device);
  const Gpu& gpu = cluster_.gpu;
  const auto share = [&](Picoseconds at_peak, double efficiency) {
    return std::min(1.0, at_peak / device / efficiency);
  };
  if (out.flops.value() > 0 && gpu.peak_of(math))
    out.demand.compute = share(out.flops / *gpu.peak_of(math), gpu.matrix_efficiency);
  if (out.bytes.value() > 0) out.demand.memory = share(out.bytes / gpu.memory_bandwidth, gpu.memory_efficiency);
  // A kernel that reaches neither ceiling is held by its own shape; it still occupies what it runs on.
  if (out.demand.compute < 1 && out.demand.memory < 1) {
    double& larger = out.demand.compute > out.demand.memory ? out.demand.compute : out.demand.memory;
    larger = 1.0;
  }
}

OpCost OpCosts::operator()(const Op& op, Rank rank) const {
  return std::visit([&](const auto& work) { return of(work, rank); }, op.work);
}

OpCost OpCosts::of(const Gemm& w, Rank rank) const {
  OpCost out;
  const std::int64_t m = plan_.rows(w.m, rank);
  cost::GemmShape shape{m, w.n, w.k, w.batch, w.in, w.weight, w.out, w.math};
  if (w.form == Gemm::Form::input_gradient) std::swap(shape.n, shape.k);  // dX[m, k] = dY[m, n] W^T
  if (w.form == Gemm::Form::weight_gradient) {                            // dW[k, n] = X^T dY
    shape.m = w.k;
    shape.k = m;
  }
  append(out, model_.gemm(shape), w.math, 1);
  finish(out, w.math);
  return out;
}

OpCost OpCosts::of(const GroupedGemm& w, Rank rank) const {
  OpCost out;
  const auto rows = plan_.table(w.rows).row(rank.value());
  const auto shape = [&](std::span<const std::int32_t> m, std::int64_t matrices) {
    return cost::GroupedShape{
        m, matrices, w.n, w.k, w.in, w.weight, w.out, w.math, w.block_sparse ? megablocks_block : 0};
  };
  if (!w.launch.per_group) {
    append(out, model_.grouped_gemm(shape(rows, w.matrices)), w.math, w.launch.kernels);
  } else {
    for (const std::int32_t m : rows) {
      if (m == 0) continue;
      append(out, model_.gemm({m, w.n, w.k, 1, w.in, w.weight, w.out, w.math}), w.math, w.launch.kernels);
    }
  }
  finish(out, w.math);
  return out;
}

OpCost OpCosts::of(const AttentionCore& w, Rank rank) const {
  OpCost out;
  cost::AttentionShape shape;
  shape.sequences = plan_.rows(w.sequences, rank);
  shape.q_len = w.q_len;
  shape.kv_len = w.kv_len;
  shape.heads = w.heads;
  shape.qk_dim = w.qk_dim;
  shape.v_dim = w.v_dim;
  shape.kv_cols = w.kv_cols;
  shape.causal = w.causal;
  shape.backward = w.backward;
  shape.dtype = w.dtype;
  shape.math = w.math;
  shape.window = w.window;
  append(out, model_.attention(shape), w.math, 1);
  finish(out, w.math);
  return out;
}

OpCost OpCosts::of(const Elementwise& w, Rank rank) const {
  OpCost out;
  const std::int64_t rows = plan_.rows(w.rows, rank);
  const Bytes bytes = storage(detail::checked_mul(rows, w.read_cols + w.write_cols), w.dtype);
  append(out, model_.streaming(bytes, Flops(detail::checked_mul(rows, w.flops_per_row))), Math::f32, 1);
  finish(out, Math::f32);
  return out;
}

// Groups that a per-group permutation loops over: experts with rows at the owner, or with rows from any member on
// arrival.
std::int64_t OpCosts::groups_with_rows(const Permute& w, Rank rank) const {
  const Table& routed = plan_.table(w.routed);
  if (w.from == RowOrder::token || w.to == RowOrder::token)
    return std::ranges::count_if(routed.row(rank.value()), [](std::int32_t c) { return c > 0; });
  for (const std::vector<Rank>& g : plan_.groups[w.groups.index()]) {
    const auto at = std::ranges::find(g, rank);
    if (at == g.end()) continue;
    int first = 0;
    int last = routed.cols();
    if (w.placement.valid()) {
      const std::vector<int>& begin = plan_.placements[w.placement.index()].slot_begin;
      first = begin[static_cast<std::size_t>(at - g.begin())];
      last = begin[static_cast<std::size_t>(at - g.begin()) + 1];
    }
    std::int64_t groups = 0;
    for (int s = first; s < last; ++s)
      groups += std::ranges::any_of(g, [&](Rank r) { return routed.at(r.value(), s) > 0; }) ? 1 : 0;
    return groups;
  }
  return 0;
}

OpCost OpCosts::of(const Permute& w, Rank rank) const {
  OpCost out;
  // The adjoint of a combine also reads the copies, for the gates' gradients.
  const std::int64_t copies = w.adjoint && w.from == RowOrder::token ? plan_.rows(w.rows_out, rank) : 0;
  const std::int64_t rows = plan_.rows(w.rows_in, rank) + plan_.rows(w.rows_out, rank) + copies;
  const Bytes bytes = storage(detail::checked_mul(rows, w.cols), w.dtype) * w.launch.passes;
  if (!w.launch.per_group) {
    append(out, model_.streaming(bytes, Flops(0)), Math::f32, w.launch.kernels);
  } else {
    const std::int64_t groups = groups_with_rows(w, rank);
    for (std::int64_t g = 0; g < groups; ++g) {
      const Bytes part = bytes * (g + 1) / groups - bytes * g / groups;
      append(out, model_.streaming(part, Flops(0)), Math::f32, w.launch.kernels);
    }
  }
  finish(out, Math::f32);
  return out;
}

OpCost OpCosts::of(const Copy& w, Rank rank) const {
  OpCost out;
  const Bytes bytes = storage(detail::checked_mul(plan_.rows(w.rows, rank), w.cols), w.dtype);
  if (w.direction == Copy::Direction::device_to_device) {
    append(out, model_.streaming(bytes * 2, Flops(0)), Math::f32, 1);
    finish(out, Math::f32);
    return out;
  }
  out.launches = 1;
  out.bytes = bytes;
  out.kernels.push_back(std::max(cluster_.gpu.kernel_floor, bytes / cluster_.host_link));
  out.demand.memory = std::min(1.0, cluster_.host_link / cluster_.gpu.memory_bandwidth);
  return out;
}

OpCost OpCosts::of(const HostSync&, Rank) const { return {}; }

OpCost OpCosts::of(const Collective&, Rank) const {
  OpCost out;
  out.launches = 1;
  return out;
}

}  // namespace moesim::sim
