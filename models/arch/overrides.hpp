// Changes to a model that a study asks for: another number of experts, fewer layers, another number format.
#pragma once

#include <cstdint>
#include <optional>

#include "moesim/error.hpp"
#include "moesim/model.hpp"

namespace moesim::arch {

struct Overrides {
  std::optional<std::int64_t> experts = std::nullopt;  // routed experts of every MoE layer
  std::optional<std::int64_t> top_k = std::nullopt;
  std::optional<std::int64_t> layers = std::nullopt;   // the first `layers` of each stack (encoder, decoder)
  std::optional<DType> weights = std::nullopt;         // of all weights
  std::optional<DType> expert_weights = std::nullopt;  // of the routed experts; overrides `weights` there
};

// The model with the changes made. Throws InputError with all that is wrong with them, at `place` (the line of the
// scenario that asks for them): a number of 0 or less, top_k above the experts that a token may use, experts that do
// not divide into the model's groups, more layers than there are, no MoE layer left, a number format that holds no
// weights.
Model with_overrides(Model model, const Overrides& overrides, const SourcePlace& place = {});

}  // namespace moesim::arch
