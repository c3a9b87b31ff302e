// What the ops that only a training step has are on one rank, as call.hpp has it for the others. docs/plan_format.md,
// "Training", defines what each computes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "backend/attention_shape.hpp"
#include "backend/row_calls.hpp"
#include "backend/row_map.hpp"
#include "backend/tensor.hpp"
#include "moesim/plan.hpp"

namespace moesim::backend {

// ---- products; transposed: w and dw are [n, k] (a tied embedding table) ----

struct InputGradientCall {
  Gemm work;
  Tensor dy, w, dx;
  bool transposed = false;
};
struct WeightGradientCall {
  Gemm work;
  Tensor x, dy, dw;
  bool transposed = false;
};
// rows: of each group; the plan's.
struct GroupedInputGradientCall {
  GroupedGemm work;
  std::span<const std::int32_t> rows;
  Tensor dy, w, dx;
};
struct GroupedWeightGradientCall {
  GroupedGemm work;
  std::span<const std::int32_t> rows;
  Tensor x, dy, dw;
};

// ---- attention and rows ----

struct AttentionGradientCall {
  AttentionShape form;
  Tensor d_o, x, dx;
};
// y = norm(x) w, and where x goes on as a residual its gradient `dr` joins.
struct NormGradientCall {
  Tensor dy, x, w;
  std::optional<Tensor> dr;
  Tensor dx, dw;
};
// ids[i]: row of the table that row i came from, or -1.
struct EmbeddingGradientCall {
  std::vector<std::int64_t> ids;
  Tensor dy, dtable;
};
// targets[i]: the id that row i should predict.
struct LossCall {
  std::vector<std::int64_t> targets;
  Tensor logits, loss;
};
// Of the mean loss over `tokens`, all ranks together.
struct LossGradientCall {
  std::vector<std::int64_t> targets;
  std::int64_t tokens = 0;
  Tensor logits, dlogits;
};

// ---- the gate: in a training step softmax(scores) weights the experts that the routing chose ----

// experts: [tokens, top_k].
struct GateCall {
  std::vector<ExpertIndex> experts;
  Tensor scores, choice;
};
struct GateGradientCall {
  std::vector<ExpertIndex> experts;
  Tensor dchoice, scores, dscores;
};
// The permute from copies to tokens, weighted by the choice's gates, and its adjoint. map.gate says which.
struct CombineCall {
  Permute work;
  RowMap map;
  Tensor x, choice, y;
};
struct CombineGradientCall {
  Permute work;
  RowMap map;
  Tensor dy, choice, copies, dcopies, dchoice;
};

// ---- parameters ----

// step counts from 1.
struct AdamCall : AdamRule {
  // state: rows of [master weight where the weight is not float32, first moment, second moment].
  struct Parameter {
    Tensor gradient, weight, state;
  };
  std::vector<Parameter> parameters;
  int step = 1;
};
// A sum in place over the members: all_reduce, or the sparse_reduce_scatter that keeps replicas equal.
struct SumCall {
  Collective work;
  std::vector<Tensor> buffers;
};
// Experts that change owner: rows of `before`, held under placement work.from, to `after` under work.to.
struct MoveCall {
  struct Part {
    Tensor before, after;
    std::int64_t matrix_rows = 0;
  };
  Collective work;
  std::vector<Part> parts;
};

using TrainingCall = std::variant<InputGradientCall, WeightGradientCall, GroupedInputGradientCall,
                                  GroupedWeightGradientCall, AttentionGradientCall, NormGradientCall,
                                  ActivationGradientCall, EmbeddingGradientCall, LossCall, LossGradientCall, GateCall,
                                  GateGradientCall, CombineCall, CombineGradientCall, AdamCall, SumCall, MoveCall>;

}  // namespace moesim::backend
