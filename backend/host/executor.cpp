#include "backend/executor.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "backend/host/processes.hpp"
#include "backend/host/runs.hpp"
#include "backend/recorder.hpp"

namespace moesim::backend {
namespace {

using Durations = std::vector<std::vector<Nanoseconds>>;

std::vector<Rank> all_ranks(const Plan& plan) {
  std::vector<Rank> out;
  for (int r = 0; r < plan.ranks; ++r) out.emplace_back(r);
  return out;
}

unsigned cores() { return std::max(1U, std::thread::hardware_concurrency()); }

class Host final : public Executor {
 public:
  [[nodiscard]] std::string_view name() const override { return "host"; }
  [[nodiscard]] std::string unavailable() const override { return {}; }

  [[nodiscard]] Measurement run(const Plan& plan, const Inputs& inputs, const RunOptions& options) const override {
    if (options.repeats < 1 || options.warmup < 0) throw Refused("a measurement needs at least one run");
    if (options.graph) throw Refused("CUDA graphs are the CUDA executor's; leave --graph out");
    if (options.transport != nullptr) return as_processes(plan, inputs, options);
    const bool threads = options.mode == RunOptions::Mode::threads ||
                         (options.mode == RunOptions::Mode::automatic && static_cast<unsigned>(plan.ranks) <= cores());
    check_memory(plan, all_ranks(plan));
    const Programs programs = make_programs(plan, inputs, all_ranks(plan));
    Measurement out = threads ? as_threads(plan, programs, options) : one_at_a_time(plan, programs, options);
    std::vector<std::uint64_t> hashes;
    for (const auto& program : programs) hashes.push_back(program->memory().hash(plan));
    out.result_hash = result_hash(hashes);
    return out;
  }

 private:
  static Measurement as_threads(const Plan& plan, const Programs& programs, const RunOptions& options) {
    Recorder recorder(options);
    run_threads(plan, programs, recorder.wanted(), options.patience,
                [&](const std::vector<Marks>& marks) { return recorder.take(wall_timeline(plan, marks)); });
    return recorder.finish(fmt::format("wall time of {} threads on {} cores", plan.ranks, cores()));
  }

  // With `minimum`, the Timeline is composed from the fastest run of every op.
  static Measurement one_at_a_time(const Plan& plan, const Programs& programs, const RunOptions& options) {
    Recorder recorder(options);
    Durations fastest;
    for (int i = 0; i < recorder.wanted(); ++i) {
      const Durations d = run_one_at_a_time(programs);
      if (i >= options.warmup || fastest.empty()) {
        if (i <= options.warmup) fastest = d;
        for (std::size_t r = 0; r < d.size(); ++r)
          for (std::size_t op = 0; op < d[r].size(); ++op) fastest[r][op] = std::min(fastest[r][op], d[r][op]);
      }
      if (!recorder.take(composed_timeline(plan, d))) break;
    }
    Measurement out = recorder.finish(fmt::format(
        "processor time of the ops of {} ranks, run one at a time and composed along the plan's dependencies",
        plan.ranks));
    if (options.statistic == RunOptions::Statistic::minimum) out.timeline = composed_timeline(plan, fastest);
    return out;
  }

  // This process is one rank; rank 0 ends up with everybody's marks, the others with their own.
  static Measurement as_processes(const Plan& plan, const Inputs& inputs, const RunOptions& options) {
    Transport& transport = *options.transport;
    if (transport.ranks() != plan.ranks)
      throw Refused(fmt::format("the plan has {} ranks and {} processes were started; use 'mpirun -n {}'", plan.ranks,
                                transport.ranks(), plan.ranks));
    // Ranks of one computer share its memory; which ones they are is the launcher's choice, so the largest count.
    std::vector<Rank> here = all_ranks(plan);
    std::ranges::stable_sort(here, std::ranges::greater{}, [&](Rank r) { return memory_needed(plan, {r}); });
    here.resize(static_cast<std::size_t>(transport.neighbours()));
    agree(transport, options.patience, [&] { check_memory(plan, here); });
    Programs programs;
    agree(transport, options.patience, [&] { programs = make_programs(plan, inputs, {transport.rank()}); });
    Recorder recorder(options);
    for (int i = 0; i < recorder.wanted(); ++i) {
      const Marks own = run_process(*programs.front(), transport, options.patience);
      recorder.take(wall_timeline(plan, gather_marks(transport, own, options.patience)));
    }
    Measurement out = recorder.finish(
        fmt::format("wall time of {} processes over {}{}", plan.ranks, transport.description(),
                    static_cast<unsigned>(plan.ranks) > cores() ? fmt::format(", of which {} run at a time", cores())
                                                                : std::string()));
    std::vector<std::uint64_t> hashes;
    for (const std::string& said :
         transport.gather(fmt::format("{:016x}", programs.front()->memory().hash(plan)), options.patience))
      hashes.push_back(std::stoull(said, nullptr, 16));
    out.result_hash = result_hash(hashes);
    return out;
  }
};

}  // namespace

const Executor& host() {
  static const Host executor;
  return executor;
}

}  // namespace moesim::backend
