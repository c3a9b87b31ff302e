// Ops without tables, row by row: the same value for every executor, as far as the kernel's launch.
#pragma once

#include <cstdint>

#include "backend/tensor.hpp"
#include "moesim/model.hpp"

namespace moesim::backend {

// gated: y = f(first half of x's columns) * second half.
struct ActivateCall {
  Activation activation = Activation::relu;
  bool gated = false;
  Tensor x, y;
};
struct CastCall {
  Tensor x, y;
};
// Rows i * every + every - 1.
struct LastCall {
  std::int64_t every = 0;
  Tensor x, y;
};

}  // namespace moesim::backend
