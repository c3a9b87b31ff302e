// Launches, waits, copies and streaming kernels of one GPU and its host.
#pragma once

#include <string>
#include <vector>

#include "models/cost/device_costs.hpp"
#include "models/fit/group.hpp"

namespace moesim::fit {

std::vector<Group> device_groups(const std::vector<DeviceRow>& rows, const hardware::MachineSpec& machine);

// What a fit file says of the machine's launches, waits, copies and memory takes the place of the machine file's
// numbers, with the fit as their source. Nothing where the file was transferred from another machine.
void apply_device(hardware::MachineSpec& machine, const cost::FitFile& fits, const std::string& name);

}  // namespace moesim::fit
