// How well a predicted time is known. docs/cost_models.md, "Intervals".
//
// Every op has a standard deviation of ln(true / predicted) from its model's error on rows held out of the fit. Errors
// of one kind of op share their cause and add up; kinds are independent:
//     sigma(T) = sqrt( sum over kinds ( sum over ops of the kind of exposed time * sigma )^2 ) / T
// and the 90 % interval is T exp(-+1.645 sigma). Exposed time: what of a rank's step an op takes (summary.hpp, Part),
// so that work under other work counts once.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "moesim/machine.hpp"
#include "moesim/plan.hpp"
#include "moesim/timeline.hpp"
#include "study/calibration.hpp"

namespace moesim::study {

enum class ErrorKind : std::uint8_t { gemm, experts, attention, memory, collectives, launching };
inline constexpr std::size_t error_kinds = 6;
std::string_view to_string(ErrorKind kind);

struct OpError {
  ErrorKind kind = ErrorKind::memory;
  double log_sigma = 0;
  bool in_range = true;  // measured on this GPU, with shapes and sizes that the measurements enclose
};

struct Errors {
  std::vector<OpError> ops;  // by op of the plan, judged on the rank that takes longest
  double launch_sigma = 0;   // of the time that ranks spend behind the host
};
// Nothing without a calibration: the roofline has no interval.
Errors errors(const Plan& plan, const Timeline& timeline, const Cluster& cluster, const cost::KernelModel& kernels,
              const Calibration& calibration);

// Collectives that are copies on one GPU are known as well as its memory-bound kernels are.
void copies_for_collectives(const Plan& plan, Errors& errors);

// Exposed time of a part of a step, summed over ranks.
struct Exposure {
  std::vector<double> op_us;  // by op: computing or transferring
  double wait_us = 0;         // for peers
  double launch_us = 0;       // for the host
};

struct Interval {
  double log_sigma = 0;  // 0: no calibration
  // Factor from the prediction to either end of its 90 % interval.
  [[nodiscard]] double reach() const;
};
Interval interval(const Errors& errors, const Exposure& exposure);

// Kinds of op that take more than a twentieth of the exposed time outside the calibrated range, as a list for people.
std::string outside_range(const Errors& errors, const Exposure& exposure);

}  // namespace moesim::study
