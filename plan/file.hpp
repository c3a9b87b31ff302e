// A plan's file as text; reading and writing are in moesim/plan.hpp.
#pragma once

#include <string>

#include "moesim/plan.hpp"

namespace moesim {

std::string plan_text(const Plan& plan);

}  // namespace moesim
