// Moving rows: permute, unpermute and combine, embedding, last tokens; and weights.
#include "backend/cuda/driver/team.cuh"

namespace moesim::backend::gpu {
namespace {

struct Move {
  template <class Team>
  __device__ void operator()(const Team& team, const MoveRows& c, std::int64_t i) const {
    move_row(team, c, c.first + i);
  }
};
struct Look {
  template <class Team>
  __device__ void operator()(const Team& team, const Embed& c, std::int64_t i) const {
    embed_row(team, c, i);
  }
};
struct Last {
  template <class Team>
  __device__ void operator()(const Team& team, const LastCall& c, std::int64_t i) const {
    last_row(team, c, i);
  }
};
struct Number {
  template <class Team>
  __device__ void operator()(const Team& team, const Fill& c, std::int64_t i) const {
    fill_row(team, c, i);
  }
};

}  // namespace

void launch(const MoveRows& c, Stream stream) { launch_by_block<Move>(c, c.rows, threads_for(c.y.cols), stream); }
void launch(const Embed& c, Stream stream) { launch_by_block<Look>(c, c.y.rows, threads_for(c.y.cols), stream); }
void launch(const LastCall& c, Stream stream) { launch_by_block<Last>(c, c.y.rows, threads_for(c.y.cols), stream); }
void launch(const Fill& c, Stream stream) { launch_by_block<Number>(c, c.y.rows, 256, stream); }

}  // namespace moesim::backend::gpu
