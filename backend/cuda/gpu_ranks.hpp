// Ranks on GPUs of their own: streams, events and NCCL, as a training or serving framework would run the plan.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "backend/cuda/program.hpp"
#include "backend/host/clock.hpp"

namespace moesim::backend::gpu {

// One rank, driven by one host thread.
class GpuRank {
 public:
  // Whom a communicator joins, and the stream that it serves: NCCL carries a communicator's calls out one after the
  // other, and calls of different streams are to overlap.
  struct Meeting {
    std::vector<Rank> members;  // two and more
    int stream = 0;
    friend auto operator<=>(const Meeting&, const Meeting&) = default;
  };
  // The id of the communicator, the same at all its members. Called in the same order everywhere.
  using Meet = std::function<MeetingId(const Meeting& meeting)>;

  // Memory, weights and commands; nobody is waited for. Throws Refused.
  GpuRank(const Plan& plan, const Inputs& inputs, Rank rank, Device& device);
  // Blocks until the members of its groups have come, once, before the first run.
  void join(const Meet& meet);

  struct Run {
    double patience = 60;
    bool stamps = true;             // at every op, not only around the run
    bool replay = false;            // of the captured graph
    std::function<bool()> give_up;  // another rank has failed
  };
  // Everything once. Times count from where all ranks left a common all-reduce. Throws std::runtime_error that names
  // the op that fails or does not end in time; `Ended` when told to give up.
  Marks run(const Run& how);
  struct Ended {};
  // What run replays later. Throws Refused for a plan in which the host waits.
  void capture();

  // Of the run before: from the first op to the end of the last.
  [[nodiscard]] Nanoseconds makespan() const { return makespan_; }
  [[nodiscard]] Program& program() { return *program_; }

 private:
  int communicator_of(const Meeting& meeting);
  void issue(const Run& how);
  void await(const Run& how);
  Marks timed(const Run& how);
  [[nodiscard]] std::string unfinished(const Run& how);  // "op 'x'", as far as the device still says
  [[nodiscard]] int start_event() const { return static_cast<int>(plan_.ops.size()); }
  [[nodiscard]] int zero_stamp() const { return 2 * static_cast<int>(plan_.ops.size()); }

  const Plan& plan_;
  Device& device_;
  std::unique_ptr<Program> program_;
  std::vector<Meeting> meetings_;  // [communicator]
  int world_ = -1;
  std::byte* token_ = nullptr;  // of the all-reduce that starts a run
  std::vector<int> streams_;    // that ops use
  std::vector<bool> awaited_;   // [op]: by another stream
  std::string issuing_;         // the op that the host is at; empty when all are in their streams
  Nanoseconds makespan_ = 0;
};

// A collective begins when its last member has come: fills `met` of marks[rank][op].
void meet(const Plan& plan, std::vector<Marks>& marks);

// `runs` runs with a thread and a GPU for each rank; after each, done(marks of [rank][op]) decides whether there is
// another. graph: all but the first are replays. overhead: of the time stamps, as a share of a run without them.
struct GpuRuns {
  int runs = 1;
  double patience = 60;
  bool graph = false;
  std::function<bool(std::vector<Marks>)> done;
};
struct GpuReport {
  std::optional<double> overhead;  // not measured where `done` ended the runs early
  std::int64_t buffers = 0;        // bytes, at the rank with most
  std::int64_t extra = 0;
};
GpuReport run_gpus(const Plan& plan, const Inputs& inputs, const std::vector<std::unique_ptr<Device>>& devices,
                   const std::function<MeetingId()>& new_meeting, const GpuRuns& how);

}  // namespace moesim::backend::gpu
