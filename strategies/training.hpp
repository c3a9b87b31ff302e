// The rest of a training step: the backward pass of everything that a plan computes so far, the reduction of gradients
// over data-parallel replicas, and the optimizer.
//
// The forward ops are the tape. Reversed, each gives the ops that carry gradients from what it wrote to what it read:
//   Y = X W            dX = dY W^T, dW = X^T dY                    (as many flops again as forward, twice)
//   exchange           the exchange back
//   all_gather_v       reduce_scatter_v, and the other way round
//   sparse_all_gather  sparse_reduce_scatter, and the other way round (Hecate, arXiv 2502.02581, section 3)
// What backward ops read of the forward pass stays in memory until they ran: kept activations cost what they cost by
// liveness alone. With Workload::recompute a layer's ops run again from its input first (Chen et al., arXiv
// 1604.06174).
//
// Mixed precision (arXiv 1710.03740): weights and gradients in the weights' format, float32 master weights and two Adam
// moments: 2 + 2 + 12 bytes a parameter; float32 weights are their own master: 4 + 4 + 8.
#pragma once

#include <vector>

#include "strategies/transformer.hpp"

namespace moesim::strategies {

// Throws Infeasible for what has no backward pass here: encoder-decoders, latent and linear attention, tensor
// parallelism.
void check_trainable(const Transformer& t);

// Adds it all. `again`: forward collectives on the parameter stream that run again in the backward pass, one MoE layer
// ahead of their use, instead of keeping what they gathered.
void add_training_step(Transformer& t, const std::vector<OpId>& again);

// The backward pass alone. Returns the gradient of each buffer; invalid where it has none.
std::vector<BufferId> add_backward(Transformer& t, const std::vector<OpId>& again);

// The sums of gradients over ranks that replicate a weight; called when the gradients of `weights` are complete.
void reduce_gradients(Transformer& t, const std::string& name, Layer layer, const std::vector<BufferId>& weights,
                      const std::vector<BufferId>& gradients);

}  // namespace moesim::strategies
