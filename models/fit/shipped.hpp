// Fits that ship with the program, and what a machine without its own takes.
#pragma once

#include <optional>
#include <vector>

#include "models/cost/fitted.hpp"
#include "models/hardware/machine.hpp"

namespace moesim::fit {

// The shipped fits of a machine; without any, those of the nearest measured machine, transferred. Nothing for a machine
// that is too unlike all of them (a processor, say).
std::optional<cost::FitFile> fits_for(const hardware::MachineSpec& machine);

// models/fitted/transfer.toml: what transfers cost, measured.
std::vector<cost::TransferError> transfer_errors();

}  // namespace moesim::fit
