// The host's kernels. Operands are stored as their tensors say and computed in float; shapes have been checked
// (backend/bind.cpp). docs/plan_format.md defines what each computes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/call.hpp"
#include "backend/host/tensor.hpp"
#include "moesim/plan.hpp"

namespace moesim::backend {

constexpr float norm_epsilon = 1e-6F;

// Nothing where the call is none.
void execute(const Call& call, Scratch& scratch);

// transposed: w is [n, k] (a tied embedding table).
void gemm(const Gemm& work, const Tensor& x, const Tensor& w, const Tensor& y, bool transposed, Scratch& scratch);
// rows: of each group. Blocks of block-sparse groups are computed whole.
void grouped_gemm(const GroupedGemm& work, std::span<const std::int32_t> rows, const Tensor& x, const Tensor& w,
                  const Tensor& y, Scratch& scratch);

// ---- rows ----

void apply(const RowMap& map, const Tensor& x, const Tensor& y, Scratch& scratch);
void norm(const Tensor& x, const Tensor* w, const Tensor& y, Scratch& scratch);
void add_norm(const Tensor& a, const Tensor& b, const Tensor* w, const Tensor& sum, const Tensor& y, Scratch& scratch);
void add(std::span<const Tensor> terms, const Tensor& y, Scratch& scratch);
void activate(Activation activation, bool gated, const Tensor& x, const Tensor& y, Scratch& scratch);
void cast(const Tensor& x, const Tensor& y, Scratch& scratch);
// ids[i]: row of the table, or -1 for zeros.
void embed(std::span<const std::int64_t> ids, const Tensor& table, const Tensor& y, Scratch& scratch);
// Rows i * every + every - 1.
void every_last(std::int64_t every, const Tensor& x, const Tensor& y);
// Writes the routing's choice. Throws std::runtime_error when a score is not finite.
void choose(std::span<const float> choice, const Tensor& scores, const Tensor& y, Scratch& scratch);
// out = sum of the sources, in their order, rounded once.
void add_up(std::span<const std::byte* const> sources, std::int64_t elements, DType dtype, std::byte* out);

// ---- attention ----

// expanded: of latent attention with expanded keys; cache: where the form has one.
void attention(const AttentionForm& form, const Tensor& x, const Tensor* expanded, const Tensor* cache, const Tensor& o,
               Scratch& scratch);
// Rotates queries and keys of self attention, x to y.
void rotate(const AttentionForm& form, const Tensor& x, const Tensor& y, Scratch& scratch);
// Latent forms: rotates the rope parts of q's heads (beside `absorbed` where that is given) and stores the rotated
// latent in the cache.
void rotate_latent(const AttentionForm& form, const Tensor* absorbed, const Tensor& q, const Tensor& latent,
                   const Tensor& y, const Tensor& cache, Scratch& scratch);
// Stores the new tokens' keys and values of self attention.
void store_keys(const AttentionForm& form, const Tensor& x, const Tensor& cache, Scratch& scratch);

}  // namespace moesim::backend
