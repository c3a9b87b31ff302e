// The host's kernels of a training step, as kernels.hpp has those of a forward pass: stored as the tensors say,
// computed in float.
#pragma once

#include "backend/host/phase.hpp"
#include "backend/host/tensor.hpp"
#include "backend/training_call.hpp"

namespace moesim::backend {

// Nothing for sums and moves: their meetings carry them.
void execute(const TrainingCall& call, Scratch& scratch);
// No phases for any other call.
Meeting meeting_of(const Plan& plan, const Op& op, const TrainingCall& call, Rank rank);

void run(const InputGradientCall& c, Scratch& scratch);
void run(const WeightGradientCall& c, Scratch& scratch);
void run(const GroupedInputGradientCall& c, Scratch& scratch);
void run(const GroupedWeightGradientCall& c, Scratch& scratch);
void run(const AttentionGradientCall& c, Scratch& scratch);
void run(const NormGradientCall& c, Scratch& scratch);
void run(const ActivationGradientCall& c, Scratch& scratch);
void run(const EmbeddingGradientCall& c, Scratch& scratch);
void run(const LossCall& c, Scratch& scratch);
void run(const LossGradientCall& c, Scratch& scratch);
void run(const GateCall& c, Scratch& scratch);
void run(const GateGradientCall& c, Scratch& scratch);
void run(const CombineCall& c, Scratch& scratch);
void run(const CombineGradientCall& c, Scratch& scratch);
void run(const AdamCall& c, Scratch& scratch);

}  // namespace moesim::backend
