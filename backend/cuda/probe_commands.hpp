// A probe as commands for one GPU, in memory that all probes share.
#pragma once

#include <span>
#include <vector>

#include "backend/cuda/device.hpp"
#include "backend/probe.hpp"

namespace moesim::backend::gpu {

// Two blocks of device memory and one of pinned host memory, allocated once: random numbers that probes read, and room
// that they write to. What a probe takes is given back by clear().
class Room {
 public:
  Room(Device& device, std::int64_t bytes, std::int64_t pinned_bytes);
  // Aligned to 256 bytes. All throw Refused when the block is full.
  Tensor input(DType t, std::int64_t rows, std::int64_t cols);  // of 4-byte formats: as random as those of 2 bytes
  Tensor output(DType t, std::int64_t rows, std::int64_t cols);
  std::byte* pinned(std::int64_t bytes);
  template <class T>
  const T* table(const std::vector<T>& v) {
    return reinterpret_cast<const T*>(upload(std::as_bytes(std::span(v))));
  }
  void clear();
  [[nodiscard]] std::int64_t used() const { return read_.used + written_.used; }

 private:
  struct Block {
    const char* name;
    std::byte* begin;
    std::int64_t size;
    std::int64_t used;
    std::byte* take(std::int64_t bytes);
  };
  const std::byte* upload(std::span<const std::byte> content);
  Device& device_;
  Block read_, written_, pinned_;
};

// One pass of the probe; those of several calls touch different memory. Of GemmProbe, GroupedProbe, ExpertsProbe,
// StreamProbe and CopyProbe.
std::vector<Command> commands_of(const Probe& probe, Room& room);
// A member's calls, the same at all; the buffers are the full ones of nccl-tests.
Exchange exchange_of(const CollectiveProbe& probe, int communicator, Room& room);

}  // namespace moesim::backend::gpu
