#include "backend/cuda/gpu_ranks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "backend/cuda/collective.hpp"

namespace moesim::backend::gpu {

GpuRank::GpuRank(const Plan& plan, const Inputs& inputs, Rank rank, Device& device) : plan_(plan), device_(device) {
  RowMaps maps(plan, inputs);
  program_ = std::make_unique<Program>(plan, inputs, maps, rank, device);
  if (plan.ranks > 1) {
    std::vector<Rank> everyone;
    for (int r = 0; r < plan.ranks; ++r) everyone.emplace_back(r);
    world_ = communicator_of({std::move(everyone), 0});
    token_ = program_->staging(Arena::alignment);
  }
  std::set<int> streams{0};
  awaited_.resize(plan.ops.size());
  for (std::size_t i = 0; i < plan.ops.size(); ++i) {
    Step& step = program_->steps()[i];
    for (const OpId id : step.after) awaited_[id.index()] = true;
    streams.insert(plan.ops[i].stream);
    const int stream = plan.ops[i].stream;
    program_->begin_scratch(stream);
    const auto lower = [&](const auto& call) {
      lower_to_nccl({plan, plan.ops[i], rank,
                     [&](const std::vector<Rank>& members) { return communicator_of({members, stream}); },
                     [&](std::int64_t bytes) { return program_->scratch(stream, bytes); }},
                    call, step.commands);
    };
    if (const auto* call = std::get_if<CollectiveCall>(&program_->call(i))) lower(program_->placed(*call));
    if (const auto* training = std::get_if<TrainingCall>(&program_->call(i))) {
      if (const auto* sum = std::get_if<SumCall>(training)) lower(*sum);
      if (const auto* move = std::get_if<MoveCall>(training)) lower(*move);
    }
  }
  streams_.assign(streams.begin(), streams.end());
  if (!device_.finish(60, [] { return false; })) throw std::runtime_error("the weights are not made within 60 s");
}

int GpuRank::communicator_of(const Meeting& meeting) {
  const auto known = std::find(meetings_.begin(), meetings_.end(), meeting);
  if (known != meetings_.end()) return static_cast<int>(known - meetings_.begin());
  meetings_.push_back(meeting);
  return static_cast<int>(meetings_.size()) - 1;
}

// Ops, and the chunks of an op, are in the same order at all ranks, and so are the meetings that they need: nobody
// waits in a circle.
void GpuRank::join(const Meet& meet_at) {
  for (std::size_t c = 0; c < meetings_.size(); ++c) {
    const std::vector<Rank>& members = meetings_[c].members;
    const auto me = std::find(members.begin(), members.end(), program_->rank()) - members.begin();
    const int made = device_.join(meet_at(meetings_[c]), static_cast<int>(members.size()), static_cast<int>(me));
    if (made != static_cast<int>(c)) throw std::logic_error("communicators are not numbered in the order of joining");
  }
}

void GpuRank::issue(const Run& how) {
  device_.record(start_event(), 0);
  for (const int s : streams_)
    if (s != 0) device_.wait(start_event(), s);
  for (std::size_t i = 0; i < plan_.ops.size(); ++i) {
    const Step& step = program_->steps()[i];
    const int stream = plan_.ops[i].stream;
    issuing_ = plan_.ops[i].name;
    if (how.give_up && how.give_up()) throw Ended{};
    const auto op = static_cast<int>(i);
    // A rank that takes no part still passes the order of its streams on.
    for (const OpId id : step.after) device_.wait(id.value(), stream);
    if (step.takes_part && how.stamps) device_.stamp(2 * op, stream);
    auto end = step.set_ends.begin();
    for (std::size_t c = 0; c < step.commands.size(); ++c) {
      device_.enqueue(step.commands[c], stream);
      for (; end != step.set_ends.end() && *end == c + 1; ++end) await(how);
    }
    if (step.host_sync) await(how);
    if (step.takes_part && how.stamps) device_.stamp(2 * op + 1, stream);
    if (awaited_[i]) device_.record(op, stream);
  }
  issuing_.clear();
  for (const int s : streams_) {
    if (s == 0) continue;
    device_.record(start_event() + 1 + s, s);
    device_.wait(start_event() + 1 + s, 0);
  }
}

// A launch that fails says so for what was launched before it, too. A device that is lost reaches no stamp any more,
// not even the first.
std::string GpuRank::unfinished(const Run& how) {
  if (!issuing_.empty()) return fmt::format("op '{}' or before it", issuing_);
  if (how.stamps && device_.reached(zero_stamp()))
    for (std::size_t i = 0; i < plan_.ops.size(); ++i)
      if (program_->steps()[i].takes_part && !device_.reached(2 * static_cast<int>(i) + 1))
        return fmt::format("op '{}'", plan_.ops[i].name);
  return "the run";
}

namespace {
// Says already which rank and op.
class Late final : public std::runtime_error {
  using std::runtime_error::runtime_error;
};
}  // namespace

void GpuRank::await(const Run& how) {
  issuing_.clear();
  const auto told = [&] { return how.give_up && how.give_up(); };
  if (device_.finish(how.patience, told)) return;
  if (told()) throw Ended{};
  throw Late(fmt::format("rank {} ({}) did not finish {} within {} s", program_->rank().value(),
                         device_.description().name, unfinished(how), how.patience));
}

Marks GpuRank::run(const Run& how) {
  try {
    return timed(how);
  } catch (const Late&) {
    throw;
  } catch (const std::runtime_error& e) {
    throw std::runtime_error(fmt::format("rank {} ({}) failed at {}: {}", program_->rank().value(),
                                         device_.description().name, unfinished(how), e.what()));
  }
}

Marks GpuRank::timed(const Run& how) {
  program_->reset();
  device_.flush_cache(0);
  if (world_ >= 0)
    device_.enqueue(Exchange{{{Exchange::Message::Kind::all_reduce, -1, token_, token_, 1, DType::f32, world_}}}, 0);
  device_.stamp(zero_stamp(), 0);
  if (how.replay)
    device_.replay();
  else
    issue(how);
  device_.stamp(zero_stamp() + 1, 0);
  await(how);
  makespan_ = std::llround(device_.nanoseconds(zero_stamp(), zero_stamp() + 1));
  Marks marks(plan_.ops.size());
  for (std::size_t i = 0; i < plan_.ops.size() && how.stamps; ++i) {
    if (!program_->steps()[i].takes_part) continue;
    const auto at = [&](int stamp) { return Nanoseconds{std::llround(device_.nanoseconds(zero_stamp(), stamp))}; };
    marks[i].begun = marks[i].met = at(2 * static_cast<int>(i));
    marks[i].end = std::max(marks[i].begun, at(2 * static_cast<int>(i) + 1));
  }
  return marks;
}

void GpuRank::capture() {
  for (std::size_t i = 0; i < plan_.ops.size(); ++i) {
    const Step& step = program_->steps()[i];
    if (step.host_sync || !step.set_ends.empty())
      throw Refused(
          fmt::format("a graph cannot hold op '{}', in which the host waits; run it without graphs, or plan it "
                      "without (host_sync = false, host_indexing = false)",
                      plan_.ops[i].name));
  }
  device_.begin_capture();
  issue({});
  device_.end_capture();
}

void meet(const Plan& plan, std::vector<Marks>& marks) {
  for (std::size_t i = 0; i < plan.ops.size(); ++i) {
    const auto* c = std::get_if<Collective>(&plan.ops[i].work);
    if (c == nullptr) continue;
    for (const std::vector<Rank>& g : plan.groups[c->groups.index()]) {
      Nanoseconds last = 0;
      for (const Rank r : g) last = std::max(last, marks[r.index()][i].begun);
      for (const Rank r : g) {
        Mark& m = marks[r.index()][i];
        m.met = std::clamp(last, m.begun, std::max(m.begun, m.end));
      }
    }
  }
}

namespace {

// Threads that drive a rank each. What one throws ends all.
class Crew {
 public:
  Crew(const Plan& plan, const Inputs& inputs, const std::vector<std::unique_ptr<Device>>& devices,
       const std::function<MeetingId()>& new_meeting, const GpuRuns& how)
      : plan_(plan), inputs_(inputs), devices_(devices), new_meeting_(new_meeting), how_(how), ranks_(devices.size()) {
    marks_.resize(devices.size());
  }

  GpuReport run() {
    {
      std::vector<std::jthread> threads;
      for (std::size_t r = 0; r < devices_.size(); ++r) threads.emplace_back([this, r] { guarded(r); });
    }
    if (failure_) std::rethrow_exception(failure_);
    return report_;
  }

 private:
  void guarded(std::size_t r) {
    // A thread that is kept by a launch cannot look itself.
    devices_[r]->watch([this] { return failed_.load(); });
    try {
      rank(r);
      devices_[r]->watch({});
    } catch (const GpuRank::Ended&) {
      end(r);
    } catch (...) {
      {
        const std::scoped_lock lock(mutex_);
        if (!failure_) failure_ = std::current_exception();
      }
      failed_.store(true);
      end(r);
    }
  }
  void end(std::size_t r) {
    devices_[r]->watch({});
    devices_[r]->abort();
  }

  void rank(std::size_t r) {
    ranks_[r] = std::make_unique<GpuRank>(plan_, inputs_, Rank(r), *devices_[r]);
    GpuRank& me = *ranks_[r];
    gather();  // a rank that has no room must not be waited for
    me.join([this](const GpuRank::Meeting& at) { return meeting(at); });
    GpuRank::Run how{how_.patience, true, false, [this] { return failed_.load(); }};
    gather();
    for (int i = 0; i < how_.runs && !stop_.load(); ++i) {
      if (how_.graph && i == 1) {
        me.capture();
        how.replay = true;
        gather();
      }
      marks_[r] = me.run(how);
      gather();
      if (r == 0) {
        meet(plan_, marks_);
        if (!how_.done(marks_)) stop_.store(true);
      }
      gather();
    }
    if (!stop_.load()) overhead(r, me, how);
    if (r != 0) return;
    for (const auto& rank : ranks_) {
      report_.buffers = std::max(report_.buffers, rank->program().arena().device_bytes);
      report_.extra = std::max(report_.extra, rank->program().extra_bytes());
    }
  }

  // The same run with and without a stamp at every op, once each.
  void overhead(std::size_t r, GpuRank& me, GpuRank::Run how) {
    how.replay = false;
    Nanoseconds with = 0;
    Nanoseconds without = 0;
    for (const bool stamps : {true, false}) {
      how.stamps = stamps;
      gather();
      me.run(how);
      gather();
      if (r != 0) continue;
      for (const auto& rank : ranks_) (stamps ? with : without) = std::max(stamps ? with : without, rank->makespan());
    }
    if (r != 0) return;
    report_.overhead = without > 0 ? static_cast<double>(with - without) / static_cast<double>(without) : 0;
  }

  MeetingId meeting(const GpuRank::Meeting& at) {
    const std::scoped_lock lock(mutex_);
    MeetingId& id = meetings_[at];
    if (id.empty()) id = new_meeting_();
    return id;
  }

  void gather() {
    const int target =
        (arrived_.fetch_add(1) / static_cast<int>(devices_.size()) + 1) * static_cast<int>(devices_.size());
    const Nanoseconds begun = now();
    while (arrived_.load() < target) {
      if (failed_.load()) throw GpuRank::Ended{};
      if (static_cast<double>(now() - begun) > 10 * how_.patience * 1e9)
        throw std::runtime_error("not all ranks' threads are heard of");
      std::this_thread::yield();
    }
  }

  const Plan& plan_;
  const Inputs& inputs_;
  const std::vector<std::unique_ptr<Device>>& devices_;
  const std::function<MeetingId()>& new_meeting_;
  const GpuRuns& how_;
  std::vector<std::unique_ptr<GpuRank>> ranks_;
  std::vector<Marks> marks_;
  std::map<GpuRank::Meeting, MeetingId> meetings_;
  std::atomic<int> arrived_{0};
  std::atomic<bool> stop_{false};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::exception_ptr failure_;
  GpuReport report_;
};

}  // namespace

GpuReport run_gpus(const Plan& plan, const Inputs& inputs, const std::vector<std::unique_ptr<Device>>& devices,
                   const std::function<MeetingId()>& new_meeting, const GpuRuns& how) {
  return Crew(plan, inputs, devices, new_meeting, how).run();
}

}  // namespace moesim::backend::gpu
