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

// From the gradient of what activation(x) is to that of x.
struct ActivationGradientCall {
  Activation activation = Activation::relu;
  bool gated = false;
  Tensor dy, x, dx;
};

// Adam (Kingma and Ba, arXiv 1412.6980) with its defaults.
struct AdamRule {
  static constexpr float rate = 1e-3F;
  static constexpr float beta1 = 0.9F;
  static constexpr float beta2 = 0.999F;
  static constexpr float epsilon = 1e-8F;
};

}  // namespace moesim::backend
