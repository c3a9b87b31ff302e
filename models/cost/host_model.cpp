#include "models/cost/host_model.hpp"

#include <algorithm>
#include <optional>

#include "models/cost/fitted.hpp"

namespace moesim::cost {
namespace {

constexpr double million = 1e6;
constexpr double rounding = 1.001;  // of the digits that a file has

// Eigen's product packs W once for every call, whatever m is, and streams X and Y.
constexpr std::array<HostTerm, 5> product_terms{
    {{"call", "us per product", 0.5},
     {"group", "us per group of rows that is multiplied", 0.3},
     {"gflop", "us per 10^9 floating-point operations", 20'000},
     {"weight", "us per 10^6 elements of W: reading, converting and packing them", 400},
     {"row", "us per 10^6 elements of X and Y", 300}}};
constexpr std::array<HostTerm, 5> attention_terms{{{"call", "us per op", 0.5},
                                                   {"head", "us per head of a sequence", 0.5},
                                                   {"gflop", "us per 10^9 floating-point operations", 30'000},
                                                   {"pair", "us per 10^6 query-key pairs: the softmax", 1'000},
                                                   {"element", "us per 10^6 elements of Q, K, V and O", 1'000}}};
constexpr std::array<HostTerm, 2> streaming_terms{
    {{"call", "us per op", 0.3}, {"megabyte", "us per 10^6 bytes read and written", 100}}};
constexpr std::array<HostTerm, 3> transfer_terms{{{"launch", "us to enter a collective", 0.5},
                                                  {"message", "us per step of a collective", 0.3},
                                                  {"megabyte", "us per 10^6 bytes that a rank takes", 150}}};

double count(std::int64_t n) { return static_cast<double>(n); }

class Host final : public KernelModel {
 public:
  Host(const Gpu& gpu, const FitFile& fits) : gpu_(gpu), roofline_(make_roofline(gpu)) {
    for (const HostKernel kernel : all_host_kernels)
      if (const FitEntry* e = find_host_entry(fits, kernel)) entries_[index(kernel)] = *e;
  }

  [[nodiscard]] KernelCost gemm(const GemmShape& s) const override {
    return judge(HostKernel::product, roofline_->gemm(s), s.math, amounts(s), s.weight);
  }
  [[nodiscard]] KernelCost grouped_gemm(const GroupedShape& s) const override {
    return judge(HostKernel::product, roofline_->grouped_gemm(s), s.math, amounts(s), s.weight);
  }
  [[nodiscard]] KernelCost attention(const AttentionShape& s) const override {
    return judge(HostKernel::attention, roofline_->attention(s), s.math, amounts(s), s.dtype);
  }
  [[nodiscard]] KernelCost streaming(Bytes bytes, Flops flops) const override {
    return judge(HostKernel::streaming, roofline_->streaming(bytes, flops), Math::f32, amounts(bytes));
  }

 private:
  static std::size_t index(HostKernel kernel) { return static_cast<std::size_t>(kernel); }

  [[nodiscard]] KernelCost judge(HostKernel kernel, KernelCost cost, Math math, const Amounts& of,
                                 std::optional<DType> format = {}) const {
    const std::optional<FitEntry>& entry = entries_[index(kernel)];
    if (!entry || cost.duration.value() == 0) return cost;
    cost.duration = std::max(from_microseconds(host_us(host_costs(*entry), of)),
                             speed_of_light(gpu_, math, cost.flops, cost.bytes));
    cost.log_sigma = log_sigma(*entry, host_regime(to_microseconds(cost.duration)));
    if (format) cost.in_range = to_string(*format) == entry->dtype;
    const std::span<const HostTerm> terms = host_terms(kernel);
    for (const CalibratedRange& r : entry->ranges)
      for (std::size_t i = 0; i < terms.size(); ++i)
        if (terms[i].name == r.quantity) cost.in_range = cost.in_range && of[i] <= r.high * rounding;
    return cost;
  }

  Gpu gpu_;
  std::unique_ptr<KernelModel> roofline_;
  std::array<std::optional<FitEntry>, all_host_kernels.size()> entries_;
};

}  // namespace

std::string_view to_string(HostKernel kernel) {
  constexpr std::array<std::string_view, all_host_kernels.size()> names{"product", "attention", "streaming",
                                                                        "transfer"};
  return names[static_cast<std::size_t>(kernel)];
}

std::span<const HostTerm> host_terms(HostKernel kernel) {
  switch (kernel) {
    case HostKernel::product:
      return product_terms;
    case HostKernel::attention:
      return attention_terms;
    case HostKernel::streaming:
      return streaming_terms;
    case HostKernel::transfer:
      return transfer_terms;
  }
  return {};
}

Amounts amounts(const GemmShape& s) {
  if (s.m == 0) return {};
  const double batch = count(s.batch);
  return {1, batch, batch * 2e-9 * count(s.m) * count(s.n) * count(s.k), batch * count(s.k) * count(s.n) / million,
          batch * count(s.m) * (count(s.k) + count(s.n)) / million};
}

// Padded rows of blocks are computed like others.
Amounts amounts(const GroupedShape& s) {
  double rows = 0;
  double groups = 0;
  for (const std::int32_t m : s.m) {
    groups += m > 0 ? 1 : 0;
    rows += count(s.block > 0 ? (m + s.block - 1) / s.block * s.block : m);
  }
  if (groups == 0) return {};
  return {1, groups, 2e-9 * rows * count(s.n) * count(s.k), groups * count(s.k) * count(s.n) / million,
          rows * (count(s.k) + count(s.n)) / million};
}

// Keys and values are fetched once for every group of heads that shares them.
Amounts amounts(const AttentionShape& s) {
  const double work = count(flops(s).value());
  if (work == 0) return {};
  const double widths = count(s.qk_dim + s.v_dim);
  return {
      1, count(s.sequences) * count(s.heads), work * 1e-9, work / (2 * widths) / million,
      count(s.sequences) * (count(s.kv_len) * count(s.kv_cols) + count(s.q_len) * count(s.heads) * widths) / million};
}

Amounts amounts(Bytes streamed) { return {1, count(streamed.value()) / million}; }

std::string_view host_regime(double us) { return us < 20 ? "short" : "long"; }

double host_us(std::span<const double> costs, const Amounts& amounts) {
  double us = 0;
  for (std::size_t i = 0; i < costs.size(); ++i) us += costs[i] * amounts[i];
  return us;
}

const FitEntry* find_host_entry(const FitFile& fits, HostKernel kernel) {
  const auto found = std::ranges::find_if(
      fits.entries, [&](const FitEntry& e) { return e.schema == host_schema && e.variant == to_string(kernel); });
  return found == fits.entries.end() ? nullptr : &*found;
}

std::array<double, most_host_terms> host_costs(const FitEntry& entry) {
  std::array<double, most_host_terms> out{};
  for (const HostKernel kernel : all_host_kernels) {
    if (entry.variant != to_string(kernel)) continue;
    const std::span<const HostTerm> terms = host_terms(kernel);
    for (std::size_t i = 0; i < terms.size(); ++i) {
      const auto it = entry.parameters.find(terms[i].name);
      out[i] = it == entry.parameters.end() ? terms[i].prior : it->second;
    }
  }
  return out;
}

std::unique_ptr<KernelModel> make_host(const Gpu& gpu, const FitFile& fits) {
  return std::make_unique<Host>(gpu, fits);
}

}  // namespace moesim::cost
