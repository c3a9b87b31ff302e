// Norms, activations, sums, changes of format.
#include "backend/cuda/driver/team.cuh"

namespace moesim::backend::gpu {
namespace {

struct Norm {
  template <class Team>
  __device__ void operator()(const Team& team, const Normalize& c, std::int64_t i) const {
    normalize_row(team, c, i);
  }
};
struct Act {
  template <class Team>
  __device__ void operator()(const Team& team, const ActivateCall& c, std::int64_t i) const {
    activate_row(team, c, i);
  }
};
struct Change {
  template <class Team>
  __device__ void operator()(const Team& team, const CastCall& c, std::int64_t i) const {
    convert_row(team, c, i);
  }
};
// A "row" is a block of 128 columns.
struct Scale {
  template <class Team>
  __device__ void operator()(const Team& team, const Quantize& c, std::int64_t i) const {
    const std::int64_t blocks = (c.x.cols + 127) / 128;
    quantize_block(team, c, i / blocks, i % blocks);
  }
};

// Sum's terms by value: the parameters of a kernel, 4 KiB at most.
struct Terms {
  Sum::Term term[Sum::most];
  int terms;
  std::byte* y;
  DType dtype;
  std::int64_t elements;
  bool whole;  // every address is a multiple of 16 bytes
};

__global__ void add_up(const __grid_constant__ Terms c) {
  const std::int64_t lane = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t lanes = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  const std::int64_t packs = c.whole ? c.elements / pack : 0;
  for (std::int64_t i = lane; i < packs; i += lanes) sum_some(c.term, c.terms, c.y, c.dtype, i * pack, pack);
  for (std::int64_t i = packs * pack + lane; i < c.elements; i += lanes) sum_some(c.term, c.terms, c.y, c.dtype, i, 1);
}

__global__ void nothing() {}

bool wide(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % sizeof(Wide) == 0; }

}  // namespace

void launch(const Normalize& c, Stream stream) { launch_by_block<Norm>(c, c.y.rows, threads_for(c.y.cols), stream); }
void launch(const ActivateCall& c, Stream stream) { launch_by_block<Act>(c, c.y.rows, threads_for(c.y.cols), stream); }
void launch(const CastCall& c, Stream stream) { launch_by_block<Change>(c, c.y.rows, threads_for(c.y.cols), stream); }
void launch(const Quantize& c, Stream stream) {
  const std::int64_t blocks = c.x.rows * ((c.x.cols + 127) / 128);
  if (packed(c))
    launch_by_lanes<128 / pack, Scale>(c, blocks, stream);
  else
    launch_by_warp<Scale>(c, blocks, stream);
}

void launch(const Sum& c, Stream stream) {
  static_assert(sizeof(Terms) <= 4096);
  Terms t{};
  t.terms = static_cast<int>(c.terms.size());
  t.y = c.y;
  t.dtype = c.dtype;
  t.elements = c.elements;
  t.whole = wide(c.y);
  for (std::size_t i = 0; i < c.terms.size(); ++i) {
    t.term[i] = c.terms[i];
    t.whole = t.whole && wide(c.terms[i].data);
  }
  constexpr unsigned threads = 256;
  constexpr std::int64_t each = std::int64_t{threads} * pack;
  start(add_up, grid((c.elements + each - 1) / each), threads, 0, stream, t);
}

void launch(const Nothing&, Stream stream) { start(nothing, 1, 1, 0, stream); }

}  // namespace moesim::backend::gpu
