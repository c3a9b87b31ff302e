// Executors that run a Plan on real data: host (the CPU), cuda (GPUs). One that is not compiled in is still here, and
// says how to get it; callers have no #ifdef. The simulator is the executor without data (sim/engine.hpp).
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "moesim/plan.hpp"
#include "moesim/routing.hpp"
#include "moesim/timeline.hpp"

namespace moesim::backend {

class Transport;  // transport.hpp: ranks in processes of their own

// What an executor with data needs beside the Plan: the routing that the plan was made with, and what weights, token
// ids and gate weights are drawn from (numbers.hpp). Strategies with the same inputs compute the same model.
struct Inputs {
  const Routing& routing;
  std::uint64_t seed = 1;
  int step = 0;  // of training: optimizer steps before this one
};

struct RunOptions {
  int warmup = 1;   // runs that are not measured
  int repeats = 5;  // runs that are
  // Which of them the Timeline is: the run whose makespan is the median, or the fastest (composed: of every op).
  enum class Statistic : std::uint8_t { median, minimum };
  Statistic statistic = Statistic::median;
  // Ranks side by side as threads (CUDA: a GPU each), or their ops one at a time; automatic: threads where every rank
  // has a core (a GPU).
  enum class Mode : std::uint8_t { automatic, threads, one_at_a_time };
  Mode mode = Mode::automatic;
  bool graph = false;              // CUDA: one graph launch per run instead of a launch per kernel
  double patience = 60;            // seconds: a rank that is not heard of for so long ends the run
  Transport* transport = nullptr;  // not null: this process is one rank
  // Called after every run with the share that is done; false ends the measurement with the runs so far.
  std::function<bool(double done)> progress;
};

struct Measurement {
  Timeline timeline;
  std::vector<Picoseconds> makespans;  // of the measured runs, in order
  std::string method;                  // one sentence: how the Timeline came about
  // Of the bytes in every rank's activations and caches after the last run: equal for every way to run a plan.
  std::uint64_t result_hash = 0;

  [[nodiscard]] Picoseconds median() const;
  [[nodiscard]] double spread() const;  // (slowest - fastest) / median
};

// The executor cannot do what it is asked: it is not compiled in, the plan does not fit into memory, an op or a number
// format is not one of its own, the routing is not the plan's. The message says what to do.
class Refused : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Executor {
 public:
  Executor() = default;
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;
  virtual ~Executor() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  // Why it cannot run here, with what to do about it; empty where it can.
  [[nodiscard]] virtual std::string unavailable() const = 0;
  // Throws Refused; std::runtime_error when a rank dies or does not answer.
  [[nodiscard]] virtual Measurement run(const Plan& plan, const Inputs& inputs, const RunOptions& options) const = 0;
};

const Executor& host();
const Executor& cuda();

// By name; nullptr where there is none. names() are all of them, available or not.
const Executor* find_executor(std::string_view name);
std::vector<std::string_view> executor_names();

}  // namespace moesim::backend
