// Counting parameters. Letters: h hidden, H heads, K key/value heads, d_k and d_v head widths, f intermediate, E
// experts, V vocabulary. Every count was checked against the published checkpoints (tests/models/arch/zoo_test.cpp).
#include <algorithm>

#include "moesim/model.hpp"
#include "moesim/units.hpp"

namespace moesim {
namespace {

using Parameters = Count<struct ParameterTag>;  // sums and products that throw instead of wrapping

Parameters grouped_query(const Attention& a, std::int64_t h) {
  const Parameters queries = Parameters(a.heads) * a.qk_head_dim;
  const Parameters keys = Parameters(a.kv_heads) * a.qk_head_dim;
  const Parameters values = Parameters(a.kv_heads) * a.v_head_dim;
  const Parameters outputs = Parameters(a.heads) * a.v_head_dim;
  const Parameters gate = a.output_gate ? outputs : Parameters(0);
  Parameters n = (queries + gate + keys + values + outputs) * h;
  if (a.bias) n += queries + gate + keys + values;
  if (a.output_bias) n += Parameters(h);
  if (a.qk_norm) n += a.qk_norm_joint ? queries + keys : Parameters(a.qk_head_dim) * 2;
  return n;
}

// DeepSeek-V2 section 2.1: down-projections to the two latents (with a norm each), up-projections to the heads. The
// rope part of the key comes straight from h and is shared by all heads.
Parameters latent(const Attention& a, std::int64_t h) {
  const Parameters queries = Parameters(a.heads) * a.qk_head_dim;
  const Parameters keys_values = Parameters(a.heads) * (a.qk_head_dim - a.qk_rope_head_dim + a.v_head_dim);
  const Parameters down = Parameters(a.kv_lora_rank + a.qk_rope_head_dim);
  Parameters n = down * h + Parameters(a.kv_lora_rank) + keys_values * a.kv_lora_rank;
  n += a.q_lora_rank > 0 ? Parameters(h) * a.q_lora_rank + Parameters(a.q_lora_rank) + queries * a.q_lora_rank
                         : queries * h;
  n += Parameters(a.heads) * a.v_head_dim * h;
  if (a.bias) n += down + Parameters(a.q_lora_rank);
  if (a.output_bias) n += Parameters(h);
  return n;
}

// Gated delta net (Qwen3-Next): projections to q, k, v and the output gate, two numbers per value head (decay and write
// strength), a depthwise convolution over q, k and v, decay parameters A and dt per value head, a norm over one head.
Parameters linear(const Attention& a, std::int64_t h) {
  const Parameters keys = Parameters(a.linear_key_heads) * a.qk_head_dim;
  const Parameters values = Parameters(a.heads) * a.v_head_dim;
  const Parameters gate = a.output_gate ? values : Parameters(0);
  Parameters n = (keys * 2 + values + gate + Parameters(a.heads) * 2) * h;
  n += (keys * 2 + values) * a.linear_conv_width;
  n += Parameters(a.heads) * 2 + Parameters(a.v_head_dim);
  return n + values * h;
}

// DeepSeek-V3.2: queries from the query latent, one key head with a LayerNorm, a weight per head.
Parameters indexer(const Attention& a, std::int64_t h) {
  const std::int64_t source = a.q_lora_rank > 0 ? a.q_lora_rank : h;
  return Parameters(a.index_heads) * a.index_head_dim * source + Parameters(a.index_head_dim) * h +
         Parameters(a.index_head_dim) * 2 + Parameters(a.index_heads) * h;
}

Parameters norm(const Model& model) { return Parameters(model.hidden) * (model.norm_bias ? 2 : 1); }

}  // namespace

std::int64_t parameters(const Attention& a, std::int64_t h) {
  Parameters n;
  switch (a.kind) {
    case Attention::Kind::grouped_query:
      n = grouped_query(a, h);
      break;
    case Attention::Kind::latent:
      n = latent(a, h);
      break;
    case Attention::Kind::linear:
      n = linear(a, h);
      break;
  }
  if (a.sinks) n += Parameters(a.heads);
  if (a.index_heads > 0) n += indexer(a, h);
  return (n + Parameters(a.relative_buckets) * a.heads).value();
}

std::int64_t parameters(const FeedForward& block, std::int64_t h) {
  const std::int64_t into = block.gated ? 2 : 1;  // matrices from h to f; one more leads back
  Parameters n = Parameters(h) * block.intermediate * (into + 1);
  if (block.bias && block.intermediate > 0) n += Parameters(block.intermediate) * into + Parameters(h);
  return n.value();
}

ParameterCount parameters(const TransformerLayer& layer, const Model& model) {
  const std::int64_t h = model.hidden;
  Parameters always = norm(model) * layer.norms;
  if (layer.attention) always += Parameters(parameters(*layer.attention, h));
  if (layer.cross_attention) always += Parameters(parameters(*layer.cross_attention, h));
  if (layer.dense) always += Parameters(parameters(*layer.dense, h));
  if (!layer.moe) return {always.value(), always.value()};

  const MoeBlock& moe = *layer.moe;
  const std::int64_t choices = moe.experts + moe.zero_experts;  // the router scores zero experts too
  always += Parameters(choices) * h + Parameters(parameters(moe.shared, h));
  if (moe.router_bias) always += Parameters(choices);
  if (moe.shared_gate) always += Parameters(h);
  const Parameters expert(parameters(moe.expert, h));
  // With zero experts this is the most that a token uses: some of its top_k may compute nothing.
  const std::int64_t used = std::min(moe.top_k, moe.experts);
  return {(always + expert * moe.experts).value(), (always + expert * used).value()};
}

ParameterCount parameters(const Model& model) {
  const std::int64_t tables = model.tied_embeddings ? 1 : 2;  // input embedding, output head
  Parameters always = Parameters(model.vocabulary) * model.hidden * tables + Parameters(model.positions) * model.hidden;
  always += norm(model) * (int{model.has_encoder()} + int{model.has_decoder()});  // the last norm of each stack
  Parameters total = always;
  Parameters active = always;
  for (const TransformerLayer& layer : model.layers) {
    const ParameterCount count = parameters(layer, model);
    total += Parameters(count.total);
    active += Parameters(count.active);
  }
  return {total.value(), active.value()};
}

int Model::moe_layers() const {
  return static_cast<int>(std::ranges::count_if(layers, [](const TransformerLayer& l) { return l.moe.has_value(); }));
}
bool Model::has_encoder() const {
  return std::ranges::any_of(layers, [](const TransformerLayer& l) { return !l.decoder; });
}
bool Model::has_decoder() const {
  return std::ranges::any_of(layers, [](const TransformerLayer& l) { return l.decoder; });
}

}  // namespace moesim
