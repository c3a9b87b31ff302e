// The roofline of a machine file (Williams et al., CACM 2009), with a floor:
//   t = max(flops / (peak * e_matrix), bytes / (bandwidth * e_memory), kernel_floor)
// Limits: no tile or wave quantization, no library; fitted.hpp has those. Caches are ignored: every kernel finds its
// operands in device memory.

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <vector>

#include "models/cost/kernel_model.hpp"
#include "moesim/error.hpp"

namespace moesim::cost {

namespace {

using detail::checked_mul;

std::int64_t product(std::int64_t a, std::int64_t b, std::int64_t c = 1, std::int64_t d = 1) {
  assert(a >= 0 && b >= 0 && c >= 0 && d >= 0);
  return checked_mul(checked_mul(a, b), checked_mul(c, d));
}

std::int64_t rows(const GroupedShape& shape) {
  std::int64_t sum = 0;
  for (const std::int32_t m : shape.m) sum += m;
  return sum;
}

std::int64_t padded_rows(const GroupedShape& shape) {
  if (shape.block <= 0) return rows(shape);
  std::int64_t sum = 0;
  for (const std::int32_t m : shape.m) sum += (m + shape.block - 1) / shape.block * shape.block;
  return sum;
}

// Group g multiplies matrix g mod matrices; a matrix is read once however many of its groups have rows.
std::int64_t active_matrices(const GroupedShape& shape) {
  if (shape.matrices <= 0) return 0;
  const auto matrices = static_cast<std::size_t>(shape.matrices);
  if (shape.m.size() <= matrices) return std::ranges::count_if(shape.m, [](std::int32_t m) { return m > 0; });
  std::vector<bool> active(matrices);
  for (std::size_t g = 0; g < shape.m.size(); ++g)
    if (shape.m[g] > 0) active[g % matrices] = true;
  return std::ranges::count(active, true);
}

// Query-key pairs of one head of one sequence. Causal: token i of q_len sees the last min(kv_len - q_len + i + 1,
// window) of the keys before and at its place; a closed form, because decode plans ask for millions of these.
std::int64_t pairs(const AttentionShape& s) {
  const auto triangle = [](std::int64_t n) { return n <= 0 ? 0 : product(n, n + 1) / 2; };  // 1 + 2 + ... + n
  const std::int64_t window = s.window > 0 ? std::min(s.window, s.kv_len) : s.kv_len;
  if (!s.causal) return product(s.q_len, s.kv_len);
  const std::int64_t first = s.kv_len - s.q_len;  // keys before the first query, below 0 where queries have no key
  const auto up_to = [&](std::int64_t n) {        // sum over i <= n of min(i, window)
    return n <= window ? triangle(n) : triangle(window) + product(n - window, window);
  };
  return up_to(s.kv_len) - up_to(std::max<std::int64_t>(first, 0));
}

FlopsPerSecond peak_or_throw(const Gpu& gpu, Math math) {
  if (const auto peak = gpu.peak_of(math)) return *peak;
  std::string known;
  for (const Math other : all_maths)
    if (gpu.peak_of(other)) known += (known.empty() ? "" : ", ") + std::string(to_string(other));
  throw InputError(
      SourcePlace{gpu.name, 0, 0},
      fmt::format("GPU '{}' has no {} matrix pipeline, and the plan multiplies in it", gpu.name, to_string(math)),
      fmt::format("choose a math the GPU has: {}", known));
}

class Roofline final : public KernelModel {
 public:
  explicit Roofline(const Gpu& gpu) : gpu_(gpu) {}

  [[nodiscard]] KernelCost gemm(const GemmShape& s) const override {
    return cost(flops(s), bytes(s), flops(s), s.math, gpu_.matrix_efficiency);
  }
  [[nodiscard]] KernelCost grouped_gemm(const GroupedShape& s) const override {
    const Flops issued(product(2 * padded_rows(s), s.n, s.k));
    return cost(flops(s), bytes(s), issued, s.math, gpu_.matrix_efficiency);
  }
  [[nodiscard]] KernelCost attention(const AttentionShape& s) const override {
    return cost(flops(s), bytes(s), flops(s), s.math, gpu_.attention_efficiency);
  }
  [[nodiscard]] KernelCost streaming(Bytes bytes, Flops flops) const override {
    const bool vector = gpu_.peak_of(Math::f32).has_value();
    return cost(flops, bytes, vector ? flops : Flops(0), Math::f32, 1.0);
  }

 private:
  // `issued`: the arithmetic that the device does, padding included.
  [[nodiscard]] KernelCost cost(Flops flops, Bytes bytes, Flops issued, Math math, double efficiency) const {
    KernelCost cost;
    cost.flops = flops;
    cost.bytes = bytes;
    if (flops == Flops(0) && bytes == Bytes(0)) return cost;
    cost.duration = std::max(bytes / (gpu_.memory_bandwidth * gpu_.memory_efficiency), gpu_.kernel_floor);
    if (issued > Flops(0)) cost.duration = std::max(cost.duration, issued / (peak_or_throw(gpu_, math) * efficiency));
    return cost;
  }

  Gpu gpu_;
};

}  // namespace

Flops flops(const GemmShape& s) { return Flops(product(2, s.m, s.n, s.k)) * s.batch; }
Bytes bytes(const GemmShape& s) {
  if (s.m == 0 || s.n == 0 || s.k == 0) return Bytes(0);
  return storage(product(s.m, s.k, s.batch), s.in) + storage(product(s.k, s.n, s.batch), s.weight) +
         storage(product(s.m, s.n, s.batch), s.out);
}

Flops flops(const GroupedShape& s) { return Flops(product(2, rows(s), s.n, s.k)); }
Bytes bytes(const GroupedShape& s) {
  const std::int64_t m = rows(s);
  if (m == 0 || s.n == 0 || s.k == 0) return Bytes(0);
  return storage(product(m, s.k), s.in) + storage(product(active_matrices(s), s.k, s.n), s.weight) +
         storage(product(m, s.n), s.out);
}

// Forward: S = Q K^T and O = P V. Backward from Q, K, V, O and dO (FlashAttention-2, arXiv 2307.08691): S again, then
// dV = P^T dO, dP = dO V^T, dQ = dS K, dK = dS^T Q.
Flops flops(const AttentionShape& s) {
  const std::int64_t per_pair = s.backward ? 3 * s.qk_dim + 2 * s.v_dim : s.qk_dim + s.v_dim;
  return Flops(product(product(2, s.sequences, s.heads), pairs(s), per_pair));
}
// Forward: Q, K and V in, O out. Backward reads dO and O besides and writes dQ, dK and dV.
Bytes bytes(const AttentionShape& s) {
  if (pairs(s) == 0 || s.sequences == 0 || s.heads == 0) return Bytes(0);
  // A causal window leaves the keys before the first query's window unread.
  const std::int64_t keys = s.window > 0 && s.causal ? std::min(s.kv_len, s.window + s.q_len - 1) : s.kv_len;
  const std::int64_t queries = product(s.sequences, s.q_len, s.heads, s.qk_dim + s.v_dim);
  const std::int64_t cache = product(s.sequences, keys, s.kv_cols);
  return storage((queries + cache) * (s.backward ? 2 : 1), s.dtype);
}

Picoseconds speed_of_light(const Gpu& gpu, Math math, Flops flops, Bytes bytes) {
  const Picoseconds memory = bytes / gpu.memory_bandwidth;
  return flops == Flops(0) ? memory : std::max(memory, flops / peak_or_throw(gpu, math));
}

void check_physics(const Gpu& gpu, Math math, const KernelCost& cost) {
  const Picoseconds bound = speed_of_light(gpu, math, cost.flops, cost.bytes);
  if (cost.duration >= bound) return;
  throw PhysicsError(fmt::format(
      "a kernel of {} flops ({}) and {} bytes takes {} ps, but '{}' cannot do it in less than {} ps (data sheet)",
      cost.flops.value(), to_string(math), cost.bytes.value(), cost.duration.value(), gpu.name, bound.value()));
}

std::unique_ptr<KernelModel> make_roofline(const Gpu& gpu) { return std::make_unique<Roofline>(gpu); }

}  // namespace moesim::cost
