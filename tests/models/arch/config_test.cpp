// What the readers make of each family's fields, and overrides.
#include <doctest/doctest.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "models/arch/hf_config.hpp"
#include "models/arch/overrides.hpp"
#include "models/arch/zoo.hpp"

using namespace moesim;
using namespace moesim::arch;

namespace {

// A part that must be there.
template <class Optional>
auto& the(Optional& part) {
  if (!part) throw std::logic_error("the layer has no such part");
  return *part;
}

std::vector<int> where(const Model& m, bool (*is)(const TransformerLayer&)) {
  std::vector<int> out;
  for (std::size_t i = 0; i < m.layers.size(); ++i)
    if (is(m.layers[i])) out.push_back(static_cast<int>(i));
  return out;
}
bool sparse(const TransformerLayer& l) { return l.moe.has_value(); }

std::string complaint(const Model& m, const Overrides& o) {
  try {
    with_overrides(m, o, {"study.toml", 4, 1});
  } catch (const InputError& e) {
    return e.what();
  }
  return "accepted";
}

// A small Mixtral with one more field.
std::string mixtral_with(const std::string& field) {
  return R"({"model_type": "mixtral", "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 4, "intermediate_size": 96, "num_local_experts": 8,
             "num_experts_per_tok": 2)" +
         (field.empty() ? "" : ", " + field) + "}";
}

}  // namespace

TEST_CASE("Mixtral: all layers sparse, grouped-query attention of hidden / heads wide heads") {
  const Model m = load("mixtral-8x7b");
  CHECK(m.moe_layers() == 32);
  CHECK_FALSE(m.has_encoder());
  const Attention& a = the(m.layers[5].attention);
  CHECK(a.kind == Attention::Kind::grouped_query);
  CHECK(a.heads == 32);
  CHECK(a.kv_heads == 8);
  CHECK(a.qk_head_dim == 128);
  CHECK(a.v_head_dim == 128);
  CHECK(a.window == 0);
  const MoeBlock& moe = the(m.layers[5].moe);
  CHECK(moe.experts == 8);
  CHECK(moe.top_k == 2);
  CHECK(moe.expert.intermediate == 14336);
  CHECK(moe.expert.gated);
  CHECK(moe.expert.activation == Activation::silu);
  CHECK(moe.shared.intermediate == 0);
  CHECK(m.weights == DType::bf16);
}

TEST_CASE("DeepSeek: dense layers first, latent attention, shared experts together, expert groups") {
  const Model v3 = load("deepseek-v3");
  CHECK(where(v3, [](const TransformerLayer& l) { return l.dense.has_value(); }) == std::vector<int>{0, 1, 2});
  CHECK(the(v3.layers[0].dense).intermediate == 18432);
  const Attention& a = the(v3.layers[60].attention);
  CHECK(a.kind == Attention::Kind::latent);
  CHECK(a.qk_head_dim == 192);
  CHECK(a.qk_rope_head_dim == 64);
  CHECK(a.kv_lora_rank == 512);
  CHECK(a.index_heads == 0);
  const MoeBlock& moe = the(v3.layers[3].moe);
  CHECK(moe.expert_groups == 8);
  CHECK(moe.groups_per_token == 4);
  CHECK(moe.router_bias);
  CHECK_FALSE(moe.shared_gate);

  const Model lite = load("deepseek-v2-lite");
  CHECK(the(lite.layers[0].attention).q_lora_rank == 0);  // null in the file
  CHECK(the(lite.layers[1].moe).shared.intermediate == 2 * 1408);
  CHECK_FALSE(the(lite.layers[1].moe).router_bias);
  CHECK(the(load("deepseek-v3.2").layers[7].attention).index_top_k == 2048);
}

TEST_CASE("gpt-oss: windows on every second layer from the first, sinks, biases, MXFP4 experts") {
  const Model m = load("gpt-oss-20b");
  for (std::size_t i = 0; i < m.layers.size(); ++i) CHECK(the(m.layers[i].attention).window == (i % 2 == 0 ? 128 : 0));
  CHECK(the(m.layers[0].attention).sinks);
  CHECK(the(m.layers[0].attention).qk_head_dim == 64);  // hidden / heads would be 45
  CHECK(the(m.layers[0].attention).output_bias);
  CHECK(the(m.layers[0].moe).expert.bias);
  CHECK(the(m.layers[0].moe).router_bias);
  CHECK(m.weights == DType::bf16);
  CHECK(m.expert_weights == DType::fp4);
  CHECK(m.expert_scale_block == 32);
}

TEST_CASE("Qwen: shared expert behind a gate; Next and 3.5 have a full attention after three linear ones") {
  const Model next = load("qwen3-next-80b-a3b");
  CHECK(where(next, [](const TransformerLayer& l) {
          return the(l.attention).kind == Attention::Kind::grouped_query;
        }) == std::vector<int>{3, 7, 11, 15, 19, 23, 27, 31, 35, 39, 43, 47});
  const Attention& linear = the(next.layers[0].attention);
  CHECK(linear.heads == 32);
  CHECK(linear.linear_key_heads == 16);
  CHECK(linear.kv_heads == 0);
  CHECK(linear.linear_conv_width == 4);
  CHECK(the(next.layers[3].attention).output_gate);
  CHECK(the(next.layers[3].attention).qk_norm);
  CHECK_FALSE(the(next.layers[3].attention).qk_norm_joint);
  CHECK(the(next.layers[3].moe).shared_gate);
  CHECK(the(next.layers[3].moe).shared.intermediate == 512);
  CHECK(the(load("qwen2-57b-a14b").layers[0].attention).bias);
  CHECK_FALSE(the(load("qwen2-57b-a14b").layers[0].attention).output_bias);
  CHECK_FALSE(the(load("qwen3-30b-a3b").layers[0].attention).bias);
  CHECK(the(load("olmoe-1b-7b").layers[0].attention).qk_norm_joint);
}

TEST_CASE("Qwen's sparse layers: decoder_sparse_step counts from one, mlp_only_layers from zero") {
  const Model m = parse_config(R"({"model_type": "qwen3_moe", "vocab_size": 100, "hidden_size": 64,
      "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 200,
      "decoder_sparse_step": 2, "mlp_only_layers": [3, 4], "moe_intermediate_size": 32, "num_experts": 4,
      "num_experts_per_tok": 2})",
                               "small.json");
  CHECK(where(m, sparse) == std::vector<int>{1, 5, 7});
  CHECK(the(m.layers[3].dense).intermediate == 200);
  CHECK(the(m.layers[0].attention).qk_head_dim == 16);
}

TEST_CASE("Switch: encoder then decoder, every second block sparse, position bias in the first of each stack") {
  const Model m = load("switch-base-16");
  CHECK(m.layers.size() == 24);
  CHECK(where(m, sparse) == std::vector<int>{1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23});
  CHECK(where(m, [](const TransformerLayer& l) { return l.decoder; }).front() == 12);
  CHECK(where(m, [](const TransformerLayer& l) { return l.cross_attention.has_value(); }).size() == 12);
  CHECK(where(m, [](const TransformerLayer& l) { return the(l.attention).relative_buckets > 0; }) ==
        std::vector<int>{0, 12});
  CHECK(the(m.layers[12].cross_attention).relative_buckets == 0);
  CHECK(m.layers[0].norms == 2);
  CHECK(m.layers[12].norms == 3);
  CHECK(the(m.layers[1].moe).top_k == 1);
  CHECK_FALSE(the(m.layers[1].moe).expert.gated);
  CHECK(the(m.layers[1].moe).expert.activation == Activation::relu);
  CHECK(m.tied_embeddings);
  CHECK(m.weights == DType::f32);

  // 3 of 12 blocks: step 4, blocks 1, 5, 9; all of 2: step 1; none in the decoder would leave it dense
  const auto blocks = [](int layers, int sparse_layers) {
    return where(parse_config(R"({"model_type": "switch_transformers", "vocab_size": 100, "d_model": 8, "d_kv": 4,
                                  "d_ff": 16, "num_heads": 2, "num_experts": 4, "num_decoder_layers": 1,
                                  "num_sparse_decoder_layers": 0, "num_layers": )" +
                                  std::to_string(layers) + R"(, "num_sparse_encoder_layers": )" +
                                  std::to_string(sparse_layers) + "}",
                              "small.json"),
                 sparse);
  };
  CHECK(blocks(12, 3) == std::vector<int>{1, 5, 9});
  CHECK(blocks(2, 2) == std::vector<int>{0, 1});
}

TEST_CASE("the language model of a multimodal config; other spellings; null is as good as absent") {
  const Model nested = parse_config(R"({"model_type": "qwen3_5_moe", "vision_config": {"hidden_size": 1152},
      "tie_word_embeddings": true,
      "text_config": {"model_type": "qwen3_5_moe_text", "vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2,
        "dtype": "float16", "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "layer_types": ["full_attention", "linear_attention"],
        "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "linear_conv_kernel_dim": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 16,
        "num_experts": 4, "num_experts_per_tok": 2}})",
                                    "org/tiny/config.json");
  CHECK(nested.name == "tiny");
  CHECK(nested.hidden == 64);
  CHECK(nested.tied_embeddings);
  CHECK(nested.weights == DType::f16);
  CHECK(the(nested.layers[0].attention).kind == Attention::Kind::grouped_query);
  CHECK(the(nested.layers[1].attention).kind == Attention::Kind::linear);

  // DeepSeek-V3 is also found with num_routed_experts and num_shared_experts.
  const Model forked = parse_config(R"({"model_type": "deepseek_v3", "vocab_size": 100, "hidden_size": 64,
      "num_hidden_layers": 2, "num_attention_heads": 4, "q_lora_rank": null, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
      "qk_rope_head_dim": 4, "v_head_dim": 8, "intermediate_size": 96, "moe_intermediate_size": 32,
      "first_k_dense_replace": 1, "num_routed_experts": 4, "num_shared_experts": 2, "num_experts_per_tok": 2,
      "quantization_config": {"quant_method": "fp8"}})",
                                    "fork.json");
  CHECK(the(forked.layers[1].moe).experts == 4);
  CHECK(the(forked.layers[1].moe).shared.intermediate == 64);
  CHECK(the(forked.layers[1].attention).q_lora_rank == 0);
  CHECK(forked.expert_weights == DType::fp8);

  const auto attention = [](const std::string& field) {
    return the(parse_config(mixtral_with(field), "m.json").layers[1].attention);
  };
  CHECK(attention("").kv_heads == 4);
  CHECK(attention(R"("num_key_value_heads": null, "sliding_window": null)").kv_heads == 4);
  CHECK(attention(R"("sliding_window": 4096)").window == 4096);
  CHECK(attention(R"("head_dim": 32)").qk_head_dim == 32);
  CHECK(parse_config("\xEF\xBB\xBF" + mixtral_with(""), "m.json").hidden == 64);  // a byte order mark
  CHECK(parse_config(mixtral_with(R"("a \"quoted\" name:": [{"hidden_size": 1}, {"hidden_size": 2}])"), "m.json")
            .hidden == 64);  // no second hidden_size
}

TEST_CASE("the most experts that an ExpertIndex numbers are accepted, one more is not") {
  const auto experts = [](int n) { return mixtral_with("\"num_experts\": " + std::to_string(n)); };
  const auto only = [&](int n) {
    std::string text = experts(n);
    return text.erase(text.find("\"num_local_experts\": 8,"), 23);
  };
  CHECK(the(parse_config(only(65535), "m.json").layers[0].moe).experts == 65535);
  CHECK_THROWS_AS(parse_config(only(65536), "m.json"), InputError);
  CHECK(the(parse_config(only(2), "m.json").layers[0].moe).top_k == 2);  // top_k = experts
  CHECK_THROWS_AS(parse_config(only(1), "m.json"), InputError);
}

TEST_CASE("overrides: experts, top_k, layers, formats") {
  const Model v3 = load("deepseek-v3");
  CHECK(parameters(with_overrides(v3, {})).total == parameters(v3).total);

  const Model wide = load("switch-base-8", {.experts = 256});
  CHECK(parameters(wide).total == parameters(load("switch-base-256")).total);
  CHECK(parameters(load("mixtral-8x7b", {.experts = 16, .top_k = 16})).total ==
        parameters(load("mixtral-8x7b", {.experts = 16, .top_k = 16})).active);

  const Model four = with_overrides(v3, {.layers = 4});
  CHECK(four.layers.size() == 4);
  CHECK(four.moe_layers() == 1);
  const Model shallow = load("switch-base-8", {.layers = 2});  // of each stack
  CHECK(shallow.layers.size() == 4);
  CHECK(shallow.has_encoder());
  CHECK(shallow.has_decoder());
  CHECK(where(shallow, sparse) == std::vector<int>{1, 3});

  const Model oss = load("gpt-oss-20b");
  CHECK(with_overrides(oss, {.weights = DType::bf16}).expert_weights == DType::bf16);
  CHECK(with_overrides(oss, {.weights = DType::bf16}).expert_scale_block == 0);
  const Model mixed = with_overrides(v3, {.weights = DType::bf16, .expert_weights = DType::fp4});
  CHECK(mixed.weights == DType::bf16);
  CHECK(mixed.expert_weights == DType::fp4);
  CHECK(mixed.expert_scale_block == 32);
}

TEST_CASE("overrides that do not fit are refused at the place that asks for them") {
  const Model v3 = load("deepseek-v3");
  CHECK(complaint(v3, {.experts = 0}) == "study.toml:4:1: error: experts must be a whole number of 1 to 65535, is 0\n");
  CHECK(complaint(v3, {.layers = 2}) ==
        "study.toml:4:1: error: layers 2 leaves deepseek-v3 without an MoE layer\n"
        "  hint: its first MoE layer is number 4\n");
  CHECK(complaint(v3, {.experts = 100}).find("experts 100 do not divide into the 8 groups") != std::string::npos);
  CHECK(complaint(v3, {.experts = 8}).find("top_k 8 is above the 4 experts that a token may use") != std::string::npos);
  CHECK(complaint(v3, {.top_k = 129}).find("top_k 129 is above the 128 experts") != std::string::npos);
  CHECK(complaint(v3, {.weights = DType::i32}).find("i32 is no format for weights") != std::string::npos);
  const std::string all = complaint(v3, {.experts = -1, .top_k = 0, .layers = 62});
  CHECK(all.find("experts must be") != std::string::npos);
  CHECK(all.find("top_k must be") != std::string::npos);
  CHECK(all.find("layers must be a whole number of 1 to 61, is 62") != std::string::npos);
  CHECK(complaint(load("mixtral-8x7b"), {.experts = 2, .top_k = 3}).find("top_k 3 is above the 2") !=
        std::string::npos);
}
