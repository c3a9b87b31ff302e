// Kernels of the host executor on one core: times that are linear in what an op does.
//   t = sum over terms of cost * amount        in microseconds, every cost above 0
// docs/host_executor.md has the terms with their reasons and limits. `moesim calibrate --backend host` fits the costs.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "models/cost/fit_file.hpp"
#include "models/cost/kernel_model.hpp"

namespace moesim::cost {

inline constexpr std::string_view host_schema = "host";  // FitEntry::schema; the variant is the kernel's name

enum class HostKernel : std::uint8_t { product, attention, streaming, transfer };
inline constexpr std::array all_host_kernels{HostKernel::product, HostKernel::attention, HostKernel::streaming,
                                             HostKernel::transfer};
std::string_view to_string(HostKernel kernel);

struct HostTerm {
  std::string_view name;
  std::string_view meaning;  // unit first
  double prior;              // us per unit, of a server core
};
inline constexpr std::size_t most_host_terms = 5;
std::span<const HostTerm> host_terms(HostKernel kernel);

// Amounts of each term, in the order of host_terms; the rest is 0.
using Amounts = std::array<double, most_host_terms>;
Amounts amounts(const GemmShape& shape);
Amounts amounts(const GroupedShape& shape);
Amounts amounts(const AttentionShape& shape);
Amounts amounts(Bytes streamed);

// "short" (below 20 us, where call costs and clock ticks count) or "long": regimes of the accuracy.
std::string_view host_regime(double us);
double host_us(std::span<const double> costs, const Amounts& amounts);

// The entry of a kernel; null where the file is not of a host.
const FitEntry* find_host_entry(const FitFile& fits, HostKernel kernel);
// Costs in the order of host_terms.
std::array<double, most_host_terms> host_costs(const FitEntry& entry);

// What the file does not have is left to the roofline. No result beats the machine file's nominal rates.
std::unique_ptr<KernelModel> make_host(const Gpu& gpu, const FitFile& fits);

}  // namespace moesim::cost
