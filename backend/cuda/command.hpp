// What a rank asks of its GPU, one value per launch or per group of NCCL calls. Addresses are device memory, tables
// included; shapes have been checked (backend/bind.cpp). Nothing here needs CUDA, so that a lowered Plan can be read,
// and carried out by the processor, without a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <variant>
#include <vector>

#include "backend/attention_shape.hpp"
#include "backend/row_calls.hpp"
#include "backend/tensor.hpp"
#include "moesim/dtype.hpp"
#include "moesim/model.hpp"

namespace moesim::backend::gpu {

// ---- products, by cuBLAS; matrices are row-major ----

// Y[m, n] = X[m, k] W[k, n] in each of `batch` parts: part b of X and Y are their columns [b cols / batch, ...), of
// which X's first k count, part b of W its rows [b k, (b + 1) k). transposed: W is [n, k]; x_transposed: X is [k, m].
// adds: to what Y holds.
struct Product {
  std::int64_t m = 0, n = 0, k = 0, batch = 1;
  Math math = Math::bf16;
  bool transposed = false;
  Tensor x, w, y;
  bool x_transposed = false;
  bool adds = false;
};
// All groups in one call; none is empty. Y[m, n] = X[m, k] W[k, n] with m of each group; transposed: W is [n, k];
// x_transposed: Y[k, n] = X[m, k]^T W[m, n]. addresses: a table on the device, those of all W, of all X and of all Y.
struct GroupedProduct {
  struct Group {
    std::int64_t m = 0;
    const std::byte* x = nullptr;
    const std::byte* w = nullptr;
    std::byte* y = nullptr;
  };
  std::int64_t n = 0, k = 0;
  Math math = Math::bf16;
  DType x = DType::bf16, w = DType::bf16, y = DType::bf16;
  std::vector<Group> groups;
  const std::byte* addresses = nullptr;
  bool transposed = false;
  bool x_transposed = false;
};

// One of its groups.
inline Product product_of(const GroupedProduct& c, const GroupedProduct::Group& g) {
  const auto at = [](const std::byte* p, DType t, std::int64_t rows, std::int64_t cols) {
    return Tensor{const_cast<std::byte*>(p), t, rows, cols};
  };
  const Tensor x = at(g.x, c.x, g.m, c.k);
  if (c.x_transposed) return {c.k, c.n, g.m, 1, c.math, false, x, at(g.w, c.w, g.m, c.n), at(g.y, c.y, c.k, c.n), true};
  const Tensor w = c.transposed ? at(g.w, c.w, c.n, c.k) : at(g.w, c.w, c.k, c.n);
  return {g.m, c.n, c.k, 1, c.math, c.transposed, x, w, at(g.y, c.y, g.m, c.n)};
}

// ---- kernels of our own (bodies.hpp) ----

// Row i of y, first <= i < first + rows: the sum of weight[t] * row from[t] of x over begin[i] <= t < begin[i + 1];
// without weights all are 1, without terms the row is zero. gate: the weight of term t is weight[gate[t]].
struct MoveRows {
  const std::int64_t* begin = nullptr;
  const std::int32_t* from = nullptr;
  const float* weight = nullptr;
  std::int64_t first = 0, rows = 0;
  Tensor x, y;
  const std::int32_t* gate = nullptr;
};
// y = norm(a + b) * w, and a + b to `sum`; b and sum, or w, may be missing (no address). eps = 1e-6.
struct Normalize {
  Tensor a, b, w, sum, y;
};
// y = sum of the terms, each of y's elements in its own format, summed in float in their order and rounded once.
struct Sum {
  static constexpr std::size_t most = 128;
  struct Term {
    const std::byte* data;
    DType dtype;
  };
  std::vector<Term> terms;  // at most `most`
  std::int64_t elements = 0;
  DType dtype = DType::f32;
  std::byte* y = nullptr;
};
// y = x / scale with scale = max |x| / 448 over each 128 columns, as fp8; after the columns of a row, its scales as
// float32 (DeepEP's layout). y.cols = x.cols + 4 ceil(x.cols / 128).
struct Quantize {
  Tensor x, y;
};
// ids[i]: row of the table, or -1 for zeros.
struct Embed {
  const std::int64_t* ids = nullptr;
  Tensor table, y;
};
// The k largest scores of each row by falling score (ties: the lower id first), as ids, then their softmax weights over
// all scores. With a choice [rows, 2 k] that is written instead - a Plan's counts follow from its routing - and a score
// that is not finite makes it NaN.
struct Gate {
  int k = 0;
  const float* choice = nullptr;
  Tensor scores, y;
};
struct Attend {
  AttentionShape shape;
  Tensor x, expanded, cache, o;
};
struct Rotate {
  AttentionShape shape;
  const float* turns = nullptr;
  Tensor x, y;
};
struct StoreKeys {
  AttentionShape shape;
  Tensor x, cache;
};
struct RotateLatent {
  AttentionShape shape;
  const float* turns = nullptr;
  Tensor absorbed, q, latent, y, cache;
};
// A rank's part of a logical matrix, by backend/number.hpp. experts[i]: of matrix i of a stack; missing: i itself.
struct Fill {
  std::uint64_t name = 0;
  float scale = 1, offset = 0;
  const std::int64_t* experts = nullptr;
  std::int64_t matrix_rows = 0, first_row = 0;
  const std::int64_t* cols = nullptr;
  Tensor y;
};
// A launch without work: the operations of a framework that only prepare indices.
struct Nothing {};

// ---- of a training step; docs/plan_format.md, "Training" ----

// r = 1 / rms(x), g = dy w: dx = r (g - x r^2 mean(g x)) + dr, where there is a dr. Row p of `parts` (float32) is the
// sum of dy x r over the p-th of as many equal parts of the rows, none empty; dw is their sum.
struct NormGradient {
  Tensor dy, x, w, dr, dx, parts;
};
// With tokens = 0 the loss of a row, y[i, 0] = -log softmax(logits[i])[target[i]]; else its gradient,
// y = (softmax(logits) - [target]) / tokens.
struct CrossEntropy {
  const std::int64_t* targets = nullptr;
  std::int64_t tokens = 0;
  Tensor logits, y;
};
// y[i]: the k experts as numbers, then softmax(scores[i]) at them. experts: [rows, k].
struct GateWeights {
  int k = 0;
  const std::int32_t* experts = nullptr;
  Tensor scores, y;
};
// d gate: the last k columns of dchoice. dscores_e = p_e (d gate_e - sum over the chosen of d gate p), p = softmax.
struct GateGradient {
  int k = 0;
  const std::int32_t* experts = nullptr;
  Tensor dchoice, scores, dscores;
};
// Row i is a copy, of row t = from[begin[i]] with the gate choice[gate[begin[i]]], or padding (begin[i] = begin[i +
// 1]): dcopies[i] = gate * dy[t]; dchoice at that element = dy[t] . copies[i]. dchoice's other elements stay.
struct CombineGradient {
  const std::int64_t* begin = nullptr;
  const std::int32_t* from = nullptr;
  const std::int32_t* gate = nullptr;
  Tensor dy, choice, copies, dcopies, dchoice;
};
// The gradient of self attention without a cache. room: 3 floats for each query and head.
struct AttendGradient {
  AttentionShape shape;
  Tensor d_o, x, dx;
  float* room = nullptr;
};
// One step (AdamRule) of rows [master weight where the weight is not float32, first moment, second moment].
// unbias: 1 / (1 - beta^step).
struct AdamStep {
  float unbias1 = 1, unbias2 = 1;
  Tensor gradient, weight, state;
};
// The state before the first step: the weight, and zeros.
struct StartState {
  Tensor weight, state;
};

// ---- moving bytes ----

struct CopyBytes {
  std::byte* to = nullptr;
  const std::byte* from = nullptr;
  std::int64_t bytes = 0;
};
struct SetBytes {
  std::byte* to = nullptr;
  std::int64_t bytes = 0;
  std::uint8_t value = 0;
};

// NCCL calls between ncclGroupStart and ncclGroupEnd. Peers and roots are positions in the call's communicator.
struct Exchange {
  struct Message {
    enum class Kind : std::uint8_t { send, receive, all_gather, reduce_scatter, all_reduce, broadcast, reduce };
    Kind kind = Kind::send;
    int peer = -1;  // or root
    const std::byte* from = nullptr;
    std::byte* to = nullptr;
    std::int64_t elements = 0;  // as NCCL counts: of a part in all_gather (sent) and reduce_scatter (received)
    DType dtype = DType::f32;
    int communicator = 0;
  };
  std::vector<Message> messages;
};

using Command = std::variant<Product, GroupedProduct, MoveRows, Normalize, Sum, ActivateCall, CastCall, Quantize, Embed,
                             LastCall, Gate, Attend, Rotate, StoreKeys, RotateLatent, Fill, Nothing, NormGradient,
                             ActivationGradientCall, CrossEntropy, GateWeights, GateGradient, CombineGradient,
                             AttendGradient, AdamStep, StartState, CopyBytes, SetBytes, Exchange>;

}  // namespace moesim::backend::gpu
