// A training step's own kernels: gradients, the loss, Adam.
#include "backend/cuda/attention_gradient_bodies.hpp"
#include "backend/cuda/driver/team.cuh"
#include "backend/cuda/gradient_bodies.hpp"

namespace moesim::backend::gpu {
namespace {

struct NormGradientPart {
  template <class Team>
  __device__ void operator()(const Team& team, const NormGradient& c, std::int64_t i) const {
    norm_gradient_part(team, c, i);
  }
};
struct ActivationGradientRow {
  template <class Team>
  __device__ void operator()(const Team& team, const ActivationGradientCall& c, std::int64_t i) const {
    activation_gradient_row(team, c, i);
  }
};
struct CrossEntropyRow {
  template <class Team>
  __device__ void operator()(const Team& team, const CrossEntropy& c, std::int64_t i) const {
    cross_entropy_row(team, c, i);
  }
};
struct GateWeightsRow {
  template <class Team>
  __device__ void operator()(const Team& team, const GateWeights& c, std::int64_t i) const {
    gate_weights_row(team, c, i);
  }
};
struct GateGradientRow {
  template <class Team>
  __device__ void operator()(const Team& team, const GateGradient& c, std::int64_t i) const {
    gate_gradient_row(team, c, i);
  }
};
struct CombineGradientRow {
  template <class Team>
  __device__ void operator()(const Team& team, const CombineGradient& c, std::int64_t i) const {
    combine_gradient_row(team, c, i);
  }
};
struct AdamRow {
  template <class Team>
  __device__ void operator()(const Team& team, const AdamStep& c, std::int64_t i) const {
    adam_row(team, c, i);
  }
};
struct StartStateRow {
  template <class Team>
  __device__ void operator()(const Team& team, const StartState& c, std::int64_t i) const {
    start_state_row(team, c, i);
  }
};

// A block per query and head.
__global__ void attend_gradient_queries(const AttendGradient c, std::int64_t queries) {
  for (std::int64_t i = blockIdx.x; i < queries; i += gridDim.x) {
    attend_gradient_query(BlockTeam{}, c, i / c.shape.heads, i % c.shape.heads, shared_room());
    __syncthreads();  // before the next query overwrites the room
  }
}
// A block per key and its head.
__global__ void attend_gradient_keys(const AttendGradient c, std::int64_t keys) {
  for (std::int64_t i = blockIdx.x; i < keys; i += gridDim.x) {
    attend_gradient_key(BlockTeam{}, c, i / c.shape.kv_heads, i % c.shape.kv_heads, shared_room());
    __syncthreads();
  }
}

}  // namespace

void launch(const NormGradient& c, Stream stream) { launch_by_warp<NormGradientPart>(c, c.parts.rows, stream); }
void launch(const ActivationGradientCall& c, Stream stream) {
  launch_by_block<ActivationGradientRow>(c, c.dy.rows, threads_for(c.dy.cols), stream);
}
void launch(const CrossEntropy& c, Stream stream) { launch_by_block<CrossEntropyRow>(c, c.logits.rows, 256, stream); }
void launch(const GateWeights& c, Stream stream) { launch_by_warp<GateWeightsRow>(c, c.y.rows, stream); }
void launch(const GateGradient& c, Stream stream) { launch_by_warp<GateGradientRow>(c, c.dscores.rows, stream); }
void launch(const CombineGradient& c, Stream stream) {
  launch_by_block<CombineGradientRow>(c, c.dcopies.rows, threads_for(c.dy.cols), stream);
}
void launch(const AdamStep& c, Stream stream) {
  launch_by_block<AdamRow>(c, c.weight.rows, threads_for(c.weight.cols), stream);
}
void launch(const StartState& c, Stream stream) {
  launch_by_block<StartStateRow>(c, c.weight.rows, threads_for(c.weight.cols), stream);
}

void launch(const AttendGradient& c, Stream stream) {
  const auto bytes = [](std::int64_t floats) { return static_cast<std::size_t>(floats) * sizeof(float); };
  const std::int64_t queries = c.x.rows * c.shape.heads;
  start(attend_gradient_queries, grid(queries), key_tile, bytes(query_room(c.shape)), stream, c, queries);
  const std::int64_t keys = c.x.rows * c.shape.kv_heads;
  start(attend_gradient_keys, grid(keys), key_tile, bytes(key_room(c.shape)), stream, c, keys);
}

}  // namespace moesim::backend::gpu
