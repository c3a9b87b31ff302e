// Fits that ship with the program, and what a machine without its own takes.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "models/cost/fitted.hpp"
#include "models/hardware/machine.hpp"

namespace moesim::fit {

// The shipped fits of a machine; without any, those of the nearest measured machine, transferred. Nothing for a machine
// that is too unlike all of them (a processor, say).
std::optional<cost::FitFile> fits_for(const hardware::MachineSpec& machine);

// models/fitted/transfer.toml: what transfers cost, measured.
std::vector<cost::TransferError> transfer_errors();

// models/fitted/uncalibrated.toml: standard deviations of ln(true / predicted) of what no fit covers, by kind.
std::map<std::string, double> uncalibrated_sigma();

}  // namespace moesim::fit
