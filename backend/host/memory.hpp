// The buffers of one rank, all alive for the whole run, with weights and cached keys in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "backend/executor.hpp"
#include "backend/host/tensor.hpp"

namespace moesim::backend {

// Bytes that the given ranks of a plan need on the host, workspace of the kernels included.
Bytes memory_needed(const Plan& plan, const std::vector<Rank>& ranks);
// What this process may still use: of the machine, or of the control group it is in.
Bytes memory_available();

class RankMemory;

// What a rank has from the training step before: its plan, which outlives the use, and its memory.
struct StepBefore {
  const Plan& plan;
  const RankMemory& memory;
};

class RankMemory {
 public:
  // Weights and optimizer states are those after `before`, where that is given, else the model's numbers and zeros.
  // Throws Refused for a number format that the host does not store, and where the step before left something else than
  // this one starts from.
  RankMemory(const Plan& plan, const Inputs& inputs, Rank rank, const StepBefore* before = nullptr);
  [[nodiscard]] const Tensor& tensor(BufferId id) const { return tensors_[id.index()]; }
  // What a weight or state that the plan updates is when it starts, under the placement that it then has.
  [[nodiscard]] const Tensor& start(BufferId id) const { return starts_[id.index()]; }
  // Puts what the plan updates back to that, so that every run of a plan computes the same.
  void reset(const Plan& plan);
  // Of the bytes of all activations and caches.
  [[nodiscard]] std::uint64_t hash(const Plan& plan) const;
  [[nodiscard]] Rank rank() const { return rank_; }

 private:
  Tensor allocate(DType dtype, std::int64_t rows, std::int64_t cols);
  void fill(const Plan& plan, const Inputs& inputs, BufferId id, const Buffer& b, const Tensor& t) const;
  void keep(const Plan& plan, const Inputs& inputs, const StepBefore* before);
  void carry(const Plan& plan, const Buffer& b, const Tensor& t, const StepBefore& before) const;

  Rank rank_;
  std::vector<Tensor> tensors_;
  std::vector<Tensor> starts_;  // empty: the plan does not write it
  std::vector<std::unique_ptr<std::byte[]>> owned_;
};

}  // namespace moesim::backend
