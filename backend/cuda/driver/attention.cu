// Attention and rotary positions.
#include "backend/cuda/attention_bodies.hpp"
#include "backend/cuda/driver/team.cuh"

namespace moesim::backend::gpu {
namespace {

// A block per query and head.
__global__ void attend(const Attend c, std::int64_t queries) {
  for (std::int64_t i = blockIdx.x; i < queries; i += gridDim.x) {
    attend_query(BlockTeam{}, c, i / c.shape.heads, i % c.shape.heads, shared_room());
    __syncthreads();  // before the next query overwrites the room
  }
}

struct Turn {
  template <class Team>
  __device__ void operator()(const Team& team, const Rotate& c, std::int64_t i) const {
    rotate_row(team, c, i);
  }
};
struct Keep {
  template <class Team>
  __device__ void operator()(const Team& team, const StoreKeys& c, std::int64_t i) const {
    store_keys_row(team, c, i);
  }
};
struct TurnLatent {
  template <class Team>
  __device__ void operator()(const Team& team, const RotateLatent& c, std::int64_t i) const {
    rotate_latent_row(team, c, i);
  }
};

}  // namespace

void launch(const Attend& c, Stream stream) {
  const std::int64_t queries = c.o.rows * c.shape.heads;
  const auto room = static_cast<std::size_t>(attend_room(c.shape)) * sizeof(float);
  start(attend, grid(queries), key_tile, room, stream, c, queries);
}
void launch(const Rotate& c, Stream stream) { launch_by_block<Turn>(c, c.y.rows, 256, stream); }
void launch(const StoreKeys& c, Stream stream) { launch_by_block<Keep>(c, c.x.rows, 128, stream); }
void launch(const RotateLatent& c, Stream stream) { launch_by_block<TurnLatent>(c, c.y.rows, 256, stream); }

}  // namespace moesim::backend::gpu
