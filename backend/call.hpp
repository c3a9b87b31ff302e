// What an op of a Plan is on one rank once its buffers have addresses: a value that each executor carries out with
// kernels of its own. docs/plan_format.md defines what each computes.
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
#include "backend/training_call.hpp"
#include "moesim/plan.hpp"

namespace moesim::backend {

struct AttentionForm : AttentionShape {
  std::vector<float> turns;  // cosine and sine of every new position and pair of columns; see turn_pairs
};
// Fills form.turns: pairs (j, j + d / 2) of d columns turn by position * 10000^(-2j / d).
void turn_pairs(AttentionForm& form, std::int64_t d);

// transposed: w is [n, k] (a tied embedding table).
struct ProductCall {
  Gemm work;
  Tensor x, w, y;
  bool transposed = false;
};
struct GroupedProductCall {
  GroupedGemm work;
  std::span<const std::int32_t> rows;  // of each group; the plan's
  Tensor x, w, y;
};
// expanded: of latent attention with expanded keys; cache: where the form has one; stores: the new keys and values go
// to the cache afterwards.
struct AttentionCall {
  AttentionForm form;
  Tensor x;
  std::optional<Tensor> expanded, cache;
  Tensor o;
  bool stores = false;
};
// Rotates queries and keys of self attention, and stores the new keys and values where there is a cache.
struct RotateCall {
  AttentionForm form;
  Tensor x, y;
  std::optional<Tensor> cache;
};
// Latent forms: rotates the rope parts of q's heads (beside `absorbed` where that is given) and stores the rotated
// latent in the cache.
struct RotateLatentCall {
  AttentionForm form;
  std::optional<Tensor> absorbed;
  Tensor q, latent, y, cache;
};
struct NormCall {
  Tensor x;
  std::optional<Tensor> w;
  Tensor y;
};
struct AddNormCall {
  Tensor a, b;
  std::optional<Tensor> w;
  Tensor sum, y;
};
struct AddCall {
  std::vector<Tensor> terms;
  Tensor y;
};
// ids[i]: row of the table, or -1 for zeros.
struct EmbedCall {
  std::vector<std::int64_t> ids;
  Tensor table, y;
};
// Writes the routing's choice: ids, then weights.
struct ChooseCall {
  std::vector<float> choice;
  Tensor scores, y;
};
struct PermuteCall {
  Permute work;
  RowMap map;
  Tensor x, y;
};
struct CopyCall {
  Copy::Direction direction = Copy::Direction::device_to_device;
  Tensor x, y;
};
struct HostSyncCall {};
// counts: what an exchange of counts sends in place of its buffer, [rows, cols] of int32; `in` then has no address.
struct CollectiveCall {
  Collective work;
  Tensor in, out;
  std::vector<std::int32_t> counts;
};

// monostate: the rank takes no part.
using Call = std::variant<std::monostate, ProductCall, GroupedProductCall, AttentionCall, RotateCall, RotateLatentCall,
                          NormCall, AddNormCall, AddCall, ActivateCall, CastCall, EmbedCall, LastCall, ChooseCall,
                          PermuteCall, CopyCall, HostSyncCall, CollectiveCall, TrainingCall>;

}  // namespace moesim::backend
