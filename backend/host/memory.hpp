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

class RankMemory {
 public:
  // Throws Refused for a number format that the host does not store.
  RankMemory(const Plan& plan, const Inputs& inputs, Rank rank);
  [[nodiscard]] const Tensor& tensor(BufferId id) const { return tensors_[id.index()]; }
  // Of the bytes of all activations and caches.
  [[nodiscard]] std::uint64_t hash(const Plan& plan) const;
  [[nodiscard]] Rank rank() const { return rank_; }

 private:
  void fill(const Plan& plan, const Inputs& inputs, std::size_t buffer);

  Rank rank_;
  std::vector<Tensor> tensors_;
  std::vector<std::unique_ptr<std::byte[]>> owned_;
};

}  // namespace moesim::backend
