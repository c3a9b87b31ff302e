// Timelines, refusals and failures of the host executor.
#include "backend/executor.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <thread>

#include "backend/host/clock.hpp"
#include "backend/host/numerics.hpp"
#include "backend/transport.hpp"
#include "plan/builder.hpp"
#include "tests/backend/small_models.hpp"

using namespace moesim;
using namespace moesim::test;
using backend::Inputs;
using backend::Refused;
using backend::RunOptions;

namespace {

struct Small {
  explicit Small(int ranks, const char* strategy = "expert_parallel", DType dtype = DType::f32) : random(2) {
    MoeBlock block;
    block.experts = 4;
    block.top_k = 2;
    block.expert = {32, true, false, Activation::silu};
    c = moe_only(16, block, ranks, 12, 2, dtype);
    routing = std::make_unique<TableRouting>(random_routing(1, 24, 4, 2, 1, 0, random));
    plan = *plan_of(c, *routing, strategy, {});
  }
  std::mt19937 random;
  Case c;
  std::unique_ptr<TableRouting> routing;
  Plan plan;
};

// ready <= start <= end; ops of a stream do not overlap; dependencies and meetings are kept.
void check_timeline(const Plan& plan, const Timeline& t) {
  CHECK(t.ranks == plan.ranks);
  std::vector<std::vector<const Span*>> span(plan.ops.size(),
                                             std::vector<const Span*>(static_cast<std::size_t>(plan.ranks)));
  for (const Span& s : t.spans) {
    CHECK(s.ready <= s.start);
    CHECK(s.start <= s.end);
    CHECK(s.launch + s.wait <= s.end - s.ready);
    CHECK(s.end <= t.makespan);
    span[s.op.index()][s.rank.index()] = &s;
  }
  CHECK(std::is_sorted(t.spans.begin(), t.spans.end(),
                       [](const Span& a, const Span& b) { return std::pair(a.op, a.rank) < std::pair(b.op, b.rank); }));
  for (std::size_t r = 0; r < static_cast<std::size_t>(plan.ranks); ++r) {
    std::map<int, Picoseconds> stream;
    for (std::size_t i = 0; i < plan.ops.size(); ++i) {
      const Span* s = span[i][r];
      if (s == nullptr) continue;
      CHECK(s->start >= stream[plan.ops[i].stream]);
      stream[plan.ops[i].stream] = s->end;
      for (const OpId a : plan.ops[i].after)
        if (span[a.index()][r] != nullptr) CHECK(s->start >= span[a.index()][r]->end);
      const auto* c = std::get_if<Collective>(&plan.ops[i].work);
      if (c == nullptr) continue;
      for (const auto& g : plan.groups[c->groups.index()])
        if (std::find(g.begin(), g.end(), Rank(r)) != g.end())
          for (const Rank other : g) CHECK(s->end >= span[i][other.index()]->ready);  // nobody leaves before all enter
    }
  }
}

}  // namespace

TEST_CASE("one at a time and as threads give Timelines that keep the plan's order") {
  for (const char* strategy : {"expert_parallel", "expert_sharding", "tensor_parallel", "expert_tensor_parallel"}) {
    const Small s(4, strategy);
    CAPTURE(strategy);
    for (const auto mode : {RunOptions::Mode::one_at_a_time, RunOptions::Mode::threads}) {
      RunOptions options;
      options.mode = mode;
      options.repeats = 3;
      const backend::Measurement m = backend::host().run(s.plan, {*s.routing, 1}, options);
      check_timeline(s.plan, m.timeline);
      CHECK(m.makespans.size() == 3);
      CHECK(std::count(m.makespans.begin(), m.makespans.end(), m.timeline.makespan) >= 1);
      CHECK(m.timeline.makespan == m.median());
      CHECK(m.timeline.spans.size() == s.plan.ops.size() * 4);  // every rank takes part in every op here
      const bool threads = mode == RunOptions::Mode::threads;
      CHECK(m.timeline.kind == (threads ? Timeline::Kind::measured_wall : Timeline::Kind::measured_composed));
      CHECK(m.method.find("median of 3 runs after 1 to warm up") != std::string::npos);
    }
  }
}

TEST_CASE("ranks are threads where each has a core, and ops run one at a time otherwise") {
  const unsigned cores = std::max(1U, std::thread::hardware_concurrency());
  RunOptions options;
  options.repeats = 1;
  options.warmup = 0;
  const Small few(1);
  CHECK(backend::host().run(few.plan, {*few.routing, 1}, options).timeline.kind == Timeline::Kind::measured_wall);
  if (cores < 8) {
    const Small many(8);
    CHECK(backend::host().run(many.plan, {*many.routing, 1}, options).timeline.kind ==
          Timeline::Kind::measured_composed);
  }
}

TEST_CASE("the fastest run can be asked for, and a measurement can be cut short") {
  const Small s(2);
  RunOptions options;
  options.mode = RunOptions::Mode::one_at_a_time;
  options.repeats = 9;
  options.statistic = RunOptions::Statistic::minimum;
  backend::Measurement m = backend::host().run(s.plan, {*s.routing, 1}, options);
  for (const Picoseconds run : m.makespans) CHECK(m.timeline.makespan <= run);  // composed of the fastest ops
  int calls = 0;
  options.progress = [&](double done) {
    CHECK(done == doctest::Approx(++calls / 10.0));
    return calls < 4;
  };
  m = backend::host().run(s.plan, {*s.routing, 1}, options);
  CHECK(m.makespans.size() == 3);
  options.progress = [](double) { return false; };
  CHECK_THROWS_AS(static_cast<void>(backend::host().run(s.plan, {*s.routing, 1}, options)), Refused);
}

// Two ranks; an op of 10 on each, then a collective that costs 5 and 7, then a host_sync, then another op.
//   rank 0: a 0-10, c ready 10, met 30 (rank 1 comes then), 30-35, sync 35, b 35-36
//   rank 1: a 0-30, c 30-37, sync 37, b 37-39
TEST_CASE("the composed clock, on paper") {
  Plan p;
  p.ranks = 2;
  p.tokens.begin = {0, 1, 2};
  p.owner_of_rank = {0, 1};
  PlanBuilder b(std::move(p));
  Table one(1, 1);
  one.at(0, 0) = 1;
  const GroupsId all = b.groups({{Rank(0), Rank(1)}});
  const TableId counts = b.table(one);
  const auto buffer = [&](const char* name, std::int64_t rows) {
    return b.buffer({name, BufferRole::activation, Location::device, DType::f32, Rows{rows, {}}, 1, {}});
  };
  const BufferId x = buffer("x", 1);
  const BufferId y = buffer("y", 2);
  const auto add = [&](const char* name, int stream, std::vector<BufferId> reads, std::vector<BufferId> writes,
                       Work w) {
    b.add(
        {name, Category::other, Pass::forward, Layer{}, stream, {}, std::move(reads), std::move(writes), std::move(w)});
  };
  const Elementwise e{Elementwise::Fn::add, Rows{1, {}}, 1, 1, DType::f32, 0, {}};
  add("a", 0, {}, {x}, e);
  add("c", 1, {x}, {y}, Collective{Collective::Kind::all_gather_v, {}, all, counts, 1, DType::f32, 0, {}, {}});
  add("sync", 1, {y}, {}, HostSync{});
  add("b", 0, {}, {buffer("z", 1)}, e);
  const Plan plan = std::move(b).finish();
  const Timeline t = backend::composed_timeline(plan, {{10, 5, 0, 1}, {30, 7, 0, 2}});
  const auto expect = [&](std::size_t i, std::int64_t ready, std::int64_t start, std::int64_t end, std::int64_t wait) {
    CHECK(t.spans[i].ready == Picoseconds(ready * 1000));
    CHECK(t.spans[i].start == Picoseconds(start * 1000));
    CHECK(t.spans[i].end == Picoseconds(end * 1000));
    CHECK(t.spans[i].wait == Picoseconds(wait * 1000));
  };
  REQUIRE(t.spans.size() == 8);
  expect(0, 0, 0, 10, 0);
  expect(1, 0, 0, 30, 0);
  expect(2, 10, 30, 35, 20);
  expect(3, 30, 30, 37, 0);
  expect(4, 35, 35, 35, 0);
  expect(5, 37, 37, 37, 0);
  expect(6, 35, 35, 36, 0);  // issued after the sync, although its stream was free at 10
  expect(7, 37, 37, 39, 0);
  CHECK(t.makespan == Picoseconds(39'000));
}

TEST_CASE("wall marks become spans with launch and wait") {
  Small s(1);
  s.plan.ops.resize(2);
  s.plan.ops[1].after = {OpId(0)};
  const Timeline t = backend::wall_timeline(s.plan, {{{5, 5, 20}, {25, 40, 50}}});
  REQUIRE(t.spans.size() == 2);
  CHECK(t.spans[1].ready == Picoseconds(20'000));
  CHECK(t.spans[1].launch == Picoseconds(5'000));
  CHECK(t.spans[1].wait == Picoseconds(15'000));
  CHECK(t.spans[1].start == Picoseconds(40'000));
  CHECK(t.makespan == Picoseconds(50'000));
}

TEST_CASE("what the host cannot do is refused with the op's name") {
  const auto refusal = [](const Plan& plan, const Routing& routing) -> std::string {
    try {
      static_cast<void>(backend::compute(plan, {routing, 1}));
    } catch (const Refused& e) {
      return e.what();
    }
    return "not refused";
  };
  const Small good(2);
  const auto with = [&](const std::string& name, const std::function<void(Op&)>& change) {
    Plan plan = good.plan;
    for (Op& op : plan.ops)
      if (op.name == name) change(op);
    return refusal(plan, *good.routing);
  };
  CHECK(with("l0.moe.up", [](Op& op) {
          std::get<GroupedGemm>(op.work).form = GroupedGemm::Form::weight_gradient;
        }).find("its rows are not those of its buffers") != std::string::npos);
  CHECK(with("embedding", [](Op& op) {
          std::get<Elementwise>(op.work).fn = Elementwise::Fn::adam;
        }).find("op 'embedding' (adam) does not run on the host") == 0);
  CHECK(with("l0.moe.up", [](Op& op) { std::get<GroupedGemm>(op.work).k = 17; }).find("its columns do not fit") !=
        std::string::npos);
  CHECK(with("head", [](Op& op) { std::get<Gemm>(op.work).n = 36; }).find("its columns do not fit") !=
        std::string::npos);
  CHECK(with("final_norm", [](Op& op) { op.reads.resize(1); }).find("it reads too few buffers") != std::string::npos);
  CHECK(with("l0.moe.dispatch", [](Op& op) { op.writes = op.reads; }).find("it works in place") != std::string::npos);
  Plan fp8 = good.plan;
  fp8.buffers[0].dtype = DType::fp8;
  CHECK(refusal(fp8, *good.routing).find("the host computes with f32, bf16 and f16, and buffer 'embedding.table'") ==
        0);
  std::mt19937 random(99);
  const TableRouting other = random_routing(1, 24, 4, 2, 1, 0, random);
  CHECK(refusal(good.plan, other).find("it is not the routing that the plan was made with") != std::string::npos);
  CHECK(refusal(good.plan, *good.routing) == "not refused");
}

TEST_CASE("a plan that does not fit into memory is refused with what it needs") {
  Small s(2);
  s.plan.buffers.push_back(
      {"huge", BufferRole::activation, Location::device, DType::f32, Rows{std::int64_t{1} << 40, {}}, 1, {}});
  try {
    static_cast<void>(backend::host().run(s.plan, {*s.routing, 1}, {}));
    FAIL("it ran");
  } catch (const Refused& e) {
    // 2 ranks x 2^40 float32 = 8 TiB, and the small ones.
    CHECK(std::string(e.what()).find("2 ranks of this plan need 8.00 TiB of memory on the host, and") == 0);
  }
}

TEST_CASE("an error on one rank ends the run of all, with that error") {
  Small s(4);
  // A router weight that is not a number on one rank: its scores are refused while the run is under way.
  std::vector<Rank> ranks;
  for (int r = 0; r < 4; ++r) ranks.emplace_back(r);
  const Inputs inputs{*s.routing, 1};
  const backend::Programs programs = backend::make_programs(s.plan, inputs, ranks);
  const backend::Tensor& w = programs[2]->memory().tensor(backend::buffer_named(s.plan, "l0.moe.router.weight"));
  std::fill(w.data, w.data + w.bytes(), std::byte{0xff});
  CHECK_THROWS_WITH(
      backend::run_threads(s.plan, programs, 3, 60, [](const std::vector<backend::Marks>&) { return true; }),
      "a router score is not a finite number");
}

TEST_CASE("a rank that never comes is named by the op that waits for it") {
  Small s(2);
  std::vector<Rank> ranks{Rank(0), Rank(1)};
  backend::Programs programs = backend::make_programs(s.plan, {*s.routing, 1}, ranks);
  // Rank 1 hangs in its first kernel until the other has given up.
  std::atomic<bool> released{false};
  auto& first = const_cast<backend::BoundOp&>(programs[1]->ops()[0]);
  first.kernel = [&](backend::Scratch&) {
    while (!released.load()) std::this_thread::yield();
  };
  std::jthread release([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(600));
    released.store(true);
  });
  CHECK_THROWS_WITH(
      backend::run_threads(s.plan, programs, 1, 0.2, [](const std::vector<backend::Marks>&) { return true; }),
      doctest::Contains("not all ranks reached 'l0.moe.counts' within 0.2 s"));
}

TEST_CASE("executors by name; one that is not compiled in says how to get it") {
  CHECK(backend::find_executor("host") == &backend::host());
  CHECK(backend::find_executor("tpu") == nullptr);
  CHECK(backend::executor_names().size() == 2);
  const backend::Executor& cuda = backend::cuda();
  if (cuda.unavailable().empty()) return;
  CHECK(cuda.unavailable().find("-DMOESIM_CUDA=ON") != std::string::npos);
  const Small s(1);
  CHECK_THROWS_AS(static_cast<void>(cuda.run(s.plan, {*s.routing, 1}, {})), Refused);
}
