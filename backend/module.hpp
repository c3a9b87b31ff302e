// Modules that the program opens when they are asked for, so that it does not depend on what they need.
#pragma once

#include <filesystem>

namespace moesim::backend {

// In $MOESIM_MODULES, beside the program, or where an installed program has them (../lib/moesim); empty where it is
// nowhere.
std::filesystem::path find_module(const char* name);

}  // namespace moesim::backend
