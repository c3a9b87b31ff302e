// Attention blocks of the transformer skeleton: projections, rotary positions, the core, the output projection.
// Heads are sliced over the tp group; key/value heads are replicated where there are fewer of them than ranks.
#include <fmt/format.h>

#include <algorithm>

#include "strategies/transformer.hpp"

namespace moesim::strategies {

BufferId Transformer::kv_cache(const std::string& name, std::int64_t kv_len, std::int64_t cols, Shard shard) {
  // One row per cached token: sequences x kv_len.
  const Table& sequences = builder_.plan().table(sequence_rows_.table);
  Table rows(sequences.rows(), 1);
  for (int r = 0; r < sequences.rows(); ++r) {
    const std::int64_t cached = detail::checked_mul(sequences.at(r, 0), kv_len);
    if (cached > (std::int64_t{1} << 30))
      throw Infeasible(fmt::format("one rank would cache {} tokens; at most 2^30 are supported", cached));
    rows.at(r, 0) = static_cast<std::int32_t>(cached);
  }
  const Rows cached{0, builder_.table(std::move(rows))};
  return builder_.buffer(
      {name, BufferRole::kv_cache, Location::device, in_.workload.kv_cache, cached, cols, std::move(shard)});
}

BufferId Transformer::rotary(const std::string& name, Layer layer, std::vector<BufferId> reads, std::int64_t cols,
                             std::int64_t read_cols, std::int64_t write_cols, BufferId cache) {
  return op(name + ".rotary", Category::attention, layer, std::move(reads), token_rows_, cols, act(),
            Elementwise{Elementwise::Fn::rotary, token_rows_, read_cols, write_cols, act(), 0, {}}, compute_stream,
            BufferRole::activation, cache);
}

// DeepSeek-V2 (arXiv 2405.04434), section 2.1. Prefill expands the latent to keys and values; decode absorbs the
// expansions into the queries and the output, so that the core reads the latent itself.
std::vector<BufferId> Transformer::latent_projections(const Attention& a, Layer layer, const std::string& name,
                                                      std::int64_t heads, AttentionCore& core) {
  const DType w = in_.model.weights;
  const std::int64_t h = in_.model.hidden;
  const std::int64_t latent = a.kv_lora_rank + a.qk_rope_head_dim;
  const std::int64_t nope = a.qk_head_dim - a.qk_rope_head_dim;
  const auto product = [&](const char* part, BufferId x, std::int64_t n, std::int64_t k, Shard shard = {},
                           std::int64_t batch = 1) {
    return gemm(name + part, Category::attention, layer, x, token_rows_, n, k, w, batch, std::move(shard));
  };
  const auto norm = [&](const char* part, BufferId x, std::int64_t cols) {
    return op(name + part, Category::attention, layer, {x}, token_rows_, cols, act(),
              Elementwise{Elementwise::Fn::norm, token_rows_, cols, cols, act(), 0, {}});
  };
  BufferId q = normed_;
  if (a.q_lora_rank > 0) q = norm(".q_a_norm", product(".q_a", q, a.q_lora_rank, h), a.q_lora_rank);
  q = product(".q_b", q, heads * a.qk_head_dim, a.q_lora_rank > 0 ? a.q_lora_rank : h,
              column_slices({heads * a.qk_head_dim}));
  const BufferId kv = norm(".kv_a_norm", product(".kv_a", normed_, latent, h), latent);

  core.heads = heads;
  const std::int64_t rope_cols = (heads + 1) * a.qk_rope_head_dim;
  const BufferId cache = kv_cache(name + ".kv_cache", core.kv_len, latent, {});
  if (in_.workload.phase == Workload::Phase::decode) {
    const BufferId absorbed = product(".absorb_k", q, a.kv_lora_rank, nope, row_slices(), heads);
    core.kv_heads = 1;
    core.qk_dim = latent;
    core.v_dim = a.kv_lora_rank;
    core.kv_cols = latent;  // the latent serves as key and value
    return {rotary(name, layer, {absorbed, q, kv}, heads * latent, rope_cols, rope_cols + latent, cache), cache};
  }
  const std::int64_t expanded_cols = heads * (nope + a.v_head_dim);
  const BufferId expanded = product(".kv_b", kv, expanded_cols, a.kv_lora_rank, column_slices({expanded_cols}));
  core.kv_heads = heads;
  core.qk_dim = a.qk_head_dim;
  core.v_dim = a.v_head_dim;
  core.kv_cols = heads * (a.qk_head_dim + a.v_head_dim);
  q = rotary(name, layer, {q, kv}, heads * a.qk_head_dim, rope_cols, rope_cols + latent, cache);
  return {q, expanded, cache};
}

BufferId Transformer::attention(const Attention& a, Layer layer, const std::string& name, bool cross, bool causal) {
  const Workload& work = in_.workload;
  const DType w = in_.model.weights;
  const std::int64_t h = in_.model.hidden;
  const std::int64_t heads = divide(a.heads, tp_, "attention heads");
  const std::int64_t kv_heads = std::max<std::int64_t>(1, a.kv_heads / tp_);
  const std::int64_t kv_slices = std::min<std::int64_t>(tp_, a.kv_heads);
  if (kv_slices > 0 && (a.kv_heads % kv_slices != 0 || tp_ % kv_slices != 0))
    throw Infeasible(fmt::format("{} key/value heads fit {} tensor-parallel ranks neither way", a.kv_heads, tp_));

  AttentionCore core;
  core.sequences = sequence_rows_;
  core.q_len = work.new_tokens();
  core.kv_len = cross ? work.sequence_length : work.context();
  core.causal = causal && !cross;
  core.window = a.window;
  core.dtype = work.phase == Workload::Phase::train ? act() : work.kv_cache;
  core.math = natural_math(act());
  if (act() == DType::f32 && work.math) core.math = *work.math;

  std::vector<BufferId> core_reads;
  BufferId core_cache;  // that the core itself fills
  std::int64_t value_cols = heads * a.v_head_dim;
  switch (a.kind) {
    case Attention::Kind::latent:
      core_reads = latent_projections(a, layer, name, heads, core);
      break;
    case Attention::Kind::grouped_query: {
      const std::int64_t q_cols = heads * a.qk_head_dim * (a.output_gate ? 2 : 1);
      const std::int64_t kv_cols = kv_heads * (a.qk_head_dim + a.v_head_dim);
      core.heads = heads;
      core.kv_heads = kv_heads;
      core.qk_dim = a.qk_head_dim;
      core.v_dim = a.v_head_dim;
      core.kv_cols = kv_cols;
      // Keys and values of the encoded input are cached before the first decoder step.
      const std::int64_t n = cross ? q_cols : q_cols + kv_cols;
      // Columns: queries, with an output gate their gates, keys, values; each by head.
      Shard kv = column_slices({kv_heads * a.qk_head_dim, kv_heads * a.v_head_dim});
      for (Shard::Section& s : kv.sections) s.slices = kv_slices;
      Shard qkv = column_slices(std::vector(a.output_gate ? 2 : 1, heads * a.qk_head_dim));
      if (!cross) qkv.sections.insert(qkv.sections.end(), kv.sections.begin(), kv.sections.end());
      BufferId q =
          gemm(name + (cross ? ".q" : ".qkv"), Category::attention, layer, normed_, token_rows_, n, h, w, 1, qkv);
      if (cross) weight(name + ".kv.weight", Rows{h, {}}, kv_cols, w, kv);
      BufferId cache;
      if (work.phase != Workload::Phase::encode && work.phase != Workload::Phase::train) {
        const std::int64_t kept = core.window > 0 ? std::min(core.window, core.kv_len) : core.kv_len;
        cache = kv_cache(name + ".kv_cache", kept, kv_cols, kv);
      }
      if (rotary_ && !cross) {
        const std::int64_t touched = heads * a.qk_head_dim + kv_cols;
        q = rotary(name, layer, {q}, n, touched, touched, cache);
      } else if (!cross) {
        core_cache = cache;
      }
      core_reads = {q};
      if (cache.valid()) core_reads.push_back(cache);
      break;
    }
    case Attention::Kind::linear: {
      // Gated delta net (arXiv 2412.06464): query, key, value and gate projections, a short convolution, and a state of
      // [value heads, key width, value width] that every token reads and writes; chunked kernels keep it on chip.
      const std::int64_t key_heads = divide(a.linear_key_heads, tp_, "linear-attention key heads");
      const std::int64_t mixed = 2 * key_heads * a.qk_head_dim + heads * a.v_head_dim;
      const std::int64_t n = mixed + heads * a.v_head_dim + 2 * heads;
      const std::int64_t key_cols = key_heads * a.qk_head_dim;
      const Shard slices = column_slices({key_cols, key_cols, value_cols, value_cols, heads, heads});
      const BufferId x = gemm(name + ".qkvz", Category::attention, layer, normed_, token_rows_, n, h, w, 1, slices);
      // Per token and value head: decay, read, outer-product write and output of a key x value state: 2 flops each.
      const std::int64_t state_flops = 8 * heads * a.qk_head_dim * a.v_head_dim + 2 * mixed * a.linear_conv_width;
      const BufferId y =
          op(name + ".delta_rule", Category::attention, layer, {x}, token_rows_, value_cols, act(),
             Elementwise{Elementwise::Fn::delta_rule, token_rows_, n, value_cols, act(), state_flops, {}});
      return gemm(name + ".output", Category::attention, layer, y, token_rows_, h, value_cols, w, 1, row_slices());
    }
  }
  BufferId o = op(name + ".core", Category::attention, layer, core_reads, token_rows_, core.heads * core.v_dim, act(),
                  core, compute_stream, BufferRole::activation, core_cache);
  if (a.kind == Attention::Kind::latent && work.phase == Workload::Phase::decode)
    o = gemm(name + ".absorb_v", Category::attention, layer, o, token_rows_, a.v_head_dim, a.kv_lora_rank, w, heads,
             row_slices());
  return gemm(name + ".output", Category::attention, layer, o, token_rows_, h, value_cols, w, 1, row_slices());
}

}  // namespace moesim::strategies
