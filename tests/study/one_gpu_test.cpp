// Virtual ranks predicted: collectives are copies at the memory's rate, and what is predicted is what such a run has.
#include "study/one_gpu.hpp"

#include <doctest/doctest.h>

#include "backend/executor.hpp"
#include "plan/timeline_file.hpp"
#include "sim/op_cost.hpp"
#include "study/compare.hpp"
#include "tests/common/cases.hpp"

using namespace moesim;
using namespace moesim::testing;

namespace {

study::Setup setup_of(const Model& model, const Cluster& cluster, const Workload& workload) {
  study::Setup setup;
  setup.model = model;
  setup.cluster = cluster;
  setup.workload = workload;
  setup.routing = std::make_unique<FunctionRouting>(balanced(model, workload.sequences * workload.sequence_length));
  return setup;
}

const Span& span(const Plan& plan, const Timeline& t, std::string_view name, int rank) {
  for (const Span& s : t.spans)
    if (plan.op(s.op).name == name && s.rank == Rank(rank)) return s;
  throw std::out_of_range("no span of " + std::string(name));
}

}  // namespace

TEST_CASE("a collective takes as long as its copies and sums, read and written") {
  // 1000 GB/s, no launch costs: a nanosecond for 1000 bytes. 4 ranks, 64 tokens of 64 float32 each, every token to two
  // of 8 experts, evenly: 128 copies, 32 to every rank. A rank fetches 32 from each, 16.384 ns every time.
  const Model model = small_model(8, 2);
  const study::Setup setup = setup_of(model, round_cluster(1, 4), prefill(4, 64));
  const auto kernels = cost::make_roofline(setup.cluster.gpu);
  const auto predicted = [&](const char* strategy, const std::map<std::string, strategies::OptionValue>& options) {
    Plan plan = make_plan(strategy, options, model, setup.cluster, setup.workload, *setup.routing);
    Timeline t = study::predict_on_one_gpu(plan, setup, *kernels);
    return std::pair(std::move(plan), std::move(t));
  };
  constexpr std::int64_t row = 64 * 4;
  {
    const auto [plan, t] = predicted("expert_parallel", {});
    for (int r = 0; r < 4; ++r) {
      const Span& dispatch = span(plan, t, "l0.moe.dispatch", r);
      CHECK(dispatch.end - dispatch.start == Picoseconds(66'000));
    }
    // Local ops cost what they cost the simulator.
    const sim::OpCosts costs(plan, setup.cluster, *kernels);
    int local = 0;
    for (const Span& s : t.spans) {
      const Op& op = plan.op(s.op);
      if (std::holds_alternative<Collective>(op.work) || std::holds_alternative<HostSync>(op.work)) continue;
      const Picoseconds off = s.end - s.start - costs(op, s.rank).device();
      CHECK(std::abs(off.value()) <= 500);  // whole nanoseconds
      ++local;
    }
    CHECK(local > 20);
  }
  {
    // An all-reduce of 256 rows over 4: each sums a quarter of four partial results, then fetches three quarters.
    const auto [plan, t] = predicted("tensor_parallel", {});
    const Span& s = span(plan, t, "l0.moe.all_reduce", 2);
    constexpr double bytes = 64 * row * 5 + 3 * (2 * 64 * row);
    CHECK(to_microseconds(s.end - s.start) * 1e6 == doctest::Approx(bytes).epsilon(0.02));
  }
}

TEST_CASE("launches, waits and what the host still issues stand between two stamps") {
  const Model model = small_model(8, 2);
  Cluster cluster = round_cluster(1, 2);
  cluster.gpu.launch = Picoseconds(5'000'000);
  cluster.gpu.host_sync = Picoseconds(20'000'000);
  const study::Setup setup = setup_of(model, cluster, prefill(2, 8));
  const auto kernels = cost::make_roofline(setup.cluster.gpu);
  const Plan plan = make_plan("expert_parallel", {}, model, cluster, setup.workload, *setup.routing);
  const Timeline t = study::predict_on_one_gpu(plan, setup, *kernels);
  for (const Span& s : t.spans) {
    const Op& op = plan.op(s.op);
    // Kernels here take well under a launch: the GPU waits for the host at each, from when the one before has ended.
    if (std::holds_alternative<Gemm>(op.work)) {
      CHECK(s.end - s.start > Picoseconds(4'900'000));
      CHECK(s.end - s.start < Picoseconds(6'000'000));
    }
    if (std::holds_alternative<HostSync>(op.work)) CHECK(s.end - s.start == Picoseconds(20'000'000));
  }
}

TEST_CASE("predicted and measured spans of ranks that run one at a time match, op for op") {
  const Model model = small_model(8, 2);
  const Cluster cluster = round_cluster(1, 4);
  for (const bool train : {false, true})
    for (const char* strategy : {"expert_parallel", "expert_sharding", "tensor_parallel", "fsdp", "hecate"}) {
      const bool trains = std::string_view(strategy) == "fsdp" || std::string_view(strategy) == "hecate";
      if (trains != train) continue;
      CAPTURE(strategy);
      Workload work = prefill(4, 8);
      if (train) work.phase = Workload::Phase::train;
      const study::Setup setup = setup_of(model, cluster, work);
      const auto kernels = cost::make_roofline(cluster.gpu);
      const Plan plan = make_plan(strategy, {}, model, cluster, work, *setup.routing);
      const Timeline predicted = study::predict_on_one_gpu(plan, setup, *kernels);
      backend::RunOptions how;
      how.mode = backend::RunOptions::Mode::one_at_a_time;
      how.repeats = 1;
      how.warmup = 0;
      backend::Measurement measured = backend::host().run(plan, {*setup.routing}, how);
      measured.timeline.kind = Timeline::Kind::measured_virtual_ranks;  // as if it were a GPU
      const study::Comparison c = study::compare({timeline_file(plan, predicted, "predicted")},
                                                 {timeline_file(plan, measured.timeline, measured.method)}, {});
      CHECK(c.strategies.front().moe_layers == 1);
    }
}
