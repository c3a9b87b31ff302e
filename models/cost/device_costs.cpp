#include "models/cost/device_costs.hpp"

namespace moesim::cost {
namespace {

constexpr std::array<std::string_view, all_device_costs.size()> names{"issue",   "kernels", "sync",  "to_device",
                                                                      "to_host", "copy",    "stream"};

// Priors of a server of 2023: they only say where the fit starts.
constexpr std::array<Field<Line>, 2> fields(std::string_view fixed, double fixed_us, std::string_view each,
                                            double each_us) {
  return {Field<Line>{&Line::fixed_us, "fixed_us", fixed, fixed_us, 3, fixed_us * 1e-4, fixed_us * 1e4},
          Field<Line>{&Line::each_us, "each_us", each, each_us, 3, each_us * 1e-4, each_us * 1e4}};
}

constexpr std::string_view per_megabyte = "us: per 10^6 bytes";
constexpr std::array<std::array<Field<Line>, 2>, all_device_costs.size()> all_fields{
    fields("us: before the first launch", 0.5, "us: of the host thread per launch", 3),
    fields("us: a graph with one empty kernel, less that kernel", 5, "us: of the device per empty kernel", 1.5),
    fields("us: until a few bytes are at the host and it knows", 15, per_megabyte, 20),
    fields("us: of an empty copy", 2, per_megabyte, 20),
    fields("us: of an empty copy", 2, per_megabyte, 20),
    fields("us: of an empty copy", 2, "us: per 10^6 bytes read and written", 0.4),
    fields("us: of an empty kernel", 2, "us: per 10^6 bytes read and written", 0.4)};

}  // namespace

std::string_view to_string(DeviceCost cost) { return names[static_cast<std::size_t>(cost)]; }
bool counts_launches(DeviceCost cost) { return cost == DeviceCost::issue || cost == DeviceCost::kernels; }
std::span<const Field<Line>> line_fields(DeviceCost cost) { return all_fields[static_cast<std::size_t>(cost)]; }

const FitEntry* find_device_cost(const FitFile& fits, DeviceCost cost) {
  for (const FitEntry& e : fits.entries)
    if (e.schema == device_schema && e.dtype == to_string(cost) && e.transferred_from.empty()) return &e;
  return nullptr;
}

Line line_of(const FitEntry& entry, DeviceCost cost) { return from_map(line_fields(cost), entry.parameters); }

}  // namespace moesim::cost
