// NCCL's communicators of one device. A call returns when it is enqueued, as in the frameworks whose times are to be
// compared with ours (a communicator that does not block starts a thread for every group of calls instead); a member
// that never comes ends in an error all the same.
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "backend/cuda/device.hpp"

namespace moesim::backend::gpu {

// One host thread calls; a thread of its own watches that one.
class Communicators {
 public:
  explicit Communicators(int device) : device_(device) {}
  Communicators(const Communicators&) = delete;
  Communicators& operator=(const Communicators&) = delete;
  ~Communicators();

  int join(const MeetingId& id, int members, int position);
  void enqueue(const Exchange& c, cudaStream_t stream);
  // Throws when a communicator has failed since.
  void check_health();
  void watch_for(std::function<bool()> give_up);
  void abort() noexcept;

 private:
  void must_live() const;
  void watch();

  int device_;
  std::mutex mutex_;  // of all that the watching thread reads, too
  std::vector<ncclComm_t> all_;
  std::function<bool()> give_up_;
  std::condition_variable change_;
  bool end_ = false;
  std::atomic<std::int64_t> entered_{0};  // when the call under way began; 0: none is
  std::atomic<bool> aborted_{false};
  std::atomic<bool> late_{false};  // a call kept the host for too long
  std::thread watchdog_;
};

MeetingId new_meeting();
std::string nccl_version();
// Ranks of one communicator on one GPU. NCCL refuses a second one before 2.30; from there on
// NCCL_MULTI_RANK_GPU_ENABLE=1 allows it, as an experiment and for about two.
int nccl_ranks_per_gpu();

}  // namespace moesim::backend::gpu
