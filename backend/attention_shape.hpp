// The attention of one op on one rank, with the layout of what it reads (docs/plan_format.md, "Attention").
#pragma once

#include <cstdint>

namespace moesim::backend {

struct AttentionShape {
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
  std::int64_t rope = 0;  // latent: columns of the rotary part
  std::int64_t kept = 0;  // rows of the cache for each sequence; 0 = no cache
  [[nodiscard]] constexpr std::int64_t q_cols() const { return heads * qk_dim; }
  [[nodiscard]] constexpr std::int64_t key_col() const { return q_cols() * (gated ? 2 : 1); }
  [[nodiscard]] constexpr std::int64_t value_col() const { return key_col() + kv_heads * qk_dim; }
};

}  // namespace moesim::backend
