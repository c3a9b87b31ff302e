// The oracle: a dense, unsharded MoE layer, written as its definition, in double.
#pragma once

#include <vector>

#include "backend/executor.hpp"
#include "backend/host/numerics.hpp"
#include "tests/backend/small_models.hpp"

namespace moesim::test {

double activation(Activation a, double x);

struct LayerValues {
  std::int64_t cols = 0;
  std::vector<double> y;          // [tokens, cols]
  std::vector<double> magnitude;  // the same sums over absolute values: what rounding errors are measured against
};

// The rows of all token owners, from the first rank of each.
std::vector<double> global_rows(const Plan& plan, const backend::Programs& programs, BufferId buffer);

// Copies of each token's top_k that the plan's capacity drops at this layer: [tokens * top_k].
std::vector<bool> dropped(const Plan& plan, const Routing& routing, int moe_layer);

// y = sum over kept copies of gate * expert(x) + shared(x). `prefix` is the layer's: "l0.moe".
LayerValues dense_moe(const Model& model, const MoeBlock& block, const backend::Inputs& inputs, int moe_layer,
                      const std::string& prefix, const std::vector<double>& x, const std::vector<bool>& drop);

// Largest error relative to the largest element of its row (float32), and root mean square error relative to the root
// mean square of y.
struct Error {
  double worst = 0;
  double rms = 0;
};
Error error_of(const LayerValues& expected, const std::vector<double>& got);

}  // namespace moesim::test
