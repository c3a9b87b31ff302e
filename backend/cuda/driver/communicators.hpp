// NCCL's communicators of one device, without blocking calls, so that a member that never comes ends in an error.
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <mutex>
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
  std::mutex mutex_;  // abort may come from another thread
  std::vector<ncclComm_t> all_;
  bool aborted_ = false;
};

MeetingId new_meeting();
std::string nccl_version();

}  // namespace moesim::backend::gpu
