// The host's kernels. Operands are stored as their tensors say and computed in float; shapes have been checked
// (program.cpp). docs/plan_format.md defines what each computes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/host/tensor.hpp"
#include "backend/row_map.hpp"
#include "moesim/plan.hpp"

namespace moesim::backend {

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

struct AttentionForm {
  enum class Kind : std::uint8_t { self, cross, latent_expanded, latent_absorbed };
  Kind kind = Kind::self;
  std::int64_t sequences = 0;
  std::int64_t q_len = 0;
  std::int64_t kv_len = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t qk_dim = 0;
  std::int64_t v_dim = 0;
  std::int64_t window = 0;
  bool causal = true;
  bool gated = false;
  std::int64_t rope = 0;     // latent: columns of the rotary part
  std::int64_t kept = 0;     // rows of the cache for each sequence; 0 = no cache
  std::vector<float> turns;  // cosine and sine of every new position and pair of columns; see turn_pairs
  [[nodiscard]] std::int64_t q_cols() const { return heads * qk_dim; }
  [[nodiscard]] std::int64_t key_col() const { return q_cols() * (gated ? 2 : 1); }
  [[nodiscard]] std::int64_t value_col() const { return key_col() + kv_heads * qk_dim; }
};

// expanded: of latent attention with expanded keys; cache: where the form has one.
void attention(const AttentionForm& form, const Tensor& x, const Tensor* expanded, const Tensor* cache, const Tensor& o,
               Scratch& scratch);
// Fills form.turns: pairs (j, j + d / 2) of d columns turn by position * 10000^(-2j / d).
void turn_pairs(AttentionForm& form, std::int64_t d);
// Rotates queries and keys of self attention, x to y.
void rotate(const AttentionForm& form, const Tensor& x, const Tensor& y, Scratch& scratch);
// Latent forms: rotates the rope parts of q's heads (beside `absorbed` where that is given) and stores the rotated
// latent in the cache.
void rotate_latent(const AttentionForm& form, const Tensor* absorbed, const Tensor& q, const Tensor& latent,
                   const Tensor& y, const Tensor& cache, Scratch& scratch);
// Stores the new tokens' keys and values of self attention.
void store_keys(const AttentionForm& form, const Tensor& x, const Tensor& cache, Scratch& scratch);

}  // namespace moesim::backend
