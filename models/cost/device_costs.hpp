// What a GPU and its host spend besides matrix products and attention, as `moesim calibrate --backend cuda` fits it:
// straight lines.
//   t = fixed_us + each_us * amount
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "models/cost/fit_file.hpp"

namespace moesim::cost {

inline constexpr std::string_view device_schema = "device";  // FitEntry::schema; its dtype is the cost's name

//   issue       amount: launches; the host thread's time for empty kernels
//   kernels     launches; the device's time for empty kernels, one after the other
//   sync        10^6 bytes; from the host's wish to read them to their arrival, the wake-up included
//   to_device, to_host, copy   10^6 bytes; copies between pinned host memory and the device, and on the device
//   stream      10^6 bytes read and written by a memory-bound kernel
enum class DeviceCost : std::uint8_t { issue, kernels, sync, to_device, to_host, copy, stream };
inline constexpr std::array all_device_costs{DeviceCost::issue,     DeviceCost::kernels, DeviceCost::sync,
                                             DeviceCost::to_device, DeviceCost::to_host, DeviceCost::copy,
                                             DeviceCost::stream};
std::string_view to_string(DeviceCost cost);
bool counts_launches(DeviceCost cost);  // else bytes

struct Line {
  double fixed_us, each_us;
};
std::span<const Field<Line>> line_fields(DeviceCost cost);
inline double line_us(const Line& l, double amount) { return l.fixed_us + l.each_us * amount; }

// Null where the file has none of this very machine: such costs are not transferred.
const FitEntry* find_device_cost(const FitFile& fits, DeviceCost cost);
Line line_of(const FitEntry& entry, DeviceCost cost);

}  // namespace moesim::cost
