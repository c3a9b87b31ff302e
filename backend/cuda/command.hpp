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
// which X's first k count, part b of W its rows [b k, (b + 1) k). transposed: W is [n, k].
struct Product {
  std::int64_t m = 0, n = 0, k = 0, batch = 1;
  Math math = Math::bf16;
  bool transposed = false;
  Tensor x, w, y;
};
// All groups in one call; none is empty. addresses: a table on the device, those of all W, of all X and of all Y.
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
};

// ---- kernels of our own (bodies.hpp) ----

// Row i of y, first <= i < first + rows: the sum of weight[t] * row from[t] of x over begin[i] <= t < begin[i + 1];
// without weights all are 1, without terms the row is zero.
struct MoveRows {
  const std::int64_t* begin = nullptr;
  const std::int32_t* from = nullptr;
  const float* weight = nullptr;
  std::int64_t first = 0, rows = 0;
  Tensor x, y;
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

// ---- moving bytes ----

struct CopyBytes {
  std::byte* to = nullptr;
  const std::byte* from = nullptr;
  std::int64_t bytes = 0;
};

// NCCL calls between ncclGroupStart and ncclGroupEnd on one communicator. Peers and roots are positions in it.
struct Exchange {
  struct Message {
    enum class Kind : std::uint8_t { send, receive, all_gather, reduce_scatter, all_reduce, broadcast, reduce };
    Kind kind = Kind::send;
    int peer = -1;  // or root
    const std::byte* from = nullptr;
    std::byte* to = nullptr;
    std::int64_t elements = 0;  // as NCCL counts: of a part in all_gather (sent) and reduce_scatter (received)
    DType dtype = DType::f32;
  };
  int communicator = -1;
  std::vector<Message> messages;
};

using Command =
    std::variant<Product, GroupedProduct, MoveRows, Normalize, Sum, ActivateCall, CastCall, Quantize, Embed, LastCall,
                 Gate, Attend, Rotate, StoreKeys, RotateLatent, Fill, Nothing, CopyBytes, Exchange>;

}  // namespace moesim::backend::gpu
