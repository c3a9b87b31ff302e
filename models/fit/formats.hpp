// The number formats that measurements name, as the cost models see them.
#pragma once

#include <string>

#include "moesim/dtype.hpp"
#include "moesim/error.hpp"

namespace moesim::fit {

struct Format {
  DType dtype = DType::bf16;  // of the operands that are multiplied
  Math math = Math::bf16;
  double bytes = 2;        // per element of them
  bool quantized = false;  // inputs arrive in bf16 and are quantized by the timed code
};

// "bfloat16", "float16", "fp8", "fp8_block". Throws InputError at `place` for others.
Format format_of(const std::string& name, const SourcePlace& place);

}  // namespace moesim::fit
