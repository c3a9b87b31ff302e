#include "backend/cuda/probes.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <exception>
#include <mutex>
#include <thread>

#include "backend/cuda/executor.hpp"
#include "backend/executor.hpp"
#include "backend/host/clock.hpp"

namespace moesim::backend {
namespace gpu {
namespace {

constexpr std::int64_t most_room = std::int64_t{24} << 30;

ProbeTime median_of(std::vector<double> us) {
  std::sort(us.begin(), us.end());
  return {us[us.size() / 2], us.front(), us.back()};
}

// A library may not know how to be captured; then its calls are launched one after the other.
bool captured(Device& device, const std::function<void()>& put) {
  bool good = true;
  device.begin_capture();
  for (const std::function<void()>& step : {put, std::function<void()>([&] { device.end_capture(); })}) try {
      step();
    } catch (const std::runtime_error&) {
      good = false;
    }
  return good;
}

double microseconds_since(Nanoseconds begun) { return static_cast<double>(now() - begun) * 1e-3; }

}  // namespace

GpuProbes::GpuProbes(Driver& driver, ProbeSettings settings) : driver_(driver), settings_(settings) { member(0); }

GpuProbes::Member& GpuProbes::member(int number) {
  for (int i = static_cast<int>(members_.size()); i <= number; ++i) {
    Member m;
    m.device = driver_.open(i);
    const std::int64_t room =
        settings_.room > 0 ? settings_.room : std::min(most_room, m.device->description().memory / 2);
    try {
      m.room = std::make_unique<Room>(*m.device, room, settings_.pinned);
    } catch (const OutOfMemory& e) {
      throw Refused(
          fmt::format("GPU {} ({}) has {} bytes free, and the measurements take {} and {} of pinned host "
                      "memory; end what else runs on it",
                      i, m.device->description().name, e.free, room, settings_.pinned));
    }
    members_.push_back(std::move(m));
  }
  return members_[static_cast<std::size_t>(number)];
}

void GpuProbes::finish(Device& device, const std::function<bool()>& give_up) const {
  if (device.finish(settings_.patience, give_up)) return;
  throw std::runtime_error(
      fmt::format("{} did not finish a probe within {} s", device.description().name, settings_.patience));
}

ProbeTime GpuProbes::measure(const Probe& probe) {
  try {
    if (const auto* c = std::get_if<CollectiveProbe>(&probe)) return collective(*c);
    const auto* l = std::get_if<LaunchProbe>(&probe);
    if (l == nullptr) return kernels(probe);
    switch (l->kind) {
      case LaunchProbe::Kind::issue:
        return issue(l->count);
      case LaunchProbe::Kind::kernels:
        return empty_kernels(l->count);
      case LaunchProbe::Kind::sync:
        return sync(l->count);
    }
  } catch (const Refused&) {
    throw;
  } catch (const std::runtime_error& e) {
    throw std::runtime_error(fmt::format("{}: {}", name_of(probe), e.what()));
  }
  return {};
}

// Median time of what `put` enqueues, as a graph, divided by `launches`.
ProbeTime GpuProbes::replays(Device& device, std::int64_t launches, const std::function<void()>& put) {
  const bool graph = captured(device, put);
  const auto go = [&] {
    if (graph)
      device.replay();
    else
      put();
  };
  go();
  finish(device);
  std::vector<double> us;
  for (int run = 0; run < settings_.runs; ++run) {
    device.stamp(0, 0);
    go();
    device.stamp(1, 0);
    finish(device);
    us.push_back(device.nanoseconds(0, 1) * 1e-3 / static_cast<double>(launches));
  }
  return median_of(std::move(us));
}

ProbeTime GpuProbes::kernels(const Probe& probe) {
  Device& device = *member(0).device;
  Room& room = *member(0).room;
  room.clear();
  std::vector<std::vector<Command>> passes{commands_of(probe, room)};
  const std::int64_t footprint = std::max<std::int64_t>(room.used(), 1);
  const auto rotation =
      static_cast<std::size_t>(std::clamp<std::int64_t>(2 * device.description().l2_cache / footprint + 1, 1, 32));
  const auto one_more = [&] {
    try {
      passes.push_back(commands_of(probe, room));
      return true;
    } catch (const Refused&) {
      return false;  // no room: those that fit take turns
    }
  };
  for (bool fits = true; fits && passes.size() < rotation;) fits = one_more();
  const auto pass = [&](std::int64_t i) {
    for (const Command& c : passes[static_cast<std::size_t>(i) % passes.size()]) device.enqueue(c, 0);
  };
  // What a library prepares at its first call must not be in the graph.
  for (std::size_t i = 0; i < passes.size(); ++i) pass(static_cast<std::int64_t>(i));
  device.stamp(0, 0);
  pass(0);
  device.stamp(1, 0);
  finish(device);
  const double once_us = std::max(device.nanoseconds(0, 1) * 1e-3, 1e-3);
  const auto per_pass = static_cast<std::int64_t>(std::max<std::size_t>(passes.front().size(), 1));
  const auto rotated = static_cast<std::int64_t>(passes.size());
  const std::int64_t launches = std::clamp(static_cast<std::int64_t>(settings_.run_us / once_us), rotated,
                                           std::max(rotated, settings_.most_launches / per_pass));
  return replays(device, launches, [&] {
    for (std::int64_t i = 0; i < launches; ++i) pass(i);
  });
}

ProbeTime GpuProbes::empty_kernels(std::int64_t count) {
  Device& device = *member(0).device;
  device.enqueue(Nothing{}, 0);
  finish(device);
  return replays(device, 1, [&] {
    for (std::int64_t i = 0; i < count; ++i) device.enqueue(Nothing{}, 0);
  });
}

ProbeTime GpuProbes::issue(std::int64_t count) {
  Device& device = *member(0).device;
  std::vector<double> us;
  for (int run = 0; run <= settings_.runs; ++run) {
    finish(device);
    const Nanoseconds begun = now();
    for (std::int64_t i = 0; i < count; ++i) device.enqueue(Nothing{}, 0);
    if (run > 0) us.push_back(microseconds_since(begun));  // the first warms up
  }
  finish(device);
  return median_of(std::move(us));
}

ProbeTime GpuProbes::sync(std::int64_t bytes) {
  Device& device = *member(0).device;
  Room& room = *member(0).room;
  room.clear();
  const CopyBytes copy{room.pinned(bytes), room.input(DType::int8, 1, bytes).data, bytes};
  std::vector<double> us;
  for (int run = 0; run <= 4 * settings_.runs; ++run) {
    finish(device);
    const Nanoseconds begun = now();
    device.enqueue(copy, 0);
    finish(device);
    if (run > 0) us.push_back(microseconds_since(begun));
  }
  return median_of(std::move(us));
}

ProbeTime GpuProbes::collective(const CollectiveProbe& probe) {
  if (probe.gpus < 2 || probe.gpus > gpus())
    throw Refused(fmt::format("{}: this machine has {} GPUs", name_of(probe), gpus()));
  member(probe.gpus - 1);
  const int calls = probe.bytes <= (std::int64_t{1} << 20) ? 50 : 20;
  const auto runs = static_cast<std::size_t>(settings_.runs);
  const auto ranks = static_cast<std::size_t>(probe.gpus);
  MeetingId id;
  if (!members_.front().communicators.contains(probe.gpus)) id = driver_.meeting_id();
  std::vector<std::vector<double>> us(runs, std::vector<double>(ranks));
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::exception_ptr failure;
  std::barrier together(static_cast<std::ptrdiff_t>(probe.gpus));
  const auto rank = [&](std::size_t r) {
    Member& me = members_[r];
    const auto give_up = [&] { return failed.load(); };
    if (!id.empty()) me.communicators[probe.gpus] = me.device->join(id, probe.gpus, static_cast<int>(r));
    me.room->clear();
    const Exchange call = exchange_of(probe, me.communicators.at(probe.gpus), *me.room);
    for (std::size_t run = 0; run <= runs; ++run) {
      together.arrive_and_wait();
      if (failed) return;
      me.device->stamp(0, 0);
      for (int i = 0; i < calls; ++i) me.device->enqueue(call, 0);
      me.device->stamp(1, 0);
      finish(*me.device, give_up);
      if (run > 0) us[run - 1][r] = me.device->nanoseconds(0, 1) * 1e-3 / calls;  // the first warms up
    }
  };
  {
    std::vector<std::jthread> threads;
    for (std::size_t r = 0; r < ranks; ++r)
      threads.emplace_back([&, r] {
        try {
          rank(r);
        } catch (...) {
          {
            const std::scoped_lock lock(mutex);
            if (!failure) failure = std::current_exception();
          }
          failed = true;
          members_[r].device->abort();
          together.arrive_and_drop();
        }
      });
  }
  if (failure) std::rethrow_exception(failure);
  std::vector<double> means;
  for (const std::vector<double>& of_ranks : us) {
    double sum = 0;
    for (const double t : of_ranks) sum += t;
    means.push_back(sum / static_cast<double>(ranks));
  }
  return median_of(std::move(means));
}

}  // namespace gpu

std::unique_ptr<ProbeSource> cuda_probes() {
  if (!gpu::loaded().trouble.empty()) throw Refused(gpu::loaded().trouble);
  return std::make_unique<gpu::GpuProbes>(*gpu::loaded().driver, gpu::ProbeSettings{});
}

}  // namespace moesim::backend
