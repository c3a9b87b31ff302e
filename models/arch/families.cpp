// One function per model family turns the fields of its config.json into a Model, and the table at the end names them.
// Field names and defaults are those of Hugging Face Transformers' configuration classes. What no published config
// leaves out is required here, even where a class has a default: a guess would be worse than an error.
#include "models/arch/families.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "moesim/routing.hpp"

namespace moesim::arch {
namespace {

constexpr Range layer_range{1, 10'000};
constexpr Range width_range{1, std::int64_t{1} << 24};  // hidden, intermediate, head and latent widths, head counts
constexpr Range vocabulary_range{1, std::int64_t{1} << 28};
constexpr Range expert_range{1, std::numeric_limits<ExpertIndex>::max()};
constexpr Range zero_or(Range range) { return {0, range.max}; }

Activation activation(ConfigFields& f, std::string_view name, std::string_view absent) {
  const std::string word = f.word(name, absent);
  if (word == "silu" || word == "swish") return Activation::silu;
  if (word == "relu") return Activation::relu;
  if (word.starts_with("gelu")) return Activation::gelu;  // gelu_new, gelu_pytorch_tanh: other formulas, the same work
  f.unknown(name, word, {"silu", "swish", "relu", "gelu", "gelu_new", "gelu_pytorch_tanh"});
  return Activation::silu;
}

DType dtype(ConfigFields& f, DType absent) {
  const std::string_view name = f.has("torch_dtype") ? "torch_dtype" : "dtype";
  const std::string word = f.word(name, "");
  if (word.empty()) return absent;
  if (word == "bfloat16") return DType::bf16;
  if (word == "float16") return DType::f16;
  if (word == "float32") return DType::f32;
  if (word == "float8_e4m3fn") return DType::fp8;
  f.unknown(name, word, {"bfloat16", "float16", "float32", "float8_e4m3fn"});
  return absent;
}

void weight_formats(ConfigFields& f, Model& m, DType absent) {
  m.weights = m.expert_weights = dtype(f, absent);
  if (!f.has("quantization_config")) return;
  const std::string_view name = "quantization_config.quant_method";
  const std::string method = f.word(name);
  if (method == "fp8") {
    m.weights = m.expert_weights = DType::fp8;  // blocks of 128 x 128 share a scale: 0.02 % more, not counted
  } else if (method == "mxfp4") {
    m.expert_weights = DType::fp4;
    m.expert_scale_block = 32;
  } else {
    f.check(false, name, {}, fmt::format("quant_method '{}' is not understood (only fp8 and mxfp4 are)", method),
            "without quantization_config the weights are read as torch_dtype");
  }
}

// What every decoder-only family spells alike. Its layers are empty.
Model decoder_only(ConfigFields& f) {
  Model m;
  m.hidden = f.count({"hidden_size"}, width_range);
  m.vocabulary = f.count({"vocab_size"}, vocabulary_range);
  m.tied_embeddings = f.flag("tie_word_embeddings", false);
  m.layers.resize(static_cast<std::size_t>(f.count({"num_hidden_layers"}, layer_range)));
  weight_formats(f, m, DType::bf16);
  return m;
}

// Heads of width head_dim, or of hidden / heads where the family leaves head_dim out.
Attention grouped_query(ConfigFields& f, const Model& m) {
  Attention a;
  a.heads = f.count({"num_attention_heads"}, width_range);
  a.kv_heads = f.count({"num_key_value_heads"}, width_range, a.heads);
  if (!f.has("head_dim"))
    f.check(m.hidden % a.heads == 0, "num_attention_heads", {"hidden_size"},
            fmt::format("num_attention_heads {} does not divide hidden_size {}", a.heads, m.hidden),
            "give head_dim if heads are not hidden_size / num_attention_heads wide");
  a.qk_head_dim = a.v_head_dim = f.count({"head_dim"}, width_range, std::max<std::int64_t>(1, m.hidden / a.heads));
  f.check(a.heads % a.kv_heads == 0, "num_key_value_heads", {"num_attention_heads"},
          fmt::format("num_key_value_heads {} does not divide num_attention_heads {}", a.kv_heads, a.heads));
  return a;
}

FeedForward gated(ConfigFields& f, std::string_view width) {
  return {.intermediate = f.count({width}, width_range), .activation = activation(f, "hidden_act", "silu")};
}

MoeBlock routed(ConfigFields& f, Names experts, FeedForward expert) {
  MoeBlock moe;
  moe.experts = f.count(experts, expert_range);
  moe.top_k = f.count({"num_experts_per_tok", "experts_per_token"}, expert_range);
  moe.expert = expert;
  f.check(moe.top_k <= moe.experts, "num_experts_per_tok", {*experts.begin()},
          fmt::format("num_experts_per_tok {} is above the number of experts, {}", moe.top_k, moe.experts));
  return moe;
}

// Puts `moe` into the layers that `sparse` names and a dense block, whose width is intermediate_size, into the others.
void set_blocks(ConfigFields& f, Model& m, const MoeBlock& moe, const std::function<bool(std::int64_t)>& sparse) {
  std::optional<FeedForward> dense;
  for (std::size_t i = 0; i < m.layers.size(); ++i) {
    if (sparse(static_cast<std::int64_t>(i))) {
      m.layers[i].moe = moe;
    } else {
      if (!dense) dense = gated(f, "intermediate_size");
      m.layers[i].dense = dense;
    }
  }
}

// The kind of attention of each layer: the list layer_types, or `absent` of the layer's number.
std::vector<std::string> layer_types(ConfigFields& f, const Model& m, const std::vector<std::string_view>& known,
                                     const std::function<std::string_view(std::size_t)>& absent) {
  std::vector<std::string> types = f.words("layer_types");
  for (const std::string& t : types)
    if (std::ranges::find(known, t) == known.end()) f.unknown("layer_types", t, known);
  f.check(types.empty() || types.size() == m.layers.size(), "layer_types", {"num_hidden_layers"},
          fmt::format("layer_types names {} layers, num_hidden_layers is {}", types.size(), m.layers.size()));
  if (types.size() == m.layers.size()) return types;
  types.clear();
  for (std::size_t i = 0; i < m.layers.size(); ++i) types.emplace_back(absent(i));
  return types;
}

// Mixtral 8x7B and 8x22B: every layer sparse; intermediate_size is one expert's.
Model mixtral(ConfigFields& f) {
  Model m = decoder_only(f);
  Attention attention = grouped_query(f, m);
  attention.window = f.count({"sliding_window"}, vocabulary_range, 0);
  const MoeBlock moe = routed(f, {"num_local_experts", "num_experts"}, gated(f, "intermediate_size"));
  for (TransformerLayer& layer : m.layers) layer.attention = attention;
  set_blocks(f, m, moe, [](std::int64_t) { return true; });
  return m;
}

// OLMoE: like Mixtral, with one norm over all query heads together and one over all key heads.
Model olmoe(ConfigFields& f) {
  Model m = decoder_only(f);
  Attention attention = grouped_query(f, m);
  attention.bias = attention.output_bias = f.flag("attention_bias", false);
  attention.qk_norm = attention.qk_norm_joint = true;
  const MoeBlock moe = routed(f, {"num_experts"}, gated(f, "intermediate_size"));
  for (TransformerLayer& layer : m.layers) layer.attention = attention;
  set_blocks(f, m, moe, [](std::int64_t) { return true; });
  return m;
}

// gpt-oss: biases everywhere, a learned sink logit per head, every second layer a sliding window, experts in MXFP4.
Model gpt_oss(ConfigFields& f) {
  Model m = decoder_only(f);
  f.count({"head_dim"}, width_range);  // required: it is not hidden / heads
  Attention full = grouped_query(f, m);
  full.bias = full.output_bias = f.flag("attention_bias", true);
  full.sinks = true;
  Attention sliding = full;
  sliding.window = f.count({"sliding_window"}, vocabulary_range);
  FeedForward expert = gated(f, "intermediate_size");
  expert.bias = true;
  MoeBlock moe = routed(f, {"num_local_experts", "num_experts"}, expert);
  moe.router_bias = true;
  const std::vector<std::string> types = layer_types(f, m, {"sliding_attention", "full_attention"}, [](std::size_t i) {
    return i % 2 == 0 ? "sliding_attention" : "full_attention";
  });
  for (std::size_t i = 0; i < m.layers.size(); ++i)
    m.layers[i].attention = types[i] == "full_attention" ? full : sliding;
  set_blocks(f, m, moe, [](std::int64_t) { return true; });
  return m;
}

// ---- Qwen
// ------------------------------------------------------------------------------------------------------------

// Sparse: every decoder_sparse_step-th layer, less those of mlp_only_layers.
void set_qwen_blocks(ConfigFields& f, Model& m, const MoeBlock& moe) {
  const std::int64_t step = f.count({"decoder_sparse_step"}, layer_range, 1);
  const std::vector<std::int64_t> listed = f.counts("mlp_only_layers", zero_or(layer_range));
  const std::set<std::int64_t> dense(listed.begin(), listed.end());
  set_blocks(f, m, moe, [&](std::int64_t i) { return (i + 1) % step == 0 && !dense.contains(i); });
}

MoeBlock qwen_moe(ConfigFields& f) { return routed(f, {"num_experts"}, gated(f, "moe_intermediate_size")); }

void add_shared_expert(ConfigFields& f, MoeBlock& moe) {
  moe.shared = gated(f, "shared_expert_intermediate_size");
  moe.shared_gate = true;
}

// Qwen2-MoE and Qwen3-MoE publish with use_sliding_window false; which layers it would concern changed between
// versions.
void no_window(ConfigFields& f) {
  f.check(!f.flag("use_sliding_window", false), "use_sliding_window", {},
          "use_sliding_window true is not understood for this model_type");
}

// Qwen1.5-MoE and Qwen2-57B-A14B: biases on q, k and v; one wide shared expert behind a sigmoid gate.
Model qwen2_moe(ConfigFields& f) {
  Model m = decoder_only(f);
  no_window(f);
  Attention attention = grouped_query(f, m);
  attention.bias = f.flag("qkv_bias", true);
  MoeBlock moe = qwen_moe(f);
  add_shared_expert(f, moe);
  for (TransformerLayer& layer : m.layers) layer.attention = attention;
  set_qwen_blocks(f, m, moe);
  return m;
}

Model qwen3_moe(ConfigFields& f) {
  Model m = decoder_only(f);
  no_window(f);
  Attention attention = grouped_query(f, m);
  attention.bias = attention.output_bias = f.flag("attention_bias", false);
  attention.qk_norm = true;
  const MoeBlock moe = qwen_moe(f);
  for (TransformerLayer& layer : m.layers) layer.attention = attention;
  set_qwen_blocks(f, m, moe);
  return m;
}

// Qwen3-Next, Qwen3.5: three gated delta nets, then one gated full attention; a shared expert behind a gate.
Model qwen3_next(ConfigFields& f) {
  Model m = decoder_only(f);
  f.count({"head_dim"}, width_range);  // required: it is not hidden / heads
  Attention full = grouped_query(f, m);
  full.bias = full.output_bias = f.flag("attention_bias", false);
  full.qk_norm = true;
  full.output_gate = f.flag("attn_output_gate", true);
  Attention linear;
  linear.kind = Attention::Kind::linear;
  linear.heads = f.count({"linear_num_value_heads"}, width_range);
  linear.linear_key_heads = f.count({"linear_num_key_heads"}, width_range);
  linear.qk_head_dim = f.count({"linear_key_head_dim"}, width_range);
  linear.v_head_dim = f.count({"linear_value_head_dim"}, width_range);
  linear.linear_conv_width = f.count({"linear_conv_kernel_dim"}, width_range);
  linear.output_gate = true;
  f.check(linear.heads % linear.linear_key_heads == 0, "linear_num_key_heads", {"linear_num_value_heads"},
          fmt::format("linear_num_key_heads {} does not divide linear_num_value_heads {}", linear.linear_key_heads,
                      linear.heads));
  MoeBlock moe = qwen_moe(f);
  add_shared_expert(f, moe);
  const std::int64_t interval = f.count({"full_attention_interval"}, layer_range, 4);
  const std::vector<std::string> types = layer_types(f, m, {"linear_attention", "full_attention"}, [&](std::size_t i) {
    return (static_cast<std::int64_t>(i) + 1) % interval == 0 ? "full_attention" : "linear_attention";
  });
  for (std::size_t i = 0; i < m.layers.size(); ++i)
    m.layers[i].attention = types[i] == "full_attention" ? full : linear;
  set_qwen_blocks(f, m, moe);
  return m;
}

// ---- DeepSeek
// --------------------------------------------------------------------------------------------------------

// Latent attention; dense layers first; shared experts without a gate; a token's experts from few of the expert groups.
// The multi-token-prediction layer (num_nextn_predict_layers) is not part of the model.
Model deepseek_v2(ConfigFields& f) {
  Model m = decoder_only(f);
  Attention a;
  a.kind = Attention::Kind::latent;
  a.heads = a.kv_heads = f.count({"num_attention_heads"}, width_range);
  a.q_lora_rank = f.count({"q_lora_rank"}, width_range, 0);
  a.kv_lora_rank = f.count({"kv_lora_rank"}, width_range);
  a.qk_rope_head_dim = f.count({"qk_rope_head_dim"}, width_range);
  a.qk_head_dim = f.count({"qk_nope_head_dim"}, width_range) + a.qk_rope_head_dim;
  a.v_head_dim = f.count({"v_head_dim"}, width_range);
  a.bias = a.output_bias = f.flag("attention_bias", false);
  for (TransformerLayer& layer : m.layers) layer.attention = a;

  MoeBlock moe = routed(f, {"n_routed_experts", "num_routed_experts"}, gated(f, "moe_intermediate_size"));
  moe.shared = moe.expert;
  moe.shared.intermediate *= f.count({"n_shared_experts", "num_shared_experts"}, zero_or(expert_range), 0);
  moe.expert_groups = f.count({"n_group"}, expert_range, 1);
  moe.groups_per_token = f.count({"topk_group"}, expert_range, 1);
  f.check(moe.experts % moe.expert_groups == 0, "n_group", {"n_routed_experts"},
          fmt::format("n_group {} does not divide the number of experts, {}", moe.expert_groups, moe.experts));
  f.check(moe.groups_per_token <= moe.expert_groups, "topk_group", {"n_group"},
          fmt::format("topk_group {} is above n_group {}", moe.groups_per_token, moe.expert_groups));
  f.check(moe.top_k <= moe.experts / moe.expert_groups * moe.groups_per_token, "topk_group",
          {"num_experts_per_tok", "n_group", "n_routed_experts"},
          fmt::format("num_experts_per_tok {} is above the {} experts in topk_group {} groups", moe.top_k,
                      moe.experts / moe.expert_groups * moe.groups_per_token, moe.groups_per_token));
  const std::int64_t first = f.count({"first_k_dense_replace"}, zero_or(layer_range), 0);
  const std::int64_t step = f.count({"moe_layer_freq"}, layer_range, 1);
  set_blocks(f, m, moe, [&](std::int64_t i) { return i >= first && i % step == 0; });
  return m;
}

// DeepSeek-V3, R1, Kimi-K2: V2 with a correction bias per expert in the router (its topk_method "noaux_tc").
Model deepseek_v3(ConfigFields& f) {
  Model m = deepseek_v2(f);
  for (TransformerLayer& layer : m.layers)
    if (layer.moe) layer.moe->router_bias = true;
  return m;
}

// V3 with sparse attention: an indexer picks index_topk tokens per query.
Model deepseek_v32(ConfigFields& f) {
  Model m = deepseek_v3(f);
  const std::int64_t heads = f.count({"index_n_heads"}, width_range);
  const std::int64_t width = f.count({"index_head_dim"}, width_range);
  const std::int64_t top_k = f.count({"index_topk"}, vocabulary_range);
  for (TransformerLayer& layer : m.layers) {
    if (!layer.attention) continue;
    layer.attention->index_heads = heads;
    layer.attention->index_head_dim = width;
    layer.attention->index_top_k = top_k;
  }
  return m;
}

// ---- encoder-decoder
// -------------------------------------------------------------------------------------------------

// Switch Transformer: T5 with every step-th block sparse (blocks step, 2 step + 1, ... counted as Transformers does)
// and a relative position bias in the first block of each stack. Published in float32, top-1.
Model switch_transformers(ConfigFields& f) {
  Model m;
  m.hidden = f.count({"d_model"}, width_range);
  m.vocabulary = f.count({"vocab_size"}, vocabulary_range);
  m.tied_embeddings = f.flag("tie_word_embeddings", true);
  weight_formats(f, m, DType::f32);
  Attention attention;
  attention.heads = attention.kv_heads = f.count({"num_heads"}, width_range);
  attention.qk_head_dim = attention.v_head_dim = f.count({"d_kv"}, width_range);
  const std::int64_t buckets = f.count({"relative_attention_num_buckets"}, width_range, 32);
  const FeedForward block{.intermediate = f.count({"d_ff"}, width_range),
                          .gated = f.flag("is_gated_act", false),
                          .activation = activation(f, "dense_act_fn", "relu")};
  MoeBlock moe;
  moe.experts = f.count({"num_experts"}, expert_range);
  moe.top_k = f.count({"num_selected_experts"}, expert_range, 1);
  moe.expert = block;
  moe.router_bias = f.flag("router_bias", false);
  f.check(moe.top_k <= moe.experts, "num_selected_experts", {"num_experts"},
          fmt::format("num_selected_experts {} is above num_experts {}", moe.top_k, moe.experts));

  const auto stack = [&](bool decoder, std::int64_t layers, std::int64_t sparse) {
    const std::int64_t step = sparse > 0 ? std::max<std::int64_t>(1, layers / sparse) : 0;
    for (std::int64_t i = 0; i < layers; ++i) {
      TransformerLayer layer;
      layer.decoder = decoder;
      layer.norms = decoder ? 3 : 2;
      layer.attention = attention;
      if (i == 0) layer.attention->relative_buckets = buckets;
      if (decoder) layer.cross_attention = attention;
      if (step == 1 || (step > 1 && i % step == 1))
        layer.moe = moe;
      else
        layer.dense = block;
      m.layers.push_back(layer);
    }
  };
  const auto sparse_layers = [&](std::string_view name, std::string_view all, std::int64_t layers) {
    const std::int64_t n = f.count({name}, zero_or(layer_range));
    f.check(n <= layers, name, {all}, fmt::format("{} {} is above {} {}", name, n, all, layers));
    return n;
  };
  const std::int64_t encoder = f.count({"num_layers"}, layer_range);
  const std::int64_t decoder = f.count({"num_decoder_layers"}, layer_range, encoder);
  stack(false, encoder, sparse_layers("num_sparse_encoder_layers", "num_layers", encoder));
  stack(true, decoder, sparse_layers("num_sparse_decoder_layers", "num_decoder_layers", decoder));
  return m;
}

// GPT and BERT with an MoE block in every layer, as Hecate (arXiv 2502.02581) trains them: L layers of attention
// (4 d^2) and E experts of two matrices without gate (4 d^2 at intermediate_size = 2 d), learned positions, tied
// embeddings. Biases are left out, as in the paper's parameter counts.
Model transformer_moe(ConfigFields& f, bool decoder) {
  Model m = decoder_only(f);
  m.positions = f.count({"max_position_embeddings"}, vocabulary_range);
  m.norm_bias = true;
  const Attention attention = grouped_query(f, m);
  FeedForward expert;
  expert.intermediate = f.count({"intermediate_size"}, width_range);
  expert.gated = false;
  expert.activation = activation(f, "hidden_act", "gelu");
  const MoeBlock moe = routed(f, {"num_local_experts", "num_experts"}, expert);
  for (TransformerLayer& layer : m.layers) {
    layer.decoder = decoder;
    layer.attention = attention;
    layer.moe = moe;
  }
  return m;
}
Model hecate_gpt(ConfigFields& f) { return transformer_moe(f, true); }
Model hecate_bert(ConfigFields& f) { return transformer_moe(f, false); }

constexpr Family table[] = {
    {"switch_transformers", switch_transformers},
    {"mixtral", mixtral},
    {"olmoe", olmoe},
    {"gpt_oss", gpt_oss},
    {"qwen2_moe", qwen2_moe},
    {"qwen3_moe", qwen3_moe},
    {"qwen3_next", qwen3_next},
    {"qwen3_5_moe", qwen3_next},
    {"qwen3_5_moe_text", qwen3_next},
    {"deepseek_v2", deepseek_v2},
    {"deepseek_v3", deepseek_v3},
    {"kimi_k2", deepseek_v3},
    {"deepseek_v32", deepseek_v32},
    {"hecate_gpt", hecate_gpt},
    {"hecate_bert", hecate_bert},
};

}  // namespace

std::span<const Family> families() { return table; }

}  // namespace moesim::arch
