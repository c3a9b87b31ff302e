#include "backend/cuda/executor.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>

#include "backend/cuda/process_rank.hpp"
#include "backend/cuda/virtual_ranks.hpp"
#include "backend/host/processes.hpp"
#include "backend/module.hpp"
#include "backend/recorder.hpp"
#include "support/text.hpp"

namespace moesim::backend {
namespace gpu {
namespace {

using Durations = std::vector<std::vector<Nanoseconds>>;

std::string memory_text(const Plan& plan, std::int64_t buffers, std::int64_t extra) {
  return fmt::format("buffers {} (the plan's peak: {}) and {} for tables", human_binary(Bytes(buffers)),
                     human_binary(worst_memory_peak(plan).total), human_binary(Bytes(extra)));
}

std::string overhead_text(std::optional<double> overhead) {
  return overhead ? fmt::format("; time stamps add {:.1f} %", 100 * *overhead) : std::string();
}

Measurement on_gpus(Driver& driver, const Plan& plan, const Inputs& inputs, const RunOptions& options) {
  const bool shared = driver.devices() < plan.ranks;
  std::vector<std::unique_ptr<Device>> devices;
  for (int r = 0; r < plan.ranks; ++r) devices.push_back(driver.open(r % driver.devices()));
  Recorder recorder(options);
  GpuRuns how{recorder.wanted(), options.patience, options.graph, [&](const std::vector<Marks>& marks) {
                Timeline timeline = wall_timeline(plan, marks);
                if (shared) timeline.kind = Timeline::Kind::measured_virtual_ranks;
                return recorder.take(timeline);
              }};
  const GpuReport report = run_gpus(plan, inputs, devices, [&] { return driver.meeting_id(); }, how);
  const std::string on =
      shared ? fmt::format("{} ranks that share {} GPUs ({}): a check of compute and order, not of links", plan.ranks,
                           driver.devices(), devices.front()->description().name)
             : fmt::format("{} x {}", plan.ranks, devices.front()->description().name);
  return recorder.finish(fmt::format("device time of {}{}, NCCL between them ({}); {}{}", on,
                                     options.graph ? ", CUDA graph" : "", driver.versions(),
                                     memory_text(plan, report.buffers, report.extra), overhead_text(report.overhead)));
}

// This process is one rank; rank 0 ends up with everybody's marks, the others with their own.
Measurement as_process(Driver& driver, const Plan& plan, const Inputs& inputs, const RunOptions& options) {
  Transport& transport = *options.transport;
  if (transport.ranks() != plan.ranks)
    throw Refused(fmt::format("the plan has {} ranks and {} processes were started; use 'mpirun -n {}'", plan.ranks,
                              transport.ranks(), plan.ranks));
  std::unique_ptr<Device> device;
  int number = 0;
  const int devices = driver.devices();
  const int place = place_on_computer(transport, options.patience);
  agree(transport, options.patience, [&] {
    number = device_of_process(transport, place, devices);
    device = driver.open(number);
  });
  Recorder recorder(options);
  const GpuRuns how{recorder.wanted(), options.patience, options.graph,
                    [&](const std::vector<Marks>& marks) { return recorder.take(wall_timeline(plan, marks)); }};
  const GpuReport report = run_process(plan, inputs, *device, transport, [&] { return driver.meeting_id(); }, how);
  return recorder.finish(
      fmt::format("device time of {} processes over {} with a {} each{}, NCCL between them ({}); {}{}", plan.ranks,
                  transport.description(), device->description().name, options.graph ? ", CUDA graph" : "",
                  driver.versions(), memory_text(plan, report.buffers, report.extra), overhead_text(report.overhead)));
}

// With `minimum`, the Timeline is composed from the fastest run of every op.
Measurement on_one(Driver& driver, const Plan& plan, const Inputs& inputs, const RunOptions& options) {
  if (options.graph)
    throw Refused("virtual ranks run op by op and not as a CUDA graph; a graph needs a GPU for every rank");
  const std::unique_ptr<Device> device = driver.open(0);
  VirtualRanks ranks(plan, inputs, *device);
  Recorder recorder(options);
  const auto timeline = [&](const Durations& d) {
    Timeline out = composed_timeline(plan, d);
    out.kind = Timeline::Kind::measured_virtual_ranks;
    return out;
  };
  Durations fastest;
  bool ended = false;
  for (int i = 0; i < recorder.wanted(); ++i) {
    const Durations d = ranks.run(options.patience);
    if (i <= options.warmup) fastest = d;
    for (std::size_t r = 0; r < d.size(); ++r)
      for (std::size_t op = 0; op < d[r].size(); ++op) fastest[r][op] = std::min(fastest[r][op], d[r][op]);
    if (recorder.take(timeline(d))) continue;
    ended = true;
    break;
  }
  std::optional<double> overhead;
  if (!ended) overhead = ranks.stamp_overhead(options.patience);
  std::int64_t buffers = 0;
  std::int64_t extra = 0;
  for (int r = 0; r < plan.ranks; ++r) {
    buffers = std::max(buffers, ranks.program(Rank(r)).arena().device_bytes);
    extra = std::max(extra, ranks.program(Rank(r)).extra_bytes());
  }
  Measurement out = recorder.finish(fmt::format(
      "{} virtual ranks on one {}, ops timed one at a time on the device and composed along the plan's dependencies: a "
      "check of compute and order, not of links ({}); a rank's {}{}",
      plan.ranks, device->description().name, driver.versions(), memory_text(plan, buffers, extra),
      overhead_text(overhead)));
  if (options.statistic == RunOptions::Statistic::minimum) out.timeline = timeline(fastest);
  return out;
}

Loaded load_driver() {
  const auto path = find_module("moesim_cuda.so");
  if (path.empty())
    return {nullptr,
            "this build has no CUDA executor: install the CUDA toolkit and NCCL, and configure with -DMOESIM_CUDA=ON; "
            "'--backend host' runs on this machine's processors"};
  void* module = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (module == nullptr)
    return {nullptr,
            fmt::format("the CUDA executor does not load: {}; install CUDA's libraries, or name the folder that "
                        "they are in with LD_LIBRARY_PATH",
                        dlerror())};
  const auto function = reinterpret_cast<DriverFunction>(dlsym(module, driver_symbol));
  Driver* driver = function == nullptr ? nullptr : function(driver_interface);
  if (driver == nullptr)
    return {nullptr, fmt::format("{} belongs to another version of this program: build both together", path.string())};
  return {driver, driver->trouble()};
}

class Cuda final : public Executor {
 public:
  [[nodiscard]] std::string_view name() const override { return "cuda"; }
  [[nodiscard]] std::string unavailable() const override { return loaded().trouble; }
  [[nodiscard]] Measurement run(const Plan& plan, const Inputs& inputs, const RunOptions& options) const override {
    const auto& [driver, trouble] = loaded();
    if (driver == nullptr || !trouble.empty()) throw Refused(trouble);
    return measure(*driver, plan, inputs, options);
  }
};

}  // namespace

const Loaded& loaded() {
  static const Loaded module = load_driver();
  return module;
}

Measurement measure(Driver& driver, const Plan& plan, const Inputs& inputs, const RunOptions& options) {
  if (options.repeats < 1 || options.warmup < 0) throw Refused("a measurement needs at least one run");
  if (options.transport != nullptr) return as_process(driver, plan, inputs, options);
  const bool enough = driver.devices() * driver.ranks_per_device() >= plan.ranks;
  if (options.mode == RunOptions::Mode::threads && !enough)
    throw Refused(
        fmt::format("the plan has {} ranks and this machine {} GPUs; without '--mode threads' all ranks share "
                    "one GPU, one at a time",
                    plan.ranks, driver.devices()));
  if (options.mode == RunOptions::Mode::one_at_a_time || !enough) return on_one(driver, plan, inputs, options);
  return on_gpus(driver, plan, inputs, options);
}

}  // namespace gpu

const Executor& cuda() {
  static const gpu::Cuda executor;
  return executor;
}

}  // namespace moesim::backend
