#include "backend/host/runs.hpp"

#include <fmt/format.h>

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

#include "support/parallel.hpp"
#include "support/text.hpp"

namespace moesim::backend {
namespace {

// Where a piece that `phase` of member `to` takes from member `from` lies, when all are in this process.
const std::byte* shared(const Phase& of_sender, std::size_t to, std::size_t piece) {
  return of_sender.offers[to][piece].data;
}

// A place where threads meet: each arrival counts one up, and all wait for a multiple of their number.
class Gathering {
 public:
  void arrive() { count_.fetch_add(1, std::memory_order_acq_rel); }
  [[nodiscard]] bool reached(std::int64_t target) const { return count_.load(std::memory_order_acquire) >= target; }

 private:
  std::atomic<std::int64_t> count_{0};
};

// Threads as ranks. A member publishes nothing: its pieces lie where binding put them, and arriving says that they are
// filled. Nobody overwrites a piece before the next run, which all start together.
class Crew {
 public:
  Crew(const Plan& plan, const Programs& programs, int runs, double patience,
       const std::function<bool(std::vector<Marks>)>& done)
      : plan_(plan), programs_(programs), runs_(runs), patience_(patience), done_(done) {
    // A gathering for every op, group and phase that meets, found through the op and the group's first rank.
    meet_.resize(plan.ops.size());
    for (std::size_t i = 0; i < plan.ops.size(); ++i)
      if (std::holds_alternative<Collective>(plan.ops[i].work)) {
        meet_[i].reserve(programs.size() * phases);
        for (std::size_t n = 0; n < programs.size() * phases; ++n) meet_[i].push_back(std::make_unique<Gathering>());
      }
    marks_.assign(programs.size(), Marks(plan.ops.size()));
  }

  void run() {
    {
      std::vector<std::jthread> threads;
      for (std::size_t r = 0; r < programs_.size(); ++r) threads.emplace_back([this, r] { rank(r); });
    }
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  static constexpr std::size_t phases = 3;
  struct Ended {};  // another rank failed

  void rank(std::size_t r) {
    try {
      for (int i = 0; i < runs_ && !stop_.load(std::memory_order_acquire); ++i) {
        programs_[r]->reset();
        all_meet(start_, i, "the start of a run");
        if (r == 0) zero_.store(now(), std::memory_order_release);
        all_meet(set_, i, "the start of a run");
        one_run(r, i);
        all_meet(finish_, i, "the end of a run");
        if (r == 0 && !done_(marks_)) stop_.store(true, std::memory_order_release);
        all_meet(report_, i, "the end of a run");
      }
      // NOLINTNEXTLINE(bugprone-empty-catch): whoever failed has left its reason
    } catch (const Ended&) {
    } catch (...) {
      const std::scoped_lock lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      failed_.store(true, std::memory_order_release);
    }
  }

  void one_run(std::size_t r, int run) {
    Program& program = *programs_[r];
    const Nanoseconds zero = zero_.load(std::memory_order_acquire);
    for (std::size_t i = 0; i < plan_.ops.size(); ++i) {
      const BoundOp& op = program.ops()[i];
      Mark& mark = marks_[r][i];
      if (!op.takes_part) continue;
      mark.begun = mark.met = now() - zero;
      if (op.kernel) op.kernel(program.scratch());
      const Meeting& meeting = op.meeting;
      for (std::size_t p = 0; p < meeting.phases.size(); ++p) {
        Gathering& gathering = *meet_[i][meeting.group.front().index() * phases + p];
        gathering.arrive();
        wait(gathering, static_cast<std::int64_t>(meeting.group.size()) * (run + 1), plan_.ops[i].name);
        if (p == 0) mark.met = now() - zero;
        take(meeting.phases[p], [&](std::size_t member, std::size_t piece) {
          return shared(programs_[meeting.group[member].index()]->ops()[i].meeting.phases[p], meeting.member, piece);
        });
      }
      mark.end = now() - zero;
    }
  }

  void all_meet(Gathering& gathering, int run, const std::string& what) {
    gathering.arrive();
    wait(gathering, static_cast<std::int64_t>(programs_.size()) * (run + 1), what);
  }

  void wait(const Gathering& gathering, std::int64_t target, const std::string& what) {
    const Nanoseconds begun = now();
    for (int spins = 0; !gathering.reached(target); ++spins) {
      if (failed_.load(std::memory_order_acquire)) throw Ended{};
      if (spins < 1000) continue;
      std::this_thread::yield();
      if (static_cast<double>(now() - begun) > patience_ * 1e9)
        throw std::runtime_error(fmt::format("not all ranks reached '{}' within {} s", what, patience_));
    }
  }

  const Plan& plan_;
  const Programs& programs_;
  int runs_;
  double patience_;
  const std::function<bool(std::vector<Marks>)>& done_;
  std::vector<std::vector<std::unique_ptr<Gathering>>> meet_;  // [op][first rank of the group, phase]
  Gathering start_;
  Gathering set_;
  Gathering finish_;
  Gathering report_;
  std::vector<Marks> marks_;
  std::atomic<Nanoseconds> zero_{0};
  std::atomic<bool> stop_{false};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::exception_ptr failure_;
};

}  // namespace

void check_memory(const Plan& plan, const std::vector<Rank>& ranks) {
  const Bytes needed = memory_needed(plan, ranks);
  const Bytes available = memory_available();
  if (needed > available)
    throw Refused(
        fmt::format("{} ranks of this plan need {} of memory on the host, and {} are available; make the model "
                    "or the workload smaller",
                    ranks.size(), human_binary(needed), human_binary(available)));
}

Programs make_programs(const Plan& plan, const Inputs& inputs, const std::vector<Rank>& ranks,
                       const RanksBefore* before) {
  Programs out(ranks.size());
  parallel_for(static_cast<int>(ranks.size()), [&](int i) {
    RowMaps maps(plan, inputs);
    const auto at = static_cast<std::size_t>(i);
    if (before == nullptr) {
      out[at] = std::make_unique<Program>(plan, inputs, maps, ranks[at]);
      return;
    }
    const StepBefore own{before->plan, before->programs[at]->memory()};
    out[at] = std::make_unique<Program>(plan, inputs, maps, ranks[at], &own);
  });
  return out;
}

std::uint64_t result_hash(const std::vector<std::uint64_t>& of_ranks) {
  std::uint64_t h = 0xcbf29ce484222325ULL;
  for (const std::uint64_t r : of_ranks) h = (h ^ r) * 0x100000001b3ULL;
  return h;
}

std::vector<std::vector<Nanoseconds>> run_one_at_a_time(const Programs& programs) {
  const std::size_t ops = programs.front()->ops().size();
  for (const auto& p : programs) p->reset();
  std::vector<std::vector<Nanoseconds>> durations(programs.size(), std::vector<Nanoseconds>(ops, -1));
  for (std::size_t i = 0; i < ops; ++i) {
    std::size_t phases = 1;
    for (const auto& p : programs) phases = std::max(phases, p->ops()[i].meeting.phases.size());
    for (std::size_t phase = 0; phase < phases; ++phase)
      for (std::size_t r = 0; r < programs.size(); ++r) {
        const BoundOp& op = programs[r]->ops()[i];
        if (!op.takes_part) continue;
        const Nanoseconds begun = thread_time();
        if (phase == 0 && op.kernel) op.kernel(programs[r]->scratch());
        const Meeting& meeting = op.meeting;
        if (phase < meeting.phases.size())
          take(meeting.phases[phase], [&](std::size_t member, std::size_t piece) {
            return shared(programs[meeting.group[member].index()]->ops()[i].meeting.phases[phase], meeting.member,
                          piece);
          });
        durations[r][i] = std::max<Nanoseconds>(durations[r][i], 0) + thread_time() - begun;
      }
  }
  return durations;
}

void run_threads(const Plan& plan, const Programs& programs, int runs, double patience,
                 const std::function<bool(std::vector<Marks>)>& done) {
  Crew(plan, programs, runs, patience, done).run();
}

Marks run_process(Program& program, Transport& transport, double patience) {
  using Message = Transport::Message;
  std::vector<Message> sends;
  std::vector<Message> receives;
  const auto hello = [&](const std::vector<Rank>& group) {
    sends.clear();
    for (const Rank r : group)
      if (r != program.rank()) sends.push_back({r, nullptr, 0});
    transport.exchange(sends, sends, patience);
  };
  std::vector<Rank> all;
  for (int r = 0; r < transport.ranks(); ++r) all.emplace_back(r);
  std::vector<std::vector<std::byte>> room;  // for pieces that are only added up
  program.reset();
  hello(all);
  const Nanoseconds zero = now();
  Marks marks(program.ops().size());
  for (std::size_t i = 0; i < program.ops().size(); ++i) {
    const BoundOp& op = program.ops()[i];
    if (!op.takes_part) continue;
    Mark& mark = marks[i];
    mark.begun = mark.met = now() - zero;
    if (op.kernel) op.kernel(program.scratch());
    const Meeting& meeting = op.meeting;
    for (std::size_t p = 0; p < meeting.phases.size(); ++p) {
      hello(meeting.group);
      if (p == 0) mark.met = now() - zero;
      const Phase& phase = meeting.phases[p];
      sends.clear();
      receives.clear();
      std::size_t rooms = 0;
      std::vector<std::vector<const std::byte*>> sources(phase.takes.size());
      for (std::size_t j = 0; j < phase.takes.size(); ++j)
        for (std::size_t n = 0; n < phase.takes[j].size(); ++n) {
          const Piece& piece = phase.takes[j][n];
          if (j == meeting.member) {
            sources[j].push_back(phase.offers[j][n].data);
            continue;
          }
          std::byte* to = piece.data;
          if (to == nullptr) {
            if (room.size() == rooms) room.emplace_back();
            if (room[rooms].size() < static_cast<std::size_t>(piece.bytes))
              room[rooms].resize(static_cast<std::size_t>(piece.bytes));
            to = room[rooms++].data();
          }
          sources[j].push_back(to);
          receives.push_back({meeting.group[j], to, static_cast<std::size_t>(piece.bytes)});
        }
      for (std::size_t j = 0; j < phase.offers.size(); ++j)
        if (j != meeting.member)
          for (const Piece& piece : phase.offers[j])
            sends.push_back({meeting.group[j], piece.data, static_cast<std::size_t>(piece.bytes)});
      transport.exchange(sends, receives, patience);
      take(phase, [&](std::size_t member, std::size_t piece) { return sources[member][piece]; });
    }
    mark.end = now() - zero;
  }
  return marks;
}

}  // namespace moesim::backend
