// Ranks on "GPUs" of their own: threads, streams, events and NCCL calls, carried out in random order by the processor.
#include "backend/cuda/executor.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <mutex>
#include <thread>

#include "backend/cuda/gpu_ranks.hpp"
#include "backend/host/numerics.hpp"
#include "tests/backend/cuda/processor.hpp"
#include "tests/backend/small_models.hpp"

using namespace moesim;
using namespace moesim::test;
namespace gpu = moesim::backend::gpu;

namespace {

struct Small {
  Case test_case;
  TableRouting routing;
  Plan plan;
};

Small small(int ranks, const Variant& v, unsigned seed = 1, DType dtype = DType::f32) {
  std::mt19937 random(seed);
  MoeBlock block;
  block.experts = 8;
  block.top_k = 2;
  block.expert = {24, true, false, Activation::silu};
  block.shared = {24, true, false, Activation::silu};
  Case c = moe_only(16, block, ranks, 13, 1, dtype);
  TableRouting routing = random_routing(1, 13, 8, 2, 1, 1, random);
  auto plan = plan_of(c, routing, v.strategy, v.options);
  if (!plan) return {std::move(c), std::move(routing), {}};
  return {std::move(c), std::move(routing), std::move(*plan)};
}
Small small(int ranks) { return small(ranks, {"expert_parallel", {}, "plain"}); }

std::vector<BufferId> last_results(const Plan& plan) {
  std::vector<BufferId> out;
  for (const BufferId b : plan.ops.back().writes) out.push_back(b);
  return out;
}

std::vector<std::unique_ptr<gpu::Device>> open_all(Machine& machine, int ranks) {
  std::vector<std::unique_ptr<gpu::Device>> out;
  for (int r = 0; r < ranks; ++r) out.push_back(machine.open(r));
  return out;
}

double apart(const std::vector<float>& expected, const std::vector<float>& got) {
  REQUIRE(expected.size() == got.size());
  double largest = 1e-9;
  double worst = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(expected[i])));
    const double d = std::abs(static_cast<double>(expected[i]) - static_cast<double>(got[i]));
    worst = std::isnan(d) ? INFINITY : std::max(worst, d);
  }
  return worst / largest;
}

std::string refusal(const std::function<void()>& what) {
  try {
    what();
  } catch (const std::exception& e) {
    return e.what();
  }
  return {};
}

}  // namespace

TEST_CASE("ranks on GPUs: every strategy gives what the host gives, whatever the order that events allow") {
  int ran = 0;
  for (const int ranks : {1, 2, 4})
    for (const Variant& v : variants())
      for (const DType dtype : {DType::f32, DType::bf16}) {
        const Small s = small(ranks, v, 5, dtype);
        if (s.plan.ops.empty()) continue;
        CAPTURE(v.name);
        CAPTURE(ranks);
        ++ran;
        const backend::Inputs inputs{s.routing, 3};
        const backend::Programs host = backend::compute(s.plan, inputs);
        for (unsigned seed = 0; seed < 3; ++seed) {
          Machine machine(ranks, seed);
          machine.join_waits = true;
          const auto devices = open_all(machine, ranks);
          std::vector<std::unique_ptr<gpu::GpuRank>> programs(devices.size());
          std::mutex mutex;
          std::map<gpu::GpuRank::Meeting, gpu::MeetingId> ids;
          const auto meet = [&](const gpu::GpuRank::Meeting& at) {
            const std::scoped_lock lock(mutex);
            auto& id = ids[at];
            if (id.empty()) id = machine.meeting_id();
            return id;
          };
          std::vector<std::string> failures(devices.size());
          {
            std::vector<std::jthread> threads;
            for (std::size_t r = 0; r < devices.size(); ++r)
              threads.emplace_back([&, r] {
                failures[r] = refusal([&] {
                  programs[r] = std::make_unique<gpu::GpuRank>(s.plan, inputs, Rank(r), *devices[r]);
                  programs[r]->join(meet);
                  for (int run = 0; run < 2; ++run) programs[r]->run({60, true, false, {}});
                });
              });
          }
          for (std::size_t r = 0; r < devices.size(); ++r) {
            REQUIRE(failures[r].empty());
            for (const BufferId b : last_results(s.plan))
              CHECK(apart(backend::values(*host[r], b), gpu::values(programs[r]->program(), b)) <=
                    (dtype == DType::f32 ? 2e-5 : 4 * 0x1p-8));
          }
        }
      }
  CHECK(ran > 60);
}

TEST_CASE("the executor: one GPU for each rank, or virtual ranks on one") {
  const Small s = small(4);
  const backend::Inputs inputs{s.routing, 3};
  backend::RunOptions options;
  options.repeats = 3;
  for (const int gpus : {4, 2}) {
    Machine machine(gpus);
    const backend::Measurement m = gpu::measure(machine, s.plan, inputs, options);
    CHECK(m.makespans.size() == 3);
    CHECK(m.timeline.kind == (gpus == 4 ? Timeline::Kind::measured_wall : Timeline::Kind::measured_virtual_ranks));
    CHECK(m.timeline.spans.size() == 4 * s.plan.ops.size());
    for (const Span& span : m.timeline.spans) {
      CHECK(span.ready <= span.start);
      CHECK(span.start <= span.end);
    }
    CHECK(m.method.find(gpus == 4 ? "4 x processor 0" : "4 virtual ranks on one processor 0") != std::string::npos);
    CHECK(m.method.find("time stamps add") != std::string::npos);
    CHECK(m.method.find("the plan's peak") != std::string::npos);
    CHECK(machine.live == 0);  // devices are given back
  }
}

TEST_CASE(
    "where NCCL lets ranks share a GPU they run beside each other, and the timeline says that it is no check of "
    "links") {
  const Small s = small(4);
  backend::RunOptions options;
  options.mode = backend::RunOptions::Mode::threads;
  for (const int gpus : {2, 1}) {
    CAPTURE(gpus);
    Machine machine(gpus);
    machine.sharing = 2;
    if (gpus == 1) {  // two ranks a GPU are not four
      CHECK(refusal([&] { gpu::measure(machine, s.plan, {s.routing, 3}, options); }).find("the plan has 4 ranks") == 0);
      continue;
    }
    const backend::Measurement m = gpu::measure(machine, s.plan, {s.routing, 3}, options);
    CHECK(m.timeline.kind == Timeline::Kind::measured_virtual_ranks);
    CHECK(m.method.find("4 ranks that share 2 GPUs") != std::string::npos);
    CHECK(machine.live == 0);
  }
}

TEST_CASE("a graph is captured once and replayed; a plan in which the host waits is refused") {
  const Small s = small(2, {"expert_parallel", {{"host_sync", false}}, "no host sync"});
  REQUIRE(!s.plan.ops.empty());
  Machine machine(2);
  backend::RunOptions options;
  options.graph = true;
  options.repeats = 4;
  const backend::Measurement m = gpu::measure(machine, s.plan, {s.routing, 3}, options);
  CHECK(m.makespans.size() == 4);
  CHECK(machine.captures == 2);     // one at each rank
  CHECK(machine.replays == 2 * 4);  // five runs, of which the first is not a replay
  CHECK(m.method.find("CUDA graph") != std::string::npos);

  const Small waits = small(2, {"expert_parallel", {{"host_sync", true}}, "host sync"});
  REQUIRE(!waits.plan.ops.empty());
  CHECK(refusal([&] {
          gpu::measure(machine, waits.plan, {waits.routing, 3}, options);
        }).find("a graph cannot hold op 'l0.moe.counts_to_host', in which the host waits") == 0);
  Machine one(1);
  CHECK(refusal([&] { gpu::measure(one, s.plan, {s.routing, 3}, options); }).find("virtual ranks run op by op") == 0);
}

TEST_CASE("a GPU that stops is named with the op that it does not finish; the others end too") {
  const Small s = small(4);
  for (const int after : {20, 26}) {
    Machine machine(4);
    machine.hang_after = after;
    backend::RunOptions options;
    options.patience = 0.5;
    const std::string what = refusal([&] { gpu::measure(machine, s.plan, {s.routing, 3}, options); });
    CHECK(what.find("rank ") == 0);
    CHECK(what.find(" did not finish ") != std::string::npos);
    CHECK(what.find(" within 0.5 s") != std::string::npos);
    CHECK(machine.live == 0);
  }
}

TEST_CASE("an asynchronous error ends all ranks, with the op's name and the library's words") {
  const Small s = small(4);
  for (const int gpus : {4, 1}) {
    for (const bool lost : {false, true}) {
      Machine machine(gpus);
      machine.fail_after = 26;  // weights are made, and some ops are done
      machine.lost = lost;
      backend::RunOptions options;
      options.patience = 5;
      const std::string what = refusal([&] { gpu::measure(machine, s.plan, {s.routing, 3}, options); });
      CAPTURE(what);
      CHECK(what.find(" failed at ") != std::string::npos);
      CHECK(what.find(": NCCL: a collective: remote process exited") != std::string::npos);
      if (gpus == 4) CHECK(what.find(lost ? "rank 0 (processor 0) failed at " : "failed at op '") != std::string::npos);
      CHECK(machine.live == 0);
    }
  }
}

TEST_CASE("out of memory: which rank needs what, and what is free") {
  const Small s = small(2);
  Machine machine(2, 1, 4096);
  const std::string what = refusal([&] { gpu::measure(machine, s.plan, {s.routing, 3}, {}); });
  CHECK(what.find("rank ") == 0);
  CHECK(what.find("of device memory for the plan's buffers (weight ") != std::string::npos);
  CHECK(what.find("4.00 KiB free") != std::string::npos);
}

TEST_CASE("more ranks than GPUs with threads, and other processes, are refused with what to do") {
  const Small s = small(4);
  Machine machine(2);
  backend::RunOptions options;
  options.mode = backend::RunOptions::Mode::threads;
  CHECK(
      refusal([&] { gpu::measure(machine, s.plan, {s.routing, 3}, options); }) ==
      "the plan has 4 ranks and this machine 2 GPUs; without '--mode threads' all ranks share one GPU, one at a time");
}

TEST_CASE("the machine notices what NCCL would hang on or corrupt") {
  Machine machine(2);
  const auto devices = open_all(machine, 2);
  const auto id = machine.meeting_id();
  for (int r = 0; r < 2; ++r) CHECK(devices[static_cast<std::size_t>(r)]->join(id, 2, r) == 0);
  std::vector<std::byte> room(64);
  using Message = gpu::Exchange::Message;
  SUBCASE("a message of another size") {
    devices[0]->enqueue(gpu::Exchange{{{Message::Kind::send, 1, room.data(), nullptr, 4, DType::f32}}}, 0);
    devices[1]->enqueue(gpu::Exchange{{{Message::Kind::receive, 0, nullptr, room.data(), 3, DType::f32}}}, 0);
    CHECK_THROWS(devices[0]->finish(1, [] { return false; }));
  }
  SUBCASE("a member that does not come") {
    devices[0]->enqueue(gpu::Exchange{{{Message::Kind::all_reduce, -1, room.data(), room.data(), 4, DType::f32}}}, 0);
    CHECK(!devices[0]->finish(0.1, [] { return false; }));
  }
  SUBCASE("a wait for what is never recorded does not count, one that is recorded later does") {
    devices[0]->record(7, 1);
    devices[0]->wait(7, 0);
    CHECK(devices[0]->finish(1, [] { return false; }));
  }
}
