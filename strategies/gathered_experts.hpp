// A training step whose experts are where each iteration needs them: owners hold parameters and optimizer state, copies
// are gathered from them and give their gradients back (Hecate's FSSDP, arXiv 2502.02581, section 3). Every system of
// the comparison is a choice of placements per layer.
#pragma once

#include <optional>
#include <vector>

#include "strategies/load_history.hpp"
#include "strategies/transformer.hpp"

namespace moesim::strategies {

struct LayerPlacement {
  ExpertPlacement owners;  // parameters and optimizer state; replicas are kept equal by adding their gradients
  ExpertPlacement before;  // owners, and copies gathered beside the attention in front of the layer
  // What the layer uses where more is gathered once its gate has spoken: contains `before`.
  std::optional<ExpertPlacement> after;
  // Owners before this iteration, where they change: experts move with their optimizer state.
  std::optional<ExpertPlacement> moved_from;
  [[nodiscard]] const ExpertPlacement& used() const { return after ? *after : before; }
};

struct GatherOptions {
  bool gather_again = false;  // copies are dropped after the forward pass and gathered again in the backward pass
  bool local = false;         // every rank has every expert: tokens stay where they are
  // A layer's copies are sent beside its own attention, as Hecate's overlap degree counts; otherwise as early as the
  // stream allows.
  bool beside_attention = false;
};

// Bytes of one expert's parameters.
Bytes expert_bytes(const Input& in, const MoeBlock& block);

// One per MoE layer.
Plan plan_gathered(const Input& in, const std::vector<LayerPlacement>& layers, const GatherOptions& options);

// Throws Infeasible unless the phase is train; for a cluster of one GPU, where there is nothing to gather; and where
// experts do not divide over the ranks.
void check_gathered(const Input& in);

// Loads by owner, [ranks, experts], of this iteration.
Table current_counts(const Input& in, int moe_layer);

}  // namespace moesim::strategies
