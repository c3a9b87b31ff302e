// NCCL's communicators of one device, without blocking calls, so that a member that never comes ends in an error.
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <string>
#include <vector>

#include "backend/cuda/device.hpp"

namespace moesim::backend::gpu {

class Communicators {
 public:
  Communicators() = default;
  Communicators(const Communicators&) = delete;
  Communicators& operator=(const Communicators&) = delete;
  ~Communicators() { abort(); }

  int join(const MeetingId& id, int members, int position);
  void enqueue(const Exchange& c, cudaStream_t stream);
  // Throws when a communicator has failed since.
  void check_health();
  void abort() noexcept;

 private:
  void settle(ncclComm_t communicator, const char* what);
  std::vector<ncclComm_t> all_;
  bool aborted_ = false;
};

MeetingId new_meeting();
std::string nccl_version();
// Ranks of one communicator on one GPU. NCCL refuses a second one before 2.30; from there on
// NCCL_MULTI_RANK_GPU_ENABLE=1 allows it, as an experiment and for about two.
int nccl_ranks_per_gpu();

}  // namespace moesim::backend::gpu
