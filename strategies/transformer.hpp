// What every strategy shares: the transformer around the MoE layers. A strategy says how many consecutive ranks slice
// the dense parts (tensor parallelism, Megatron-LM, arXiv 1909.08053) and supplies the MoE layer; the skeleton adds
// embedding, attention, dense feed-forward blocks, normalization and the output head.
//
// Ranks [i * tp, (i + 1) * tp) replicate the tokens of owner i; sequences are dealt to owners evenly.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "plan/builder.hpp"
#include "strategies/strategy.hpp"

namespace moesim::strategies {

inline constexpr int compute_stream = 0;
inline constexpr int communication_stream = 1;
inline constexpr int copy_stream = 2;
inline constexpr int parameter_stream = 3;  // gathered parameters and reduced gradients: a communicator of their own

// One MoE layer as the strategy sees it.
struct MoeLayer {
  Layer layer;
  int index = 0;  // counted over MoE layers: the routing's layer
  const MoeBlock* block = nullptr;
  BufferId x;  // normalized tokens [token rows, hidden]
  std::string prefix;
  // Adds the shared expert's ops here, so that they overlap with what is under way on other streams (a dispatch). They
  // come after the routed experts otherwise. Does nothing in a model without a shared expert.
  std::function<void()> add_shared_expert;
};

class Transformer {
 public:
  Transformer(const Input& input, int tp);

  // The whole model. `moe` adds the routed experts of one layer and returns their output [token rows, hidden]: a
  // partial sum over the tp group when tp > 1, which the skeleton reduces together with the shared expert's.
  // In phase train the backward pass and the optimizer follow (training.hpp).
  Plan build(const std::function<BufferId(const MoeLayer&)>& moe);
  // Adds ops before each MoE layer's attention, so that they run beside it. Its MoeLayer has no x yet.
  void before_each_layer(std::function<void(const MoeLayer&)> add) { before_layer_ = std::move(add); }
  // The backward pass runs this op again instead of keeping what it wrote.
  void run_again(OpId op) { again_.push_back(op); }

  // ---- for MoE layers ----
  [[nodiscard]] const Input& input() const { return in_; }
  [[nodiscard]] PlanBuilder& plan() { return builder_; }
  [[nodiscard]] int ranks() const { return in_.cluster.ranks(); }
  [[nodiscard]] int tp() const { return tp_; }
  [[nodiscard]] const TokenRanges& tokens() const { return builder_.plan().tokens; }
  [[nodiscard]] Rows token_rows() const { return token_rows_; }
  [[nodiscard]] GroupsId tp_groups() const { return tp_groups_; }
  [[nodiscard]] DType act() const { return in_.workload.activations; }
  // The pipeline for a product with weights of this type: the workload's wish, else the weights' own, else (a GPU
  // without it) 16-bit, as frameworks dequantize.
  [[nodiscard]] Math math_for(DType weight) const;

  BufferId activation(std::string name, Rows rows, std::int64_t cols, DType dtype,
                      BufferRole role = BufferRole::activation);
  BufferId weight(std::string name, Rows rows, std::int64_t cols, DType dtype, Shard shard = {});
  // Adam's two moments in float32, behind a master weight where the weight is not float32 itself; one per weight.
  BufferId optimizer_state(BufferId weight);
  // Adds an op that writes one new buffer, and `cache` where it is valid, and returns the new one, named as the op.
  BufferId op(std::string name, Category category, Layer layer, std::vector<BufferId> reads, Rows rows,
              std::int64_t cols, DType dtype, const Work& work, int stream = compute_stream,
              BufferRole role = BufferRole::activation, BufferId cache = {});
  BufferId gemm(std::string name, Category category, Layer layer, BufferId x, Rows m, std::int64_t n, std::int64_t k,
                DType weight, std::int64_t batch = 1, Shard shard = {});
  // What a rank of a tensor-parallel group holds of a weight: its slice of every section of columns, or of the rows.
  [[nodiscard]] Shard column_slices(const std::vector<std::int64_t>& sections) const;
  [[nodiscard]] Shard row_slices() const;
  BufferId all_reduce(std::string name, Category category, Layer layer, BufferId x, Rows rows, std::int64_t cols);
  // Up (and gate), activation, down. `slices`: ranks that share the block; the result is a partial sum when > 1.
  BufferId feed_forward(const std::string& name, Category category, Layer layer, BufferId x, const FeedForward& block,
                        DType weight, int slices);
  // Router scores and the choice of top_k experts: [token rows, 2 top_k] ids and weights.
  BufferId gate(const MoeLayer& moe);

 private:
  void embedding();
  void add_norm(const std::string& name, Layer layer, BufferId delta);
  BufferId attention(const Attention& a, Layer layer, const std::string& name, bool cross, bool causal);
  // Returns what the core reads.
  std::vector<BufferId> latent_projections(const Attention& a, Layer layer, const std::string& name, std::int64_t heads,
                                           AttentionCore& core);
  BufferId kv_cache(const std::string& name, std::int64_t kv_len, std::int64_t cols, Shard shard);
  BufferId rotary(const std::string& name, Layer layer, std::vector<BufferId> reads, std::int64_t cols,
                  std::int64_t read_cols, std::int64_t write_cols, BufferId cache);
  void head();

  const Input& in_;
  int tp_;
  bool rotary_;  // no learned positions: rotary ones
  PlanBuilder builder_;
  Rows token_rows_;
  Rows sequence_rows_;
  GroupsId tp_groups_;
  BufferId embedding_;  // the table, for tied heads
  BufferId residual_;
  BufferId normed_;
  std::function<void(const MoeLayer&)> before_layer_;
  std::vector<OpId> again_;
  std::map<BufferId, BufferId> states_;
};

// x / y, or Infeasible naming `what` when it does not divide.
std::int64_t divide(std::int64_t x, std::int64_t y, std::string_view what);

// A count as tables hold it, or Infeasible: one step has more token copies than that.
std::int32_t to_count(std::int64_t copies);

// A row of counts per rank from a row per token owner.
Table by_rank(const Table& owners, const Plan& plan);

// Groups of `size` consecutive ranks. Throws Infeasible when the ranks do not divide; size 0 = all ranks.
Groups consecutive_groups(int ranks, std::int64_t size);

}  // namespace moesim::strategies
