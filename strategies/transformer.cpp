#include "strategies/transformer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "strategies/training.hpp"

namespace moesim::strategies {
namespace {

Plan header(const Input& in, int tp) {
  const int ranks = in.cluster.ranks();
  if (tp < 1 || ranks % tp != 0) throw Infeasible(fmt::format("{} ranks do not divide into groups of {}", ranks, tp));
  const auto owners = static_cast<std::size_t>(ranks / tp);
  Plan plan;
  plan.strategy = in.label;
  plan.model = in.model.name;
  plan.workload = to_string(in.workload);
  plan.options = in.options.printed();
  plan.ranks = ranks;
  plan.routing = in.routing.description();
  plan.routing_synthetic = in.routing.synthetic();
  plan.tokens = TokenRanges::even(in.workload.sequences, owners);
  for (std::int64_t& begin : plan.tokens.begin) begin = detail::checked_mul(begin, in.workload.new_tokens());
  for (int r = 0; r < ranks; ++r) plan.owner_of_rank.push_back(r / tp);
  return plan;
}

// A table of one count per rank.
Table per_rank(const Plan& plan, std::int64_t divisor) {
  Table t(plan.ranks, 1);
  for (int r = 0; r < plan.ranks; ++r)
    t.at(r, 0) = static_cast<std::int32_t>(
        plan.tokens.count(static_cast<std::size_t>(plan.owner_of_rank[static_cast<std::size_t>(r)])) / divisor);
  return t;
}

bool learns_positions(const Model& model) {
  return model.positions > 0 || std::ranges::any_of(model.layers, [](const TransformerLayer& t) {
           return t.attention && t.attention->relative_buckets > 0;
         });
}

constexpr std::int64_t max_tokens_per_owner = std::int64_t{1} << 30;

}  // namespace

std::int64_t divide(std::int64_t x, std::int64_t y, std::string_view what) {
  if (y < 1 || x % y != 0) throw Infeasible(fmt::format("{} {} do not divide over {} ranks", x, what, y));
  return x / y;
}

std::int32_t to_count(std::int64_t copies) {
  if (copies > std::numeric_limits<std::int32_t>::max())
    throw Infeasible(fmt::format(
        "one step would move {} token copies to one place; at most 2^31 - 1 are supported: split it into steps",
        copies));
  return static_cast<std::int32_t>(copies);
}

Table by_rank(const Table& owners, const Plan& plan) {
  Table out(plan.ranks, owners.cols());
  for (int r = 0; r < plan.ranks; ++r) {
    const auto from = owners.row(plan.owner_of_rank[static_cast<std::size_t>(r)]);
    std::ranges::copy(from, out.row(r).begin());
  }
  return out;
}

Groups consecutive_groups(int ranks, std::int64_t size) {
  const std::int64_t n = size == 0 ? ranks : size;
  if (n > ranks || ranks % n != 0) throw Infeasible(fmt::format("{} ranks do not divide into groups of {}", ranks, n));
  Groups groups;
  for (int r = 0; r < ranks; ++r) {
    if (r % n == 0) groups.emplace_back();
    groups.back().emplace_back(r);
  }
  return groups;
}

Transformer::Transformer(const Input& input, int tp)
    : in_(input), tp_(tp), rotary_(!learns_positions(input.model)), builder_(header(input, tp)) {
  const Plan& plan = builder_.plan();
  for (std::size_t i = 0; i < plan.tokens.owners(); ++i)
    if (plan.tokens.count(i) > max_tokens_per_owner)
      throw Infeasible(fmt::format("one rank would hold {} tokens; at most {} are supported", plan.tokens.count(i),
                                   max_tokens_per_owner));
  token_rows_ = Rows{0, builder_.table(per_rank(plan, 1))};
  sequence_rows_ = Rows{0, builder_.table(per_rank(plan, in_.workload.new_tokens()))};
  Groups groups;
  for (int r = 0; r < plan.ranks; ++r) {
    if (r % tp == 0) groups.emplace_back();
    groups.back().emplace_back(r);
  }
  tp_groups_ = builder_.groups(groups);
}

Math Transformer::math_for(DType weight) const {
  if (in_.workload.math) return *in_.workload.math;
  const Math natural = natural_math(weight);
  for (const Math m : {natural, natural_math(act()), Math::bf16, Math::f16, Math::f32})
    if (in_.cluster.gpu.peak_of(m)) return m;
  return natural;
}

BufferId Transformer::activation(std::string name, Rows rows, std::int64_t cols, DType dtype, BufferRole role) {
  return builder_.buffer({std::move(name), role, Location::device, dtype, rows, cols});
}

BufferId Transformer::weight(std::string name, Rows rows, std::int64_t cols, DType dtype, Shard shard) {
  return builder_.buffer({std::move(name), BufferRole::weight, Location::device, dtype, rows, cols, std::move(shard)});
}

BufferId Transformer::optimizer_state(BufferId weight) {
  if (const auto known = states_.find(weight); known != states_.end()) return known->second;
  Buffer state = builder_.plan().buffer(weight);
  state.name += ".adam";
  state.role = BufferRole::optimizer;
  state.cols *= state.dtype == DType::f32 ? 2 : 3;
  state.dtype = DType::f32;
  state.shard.sections.clear();
  return states_[weight] = builder_.buffer(std::move(state));
}

Shard Transformer::column_slices(const std::vector<std::int64_t>& sections) const {
  Shard shard;
  if (tp_ == 1) return shard;
  shard.groups = tp_groups_;
  for (const std::int64_t cols : sections) shard.sections.push_back({cols, tp_});
  return shard;
}

Shard Transformer::row_slices() const {
  Shard shard;
  if (tp_ == 1) return shard;
  shard.groups = tp_groups_;
  shard.by_rows = true;
  return shard;
}

BufferId Transformer::op(std::string name, Category category, Layer layer, std::vector<BufferId> reads, Rows rows,
                         std::int64_t cols, DType dtype, const Work& work, int stream, BufferRole role,
                         BufferId cache) {
  const BufferId out = activation(name, rows, cols, dtype, role);
  std::vector<BufferId> writes{out};
  if (cache.valid()) writes.push_back(cache);
  builder_.add(
      {std::move(name), category, Pass::forward, layer, stream, {}, std::move(reads), std::move(writes), work});
  return out;
}

BufferId Transformer::gemm(std::string name, Category category, Layer layer, BufferId x, Rows m, std::int64_t n,
                           std::int64_t k, DType weight_type, std::int64_t batch, Shard shard) {
  const BufferId w = weight(name + ".weight", Rows{batch * k, {}}, n, weight_type, std::move(shard));
  // Operands of an 8-bit product are quantized by the kernel that makes them.
  const Math math = math_for(weight_type);
  const DType in = math == Math::fp8 || math == Math::int8 ? weight_type : act();
  return op(std::move(name), category, layer, {x, w}, m, batch * n, act(),
            Gemm{m, batch, n, k, in, weight_type, act(), math});
}

BufferId Transformer::all_reduce(std::string name, Category category, Layer layer, BufferId x, Rows rows,
                                 std::int64_t cols) {
  return op(std::move(name), category, layer, {x}, rows, cols, act(),
            Collective{Collective::Kind::all_reduce,
                       Collective::Algorithm::automatic,
                       tp_groups_,
                       rows.table,
                       cols,
                       act(),
                       0,
                       {},
                       {}},
            communication_stream, BufferRole::communication);
}

BufferId Transformer::feed_forward(const std::string& name, Category category, Layer layer, BufferId x,
                                   const FeedForward& block, DType weight_type, int slices) {
  const std::int64_t width = divide(block.intermediate, slices, "feed-forward columns");
  const std::int64_t h = in_.model.hidden;
  const std::vector<std::int64_t> halves(block.gated ? 2 : 1, width);
  BufferId up = gemm(name + ".up", category, layer, x, token_rows_, block.gated ? 2 * width : width, h, weight_type, 1,
                     column_slices(halves));
  const auto fn = block.gated ? Elementwise::Fn::gated : Elementwise::Fn::activation;
  up = op(name + ".activation", category, layer, {up}, token_rows_, width, act(),
          Elementwise{fn, token_rows_, block.gated ? 2 * width : width, width, act(), 0, block.activation});
  return gemm(name + ".down", category, layer, up, token_rows_, h, width, weight_type, 1, row_slices());
}

BufferId Transformer::gate(const MoeLayer& moe) {
  const std::int64_t experts = moe.block->experts + moe.block->zero_experts;
  const std::int64_t k = moe.block->top_k;
  const BufferId scores =
      gemm(moe.prefix + ".router", Category::gate, moe.layer, moe.x, token_rows_, experts, in_.model.hidden, act());
  return op(moe.prefix + ".top_k", Category::gate, moe.layer, {scores}, token_rows_, 2 * k, DType::f32,
            Elementwise{Elementwise::Fn::top_k, token_rows_, experts, 2 * k, act(), 0, {}});
}

void Transformer::embedding() {
  const std::int64_t h = in_.model.hidden;
  Shard slices = row_slices();
  if (tp_ > 1) slices.tensor_rows = in_.model.vocabulary;
  embedding_ = weight("embedding.table", Rows{(in_.model.vocabulary + tp_ - 1) / tp_, {}}, h, in_.model.weights,
                      std::move(slices));
  residual_ = op("embedding", Category::embedding, Layer{}, {embedding_}, token_rows_, h, act(),
                 Elementwise{Elementwise::Fn::embedding, token_rows_, h, h, act(), 0, {}});
  if (tp_ > 1) residual_ = all_reduce("embedding.all_reduce", Category::embedding, Layer{}, residual_, token_rows_, h);
}

void Transformer::add_norm(const std::string& name, Layer layer, BufferId delta) {
  const std::int64_t h = in_.model.hidden;
  const BufferId w = weight(name + ".weight", Rows{1, {}}, h, act());
  const Category category = layer.valid() ? Category::dense : Category::embedding;
  if (!delta.valid()) {  // nothing to add yet
    normed_ = op(name, category, layer, {residual_, w}, token_rows_, h, act(),
                 Elementwise{Elementwise::Fn::norm, token_rows_, h, h, act(), 0, {}});
    return;
  }
  const BufferId sum = activation(name + ".residual", token_rows_, h, act());
  const BufferId out = activation(name, token_rows_, h, act());
  builder_.add({name,
                category,
                Pass::forward,
                layer,
                compute_stream,
                {},
                {residual_, delta, w},
                {sum, out},
                Elementwise{Elementwise::Fn::add_norm, token_rows_, 2 * h, 2 * h, act(), 0, {}}});
  residual_ = sum;
  normed_ = out;
}

void Transformer::head() {
  const std::int64_t h = in_.model.hidden;
  const bool train = in_.workload.phase == Workload::Phase::train;
  // Training asks every token for its successor, inference only the last of a sequence.
  const Rows asked = train ? token_rows_ : sequence_rows_;
  const BufferId last = train ? normed_
                              : op("head.last_token", Category::embedding, Layer{}, {normed_}, sequence_rows_, h, act(),
                                   Elementwise{Elementwise::Fn::last_token, sequence_rows_, h, h, act(), 0, {}});
  const std::int64_t vocabulary = (in_.model.vocabulary + tp_ - 1) / tp_;
  const BufferId table = in_.model.tied_embeddings ? embedding_
                                                   : weight("head.weight", Rows{h, {}}, vocabulary, in_.model.weights,
                                                            column_slices({vocabulary}));
  const DType w = in_.model.weights;
  const BufferId logits = op("head", Category::embedding, Layer{}, {last, table}, asked, vocabulary, act(),
                             Gemm{asked, 1, vocabulary, h, act(), w, act(), math_for(w)});
  if (train)
    op("loss", Category::embedding, Layer{}, {logits}, asked, 1, DType::f32,
       Elementwise{Elementwise::Fn::cross_entropy, asked, vocabulary, 1, act(), 0, {}});
  if (tp_ > 1)
    op("head.all_gather", Category::embedding, Layer{}, {logits}, sequence_rows_, vocabulary * tp_, act(),
       Collective{Collective::Kind::all_gather_v,
                  Collective::Algorithm::automatic,
                  tp_groups_,
                  sequence_rows_.table,
                  vocabulary,
                  act(),
                  0,
                  {},
                  {}},
       communication_stream, BufferRole::communication);
}

Plan Transformer::build(const std::function<BufferId(const MoeLayer&)>& moe) {
  const Workload::Phase phase = in_.workload.phase;
  const bool encode = phase == Workload::Phase::encode;
  const bool train = phase == Workload::Phase::train;
  const Model& model = in_.model;
  if (train) check_trainable(*this);
  if (encode && !model.has_encoder())
    throw Infeasible(fmt::format("{} has no encoder to run the phase 'encode'; use 'prefill'", model.name));
  if (phase == Workload::Phase::prefill && model.has_encoder())
    throw Infeasible(
        fmt::format("{} is an encoder-decoder: 'encode' runs its encoder, 'decode' one decoder step", model.name));
  embedding();
  BufferId delta;
  int moe_index = 0;
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const TransformerLayer& t = model.layers[i];
    const int this_moe = moe_index;
    moe_index += t.moe ? 1 : 0;
    if (!train && t.decoder == encode) continue;
    const Layer layer(i);
    const std::string name = fmt::format("l{}", i);
    if (t.moe && before_layer_) before_layer_({layer, this_moe, &*t.moe, {}, name + ".moe", {}});
    const auto block = [&](const char* part, auto&& body) {
      add_norm(fmt::format("{}.{}_norm", name, part), layer, delta);
      delta = body();
    };
    const auto reduced = [&](BufferId y, Category category, const std::string& what) {
      return tp_ == 1 ? y
                      : all_reduce(name + "." + what + ".all_reduce", category, layer, y, token_rows_, model.hidden);
    };
    if (t.attention)
      block("attention", [&] {
        return reduced(attention(*t.attention, layer, name + ".attention", false, t.decoder), Category::attention,
                       "attention");
      });
    if (t.cross_attention)
      block("cross_attention", [&] {
        return reduced(attention(*t.cross_attention, layer, name + ".cross_attention", true, false),
                       Category::attention, "cross_attention");
      });
    if (t.dense)
      block("ffn", [&] {
        return reduced(feed_forward(name + ".ffn", Category::dense, layer, normed_, *t.dense, model.weights, tp_),
                       Category::dense, "ffn");
      });
    if (t.moe)
      block("moe", [&] {
        const bool has_shared = t.moe->shared.intermediate > 0;
        BufferId shared;
        const auto add_shared_expert = [&] {
          if (has_shared && !shared.valid())
            shared =
                feed_forward(name + ".moe.shared", Category::dense, layer, normed_, t.moe->shared, model.weights, tp_);
        };
        BufferId y = moe({layer, this_moe, &*t.moe, normed_, name + ".moe", add_shared_expert});
        add_shared_expert();
        if (has_shared)
          y = op(name + ".moe.add_shared", Category::dense, layer, {y, shared}, token_rows_, model.hidden, act(),
                 Elementwise{Elementwise::Fn::add, token_rows_, 2 * model.hidden, model.hidden, act(), 0, {}});
        return reduced(y, Category::combine, "moe");
      });
  }
  add_norm("final_norm", Layer{}, delta);
  if (!encode) head();
  if (train) add_training_step(*this, again_);
  return std::move(builder_).finish();
}

}  // namespace moesim::strategies
