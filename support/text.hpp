// Numbers as people read them.
#pragma once

#include <string>

#include "moesim/units.hpp"

namespace moesim {

std::string human(Bytes bytes);          // "552.96 MB" (decimal; GB is not GiB)
std::string human_binary(Bytes bytes);   // "61.4 GiB": memory sizes
std::string human(Picoseconds time);     // "12.47 ms"
std::string human(BytesPerSecond rate);  // "300 GB/s"

}  // namespace moesim
