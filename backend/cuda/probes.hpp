// Probes on GPUs behind any driver: the module's, or in tests the processor's.
#pragma once

#include <map>
#include <vector>

#include "backend/cuda/device.hpp"
#include "backend/cuda/probe_commands.hpp"
#include "backend/probe.hpp"

namespace moesim::backend::gpu {

struct ProbeSettings {
  std::int64_t room = 0;  // bytes of device memory; 0: half of it, 24 GiB at most
  std::int64_t pinned = std::int64_t{256} << 20;
  int runs = 5;                      // of which the median counts
  double run_us = 1000;              // a run repeats a short kernel for so long
  std::int64_t most_launches = 200;  // of a run
  double patience = 60;              // seconds
};

// Kernels: a graph of many launches, which leaves the host out, in memory that rotates so that the L2 cache holds none
// of it; the time between two events, divided by the number of launches. Collectives: launched one after the other by a
// thread per GPU, as nccl-tests does.
class GpuProbes final : public ProbeSource {
 public:
  GpuProbes(Driver& driver, ProbeSettings settings);

  [[nodiscard]] std::string gpu() const override { return first().device->description().name; }
  [[nodiscard]] int gpus() const override { return driver_.devices(); }
  [[nodiscard]] std::string versions() const override { return driver_.versions(); }
  ProbeTime measure(const Probe& probe) override;

 private:
  struct Member {
    std::unique_ptr<Device> device;
    std::unique_ptr<Room> room;
    std::map<int, int> communicators;  // [gpus]
  };
  Member& member(int number);  // opened at its first use
  [[nodiscard]] const Member& first() const { return members_.front(); }

  ProbeTime kernels(const Probe& probe);
  ProbeTime empty_kernels(std::int64_t count);
  ProbeTime issue(std::int64_t count);
  ProbeTime sync(std::int64_t bytes);
  ProbeTime collective(const CollectiveProbe& probe);
  ProbeTime replays(Device& device, std::int64_t launches, const std::function<void()>& put);
  void finish(Device& device, const std::function<bool()>& give_up = [] { return false; }) const;

  Driver& driver_;
  ProbeSettings settings_;
  std::vector<Member> members_;
};

}  // namespace moesim::backend::gpu
