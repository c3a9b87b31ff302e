// What a transformer with Mixture-of-Experts layers is made of: shapes only, no weights and no cluster.
// Read from a Hugging Face config.json by models/arch. Shapes follow the papers' letters: h = hidden, f = intermediate.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "moesim/dtype.hpp"

namespace moesim {

enum class Activation : std::uint8_t { relu, gelu, silu };

// Self attention of one layer. Grouped-query attention (heads > kv_heads) and multi-head attention (equal) share one
// form; multi-head latent attention (DeepSeek-V2 section 2.1) has low-rank projections and its own head widths;
// linear attention (Qwen3-Next's gated delta net) has a state instead of a cache that grows.
struct Attention {
  enum class Kind : std::uint8_t { grouped_query, latent, linear };
  Kind kind = Kind::grouped_query;
  std::int64_t heads = 0;             // query heads; linear: value heads
  std::int64_t kv_heads = 0;          // latent: equal to heads; linear: 0, nothing is cached per token
  std::int64_t qk_head_dim = 0;       // width of one query/key head (latent: nope + rope part)
  std::int64_t v_head_dim = 0;        // width of one value head
  std::int64_t q_lora_rank = 0;       // latent: 0 = the query projection is full rank
  std::int64_t kv_lora_rank = 0;      // latent: width of the cached latent
  std::int64_t qk_rope_head_dim = 0;  // latent: the part of qk_head_dim that carries rotary positions, shared by heads
  bool bias = false;                  // on q, k and v
  bool output_bias = false;           // on o
  bool qk_norm = false;               // a norm over each query head and each key head, one scale for all heads
  bool qk_norm_joint = false;         // OLMoE: with qk_norm, one norm over all heads together
  bool output_gate = false;           // Qwen3-Next: the input projection also makes a gate on the heads' outputs
  bool sinks = false;                 // gpt-oss: one learned logit per head
  std::int64_t window = 0;            // sliding window in tokens, 0 = full attention
  std::int64_t relative_buckets = 0;  // T5/Switch: learned relative-position bias, buckets * heads, on this layer
  std::int64_t linear_key_heads = 0;  // linear: 0 elsewhere
  std::int64_t linear_conv_width = 0;
  std::int64_t index_heads = 0;     // DeepSeek-V3.2's sparse attention: an indexer of this many heads of
  std::int64_t index_head_dim = 0;  // this width (its one key head is cached) picks the
  std::int64_t index_top_k = 0;     // tokens that a query attends to; 0 = all
};

// A feed-forward block; gated = SwiGLU style with three matrices instead of two.
struct FeedForward {
  std::int64_t intermediate = 0;
  bool gated = true;
  bool bias = false;
  Activation activation = Activation::silu;
};

struct MoeBlock {
  std::int64_t experts = 0;  // routed experts that compute
  std::int64_t top_k = 0;
  FeedForward expert;                 // one routed expert
  FeedForward shared;                 // all shared experts together; intermediate = 0 where there is none
  bool shared_gate = false;           // Qwen: a sigmoid gate (h weights) on the shared expert
  bool router_bias = false;           // DeepSeek-V3's correction bias, gpt-oss's router bias: one number per expert
  std::int64_t expert_groups = 1;     // DeepSeek n_group: a token may use experts of at most
  std::int64_t groups_per_token = 1;  // topk_group of these groups
  std::int64_t zero_experts = 0;      // MoE++: experts without computation; they live on every rank
};

struct TransformerLayer {
  bool decoder = true;  // causal self attention; an encoder layer attends both ways
  std::optional<Attention> attention;
  std::optional<Attention> cross_attention;  // decoder layers of an encoder-decoder model
  std::optional<FeedForward> dense;          // exactly one of dense and moe is set
  std::optional<MoeBlock> moe;
  int norms = 2;  // normalizations over h
};

struct Model {
  std::string name;
  std::int64_t hidden = 0;
  std::int64_t vocabulary = 0;
  std::int64_t positions = 0;  // learned absolute position embeddings, 0 = none
  bool tied_embeddings = false;
  bool norm_bias = false;                // LayerNorm (scale and shift) instead of RMSNorm (scale)
  DType weights = DType::bf16;           // storage of the published weights
  DType expert_weights = DType::bf16;    // storage of the routed experts where it differs (gpt-oss: fp4)
  std::int64_t expert_scale_block = 0;   // routed-expert weights that share one byte of scale (MXFP4: 32), 0 = none
  std::vector<TransformerLayer> layers;  // encoder first, then decoder

  [[nodiscard]] int moe_layers() const;
  [[nodiscard]] bool has_encoder() const;
  [[nodiscard]] bool has_decoder() const;
};

// Parameters of one projection, one block, one model. "Active" counts what one token's forward pass multiplies:
// top_k routed experts, all shared ones; the embedding table is counted in full in both, as most model cards do.
// Multi-token-prediction layers and vision towers are not part of a Model. Throws std::overflow_error past 2^63.
struct ParameterCount {
  std::int64_t total = 0;
  std::int64_t active = 0;
};
std::int64_t parameters(const Attention& attention, std::int64_t hidden);
std::int64_t parameters(const FeedForward& block, std::int64_t hidden);
ParameterCount parameters(const TransformerLayer& layer, const Model& model);
ParameterCount parameters(const Model& model);

}  // namespace moesim
