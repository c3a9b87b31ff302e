// How long kernels take alone on a GPU. Two implementations: the roofline of a machine file (roofline.cpp), and models
// fitted on measurements (fitted.cpp). docs/cost_models.md has the equations.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "moesim/dtype.hpp"
#include "moesim/machine.hpp"
#include "moesim/units.hpp"

namespace moesim::cost {

// One kernel, or one set of kernels that is launched as one.
struct KernelCost {
  Picoseconds duration;  // on the device, alone, without the host's launch time; 0 for no work
  Flops flops;           // arithmetic that the result needs
  Bytes bytes;           // compulsory traffic: each operand once
  double log_sigma = 0;  // standard deviation of ln(measured / predicted) of the calibration; 0 = none
  bool in_range = true;  // inside what the calibration has seen
};

struct GemmShape {
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t batch = 1;  // products of this shape with their own W, in one launch (heads)
  DType in = DType::bf16, weight = DType::bf16, out = DType::bf16;
  Math math = Math::bf16;
};

// One launch over many groups: m[g] rows times matrix g mod matrices. block > 0: rows of each group are padded to whole
// blocks (MegaBlocks). Only the matrices of groups with rows are read.
struct GroupedShape {
  std::span<const std::int32_t> m;
  std::int64_t matrices = 0, n = 0, k = 0;
  DType in = DType::bf16, weight = DType::bf16, out = DType::bf16;
  Math math = Math::bf16;
  std::int64_t block = 0;
};

// docs/plan_format.md, AttentionCore.
struct AttentionShape {
  std::int64_t sequences = 0, q_len = 0, kv_len = 0, heads = 0, qk_dim = 0, v_dim = 0, kv_cols = 0;
  bool causal = true;
  bool backward = false;
  DType dtype = DType::bf16;
  Math math = Math::bf16;
  std::int64_t window = 0;  // > 0 and causal: a query sees at most its last `window` keys
};

class KernelModel {
 public:
  virtual ~KernelModel() = default;
  [[nodiscard]] virtual KernelCost gemm(const GemmShape& shape) const = 0;
  [[nodiscard]] virtual KernelCost grouped_gemm(const GroupedShape& shape) const = 0;
  [[nodiscard]] virtual KernelCost attention(const AttentionShape& shape) const = 0;
  // A kernel that streams `bytes` through memory once and computes `flops` on the vector pipeline.
  [[nodiscard]] virtual KernelCost streaming(Bytes bytes, Flops flops) const = 0;
};

// Work and compulsory traffic, shared by every model and by the physics check.
Flops flops(const GemmShape& shape);
Bytes bytes(const GemmShape& shape);
Flops flops(const GroupedShape& shape);
Bytes bytes(const GroupedShape& shape);
Flops flops(const AttentionShape& shape);
Bytes bytes(const AttentionShape& shape);

// The bound that no kernel beats: max(flops / peak, bytes / bandwidth) at data-sheet rates.
// Throws PhysicsError when `cost` beats it, InputError when the GPU has no such pipeline.
Picoseconds speed_of_light(const Gpu& gpu, Math math, Flops flops, Bytes bytes);
void check_physics(const Gpu& gpu, Math math, const KernelCost& cost);

std::unique_ptr<KernelModel> make_roofline(const Gpu& gpu);

}  // namespace moesim::cost
