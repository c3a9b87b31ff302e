// The top-k gate: a warp per token.
#include "backend/cuda/driver/team.cuh"

namespace moesim::backend::gpu {
namespace {

struct Choose {
  template <class Team>
  __device__ void operator()(const Team& team, const Gate& c, std::int64_t i) const {
    gate_row(team, c, i);
  }
};

}  // namespace

void launch(const Gate& c, Stream stream) { launch_by_warp<Choose>(c, c.y.rows, stream); }

}  // namespace moesim::backend::gpu
