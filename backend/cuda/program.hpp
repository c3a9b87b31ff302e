// A plan made ready to run on one rank's GPU: memory allocated once from the plan's lifetimes, weights in place, every
// op as commands.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/bind.hpp"
#include "backend/cuda/arena.hpp"
#include "backend/cuda/device.hpp"
#include "backend/cuda/lower.hpp"

namespace moesim::backend::gpu {

class Program {
 public:
  // Local ops are lowered, collectives are not yet. Throws Refused: not enough memory, an op that GPUs do not run.
  Program(const Plan& plan, const Inputs& inputs, RowMaps& maps, Rank rank, Device& device);

  // Before every run: puts what the plan updates back to what it was, on stream 0.
  void reset();
  [[nodiscard]] Rank rank() const { return rank_; }
  [[nodiscard]] Device& device() const { return device_; }
  [[nodiscard]] std::vector<Step>& steps() { return steps_; }  // [op]
  [[nodiscard]] const Call& call(std::size_t op) const { return calls_[op]; }
  // With the counts that it sends on the device.
  [[nodiscard]] CollectiveCall placed(const CollectiveCall& call);
  [[nodiscard]] const Arena& arena() const { return arena_; }
  [[nodiscard]] Tensor tensor(BufferId id) const;
  // Device memory that lives as long as the program.
  [[nodiscard]] std::byte* staging(std::int64_t bytes);
  // Device memory for one op of a stream, until the stream's next begins: ops of a stream come one after the other.
  void begin_scratch(int stream);
  [[nodiscard]] std::byte* scratch(int stream, std::int64_t bytes);
  [[nodiscard]] std::byte* table(std::span<const std::byte> content);
  // Device memory beside the plan's buffers: row maps, token ids, intermediate results.
  [[nodiscard]] std::int64_t extra_bytes() const { return extra_; }

 private:
  void allocate();
  void fill(const Inputs& inputs);
  // What a training step updates.
  void start(const Inputs& inputs);
  // What makes the numbers of a weight or cache, on the device: the hash of numbers.hpp. first_row: of a cache.
  std::vector<Command> numbers_of(const Inputs& inputs, const Buffer& b, const Tensor& t, std::int64_t first_row = 0);
  // Puts the experts that stay with the rank where they are after a move.
  void keep(BufferId id, const Tensor& before);

  const Plan& plan_;
  Rank rank_;
  Device& device_;
  Arena arena_;
  std::byte* device_base_ = nullptr;
  std::byte* host_base_ = nullptr;
  std::byte* chunk_ = nullptr;  // of tables
  std::int64_t chunk_left_ = 0;
  std::int64_t extra_ = 0;
  struct Scratch {
    std::vector<std::pair<std::byte*, std::int64_t>> blocks;
    std::size_t block = 0;  // where the op is, and what of it is taken
    std::int64_t taken = 0;
  };
  std::map<int, Scratch> scratch_;  // [stream]
  std::vector<Command> reset_;
  std::map<BufferId, Tensor> before_;  // what moves, where it comes from
  std::vector<Call> calls_;
  std::vector<Step> steps_;
};

// Row-major floats of a rank's buffer, for tests and comparisons; where buffers share addresses, the last one's.
std::vector<float> values(const Program& program, BufferId buffer);

}  // namespace moesim::backend::gpu
