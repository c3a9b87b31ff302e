// All ranks of a plan on one GPU: each has its buffers, ops run one at a time on one stream, a collective is copies
// between the ranks' buffers. What it measures is compute and order, not links.
#pragma once

#include <memory>
#include <vector>

#include "backend/cuda/among_virtual_ranks.hpp"
#include "backend/cuda/program.hpp"
#include "backend/host/clock.hpp"

namespace moesim::backend::gpu {

class VirtualRanks {
 public:
  // Throws Refused.
  VirtualRanks(const Plan& plan, const Inputs& inputs, Device& device);

  // Every op on every rank; returns durations [rank][op], negative where the rank takes no part. Throws
  // std::runtime_error, naming an op, when the device fails or does not finish within `patience` seconds.
  std::vector<std::vector<Nanoseconds>> run(double patience);
  // What the time stamps around every op add to a run, as a share of one without them: one run of each.
  double stamp_overhead(double patience);

  [[nodiscard]] const Program& program(Rank rank) const { return *programs_[rank.index()]; }
  [[nodiscard]] const std::vector<Phases>& collectives() const { return collectives_; }  // [op]

 private:
  struct Timed {
    std::size_t rank;
    std::size_t op;
    int begin;
    int end;
  };
  // The device's time for everything once, with a stamp around every op or only around the whole.
  Nanoseconds run_all(double patience, bool stamps);
  void stamped(std::size_t rank, std::size_t op, const std::function<void()>& work);
  void issue(Step& step, double patience);
  void await(double patience, const std::string& op);

  const Plan& plan_;
  Device& device_;
  std::vector<std::unique_ptr<Program>> programs_;
  std::vector<Phases> collectives_;
  bool stamps_ = true;
  std::vector<Timed> timed_;
};

}  // namespace moesim::backend::gpu
