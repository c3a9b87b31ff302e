// Which fitted cost models a scenario runs on, and how well they are known.
#pragma once

#include <memory>
#include <string>

#include "models/cost/communication.hpp"
#include "models/cost/fitted.hpp"
#include "study/scenario.hpp"

namespace moesim::study {

struct Calibration {
  std::shared_ptr<const cost::FitFile> fits;  // null: the roofline and the latencies of the machine file
  std::string library;                        // whose kernels run; empty = the fastest
  std::string line;                           // for reports: "fastest kernels of trtllm, vllm measured on h100_sxm"
};

// The scenario's own fit file, else what ships for the machine or its nearest relative, else nothing. Throws
// InputError: a file that cannot be read, is another machine's or another processor's (unless the scenario's cluster
// says `force`), a library that the fits do not have.
Calibration find_calibration(const Scenario& scenario, const hardware::MachineSpec& machine);

// Whether a file is a fit file of `moesim calibrate` rather than an overlay of single numbers.
bool is_fit_file(const std::string& path);

// A calibration of the host has the latencies and the rate of its transfers, which take the machine's place.
void apply_transfers(hardware::MachineSpec& machine, const cost::FitFile& fits, const std::string& path);
hardware::MachineSpec with_transfers(hardware::MachineSpec machine, double launch_us, double message_us,
                                     double megabyte_us);
// What a calibration of the host was measured on: the processor's name as the kernel knows it.
std::string this_processor();

// Collectives of the calibration on a cluster of the machine; nothing where its GPUs are not on NVSwitch, as all that
// was measured are.
std::shared_ptr<const cost::Communication> make_communication(const Calibration& calibration,
                                                              const hardware::MachineSpec& machine);

// Kernel times of the calibration on a GPU.
std::unique_ptr<cost::KernelModel> make_kernels(const Calibration& calibration, const Gpu& gpu);

}  // namespace moesim::study
