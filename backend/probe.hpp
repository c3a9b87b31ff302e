// Single kernels, copies and collectives, timed alone: what a calibration or a kernel benchmark asks a GPU for.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "moesim/dtype.hpp"
#include "moesim/plan.hpp"

namespace moesim::backend {

// Y[m, n] = X[m, k] W[k, n].
struct GemmProbe {
  std::int64_t m = 0, n = 0, k = 0;
  DType dtype = DType::bf16;
};
// One launch over all groups that have rows, a matrix each.
struct GroupedProbe {
  std::vector<std::int32_t> rows;  // of each group
  std::int64_t n = 0, k = 0;
  DType dtype = DType::bf16;
};
// A rank's experts between dispatch and combine: gather `rows` from `tokens`, product, activation, product, and the
// weighted sum back to the tokens.
struct ExpertsProbe {
  std::vector<std::int32_t> rows;  // of each expert
  std::int64_t tokens = 0, hidden = 0, inter = 0;
  bool gated = true;
  DType dtype = DType::bf16;
};
// A memory-bound kernel over `rows` tokens of `cols` numbers.
//   permute     rows in a random order            combine  each row the weighted sum of two
//   unpermute   the same with weights             gate     the 8 best of cols scores (float32)
//   activation  silu(x)                           gated    silu(x[:cols]) x[cols:]
//   reduce      the sum of four results           norm     of a + b, which it stores
//   quantize    to fp8 with a scale per 128 columns
struct StreamProbe {
  enum class Kind : std::uint8_t { permute, unpermute, combine, gate, activation, gated, reduce, norm, quantize };
  Kind kind = Kind::permute;
  std::int64_t rows = 0, cols = 0;
  DType dtype = DType::bf16;
};
struct CopyProbe {
  enum class Kind : std::uint8_t { device, to_device, to_host };  // host memory is pinned
  Kind kind = Kind::device;
  std::int64_t bytes = 0;
};
//   issue    the host thread's time for `count` launches of an empty kernel
//   kernels  the device's time for them, without the host (a graph)
//   sync     the host's time to copy `count` bytes from the device and to see that they are there
struct LaunchProbe {
  enum class Kind : std::uint8_t { issue, kernels, sync };
  Kind kind = Kind::issue;
  std::int64_t count = 1;
};
// As nccl-tests has it: `bytes` of the full buffer of a rank, out of place, the mean of the ranks.
struct CollectiveProbe {
  Collective::Kind kind = Collective::Kind::all_reduce;  // all_gather_v, reduce_scatter_v, all_reduce, all_to_all_v
  int gpus = 2;
  std::int64_t bytes = 0;
};
using Probe = std::variant<GemmProbe, GroupedProbe, ExpertsProbe, StreamProbe, CopyProbe, LaunchProbe, CollectiveProbe>;

// What a probe has to do: every operand once; a collective: none.
struct ProbeWork {
  double flops = 0;
  double bytes = 0;
};
ProbeWork work_of(const Probe& probe);
std::string name_of(const Probe& probe);  // "gemm 4096x4096x4096 bf16"

struct ProbeTime {
  double us = 0;             // median of the runs
  double low = 0, high = 0;  // fastest and slowest
};

class ProbeSource {
 public:
  ProbeSource() = default;
  ProbeSource(const ProbeSource&) = delete;
  ProbeSource& operator=(const ProbeSource&) = delete;
  virtual ~ProbeSource() = default;
  [[nodiscard]] virtual std::string gpu() const = 0;       // "NVIDIA H200"
  [[nodiscard]] virtual int gpus() const = 0;              // of this machine
  [[nodiscard]] virtual std::string versions() const = 0;  // "CUDA 13.0, driver for CUDA 13.0, cuBLAS 13.1.0, NCCL ..."
  // Throws Refused for what does not fit into memory; std::runtime_error when the device fails or does not finish.
  virtual ProbeTime measure(const Probe& probe) = 0;
};

// The GPUs of this machine. Throws Refused where there is none, with what to do about it.
std::unique_ptr<ProbeSource> cuda_probes();

}  // namespace moesim::backend
