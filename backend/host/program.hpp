// A plan made ready to run on one rank of the host: calls on its memory, and what it exchanges with other ranks.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "backend/bind.hpp"
#include "backend/host/memory.hpp"
#include "backend/host/phase.hpp"

namespace moesim::backend {

// One op on one rank: a kernel, or a meeting with other ranks; neither where the rank takes no part, or for a
// host_sync.
struct BoundOp {
  bool takes_part = true;
  std::function<void(Scratch&)> kernel;
  Meeting meeting;
};

class Program {
 public:
  // Throws Refused, naming the op, for what the host cannot compute or a plan whose buffers do not fit its ops.
  Program(const Plan& plan, const Inputs& inputs, RowMaps& maps, Rank rank, const StepBefore* before = nullptr);
  // Before every run.
  void reset() { memory_.reset(plan_); }
  [[nodiscard]] Rank rank() const { return memory_.rank(); }
  [[nodiscard]] const std::vector<BoundOp>& ops() const { return ops_; }
  [[nodiscard]] const RankMemory& memory() const { return memory_; }
  [[nodiscard]] Scratch& scratch() { return scratch_; }

 private:
  const Plan& plan_;
  RankMemory memory_;
  std::vector<Call> calls_;  // kernels and meetings refer to them
  std::vector<BoundOp> ops_;
  Scratch scratch_;
};

}  // namespace moesim::backend
