#pragma once

namespace moesim {

inline constexpr const char* version = MOESIM_VERSION;

}  // namespace moesim
