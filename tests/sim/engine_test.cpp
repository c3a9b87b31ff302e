// The engine on plans small enough to follow with a pencil. round_cluster: 100 TFLOPS, 1000 GB/s, 100 GB/s links.
#include "sim/engine.hpp"

#include <doctest/doctest.h>

#include "moesim/error.hpp"
#include "plan/builder.hpp"
#include "tests/common/cases.hpp"

using namespace moesim;
using namespace moesim::testing;

namespace {

Plan empty_plan(int ranks) {
  Plan p;
  p.strategy = "hand-made";
  p.ranks = ranks;
  p.tokens = TokenRanges::even(ranks, static_cast<std::size_t>(ranks));
  for (int r = 0; r < ranks; ++r) p.owner_of_rank.push_back(r);
  return p;
}

// m x 1000 x 1000 in bf16: 2e6 m flops at 100 TFLOPS = 20 ns a row.
Op gemm_of(std::string name, Rows m, int stream = 0) {
  Op op;
  op.name = std::move(name);
  op.stream = stream;
  Gemm g;
  g.m = m;
  g.n = g.k = 1000;
  op.work = g;
  return op;
}

Op elementwise_of(std::string name, std::int64_t rows) {
  Op op;
  op.name = std::move(name);
  Elementwise e;
  e.rows = Rows{rows, {}};
  e.read_cols = e.write_cols = 250;  // 1000 B a row in bf16: 1 ns
  op.work = e;
  return op;
}

const Span& span_of(const Timeline& t, const Plan& p, std::string_view name, int rank) {
  for (const Span& s : t.spans)
    if (p.op(s.op).name == name && s.rank == Rank(rank)) return s;
  throw std::out_of_range("no span");
}

Timeline run(const Plan& plan, const Cluster& cluster) {
  const auto model = cost::make_roofline(cluster.gpu);
  return sim::simulate(plan, cluster, *model, {});
}

}  // namespace

TEST_CASE("a stream runs its ops in order, each for its roofline time") {
  PlanBuilder b(empty_plan(1));
  b.add(gemm_of("a", Rows{10'000, {}}));  // 2e10 flops / 1e14 = 200 us; 42 MB / 1 TB/s = 42 us
  b.add(elementwise_of("b", 100'000));    // 100 MB / 1 TB/s = 100 us
  const Plan plan = std::move(b).finish();
  const Timeline t = run(plan, round_cluster(1, 1));
  CHECK(span_of(t, plan, "a", 0).end == from_microseconds(200));
  CHECK(span_of(t, plan, "b", 0).start == from_microseconds(200));
  CHECK(t.makespan == from_microseconds(300));
}

TEST_CASE("independent streams overlap, and share what they both need") {
  PlanBuilder b(empty_plan(1));
  b.add(gemm_of("matrix", Rows{10'000, {}}, 0));  // 200 us, memory at 0.042 TB/s of 1: 21 %
  Op memory = elementwise_of("memory", 100'000);
  memory.stream = 2;
  b.add(memory);
  const Plan plan = std::move(b).finish();
  const Timeline t = run(plan, round_cluster(1, 1));
  // Together x (1 + 0.21) <= 1 on memory: x = 1 / 1.21. "memory" needs 100 us x 1.21 = 121 us.
  CHECK(to_microseconds(span_of(t, plan, "memory", 0).end) == doctest::Approx(121).epsilon(1e-6));
  // "matrix" has done 100 us of its work by then, and 100 us are left at full speed.
  CHECK(to_microseconds(t.makespan) == doctest::Approx(221).epsilon(1e-6));
}

TEST_CASE("launch-bound: short kernels wait for the host") {
  PlanBuilder b(empty_plan(1));
  for (int i = 0; i < 10; ++i) b.add(elementwise_of("k" + std::to_string(i), 1000));  // 1 us each
  const Plan plan = std::move(b).finish();
  Cluster cluster = round_cluster(1, 1);
  cluster.gpu.launch = from_microseconds(5);
  const Timeline t = run(plan, cluster);
  // Kernel i is issued at 5 (i + 1) us: the last ends at 51 us.
  CHECK(t.makespan == from_microseconds(51));
  CHECK(span_of(t, plan, "k9", 0).launch == from_microseconds(4));
}

TEST_CASE("a host_sync keeps the host from running ahead") {
  PlanBuilder b(empty_plan(1));
  b.add(elementwise_of("before", 100'000));  // issued at 5, ends at 105 us
  Op sync;
  sync.name = "sync";
  sync.work = HostSync{};
  b.add(sync);
  b.add(elementwise_of("after", 1000));  // the host is back at 105 + 10, issues until 120, 1 us
  const Plan plan = std::move(b).finish();
  Cluster cluster = round_cluster(1, 1);
  cluster.gpu.launch = from_microseconds(5);
  cluster.gpu.host_sync = from_microseconds(10);
  CHECK(run(plan, cluster).makespan == from_microseconds(121));
}

TEST_CASE("a collective begins when its last member enters; the early one waits") {
  PlanBuilder b(empty_plan(2));
  Table uneven(2, 1);
  uneven.at(0, 0) = 10'000;  // 200 us
  uneven.at(1, 0) = 20'000;  // 400 us
  const BufferId x = b.buffer({"x", BufferRole::activation, Location::device, DType::bf16, Rows{1, {}}, 1, {}});
  Op a = gemm_of("a", Rows{0, b.table(uneven)});
  a.writes = {x};
  b.add(a);
  Table pairs(2, 2);
  pairs.at(0, 1) = pairs.at(1, 0) = 1000;
  Op exchange;
  exchange.name = "exchange";
  exchange.stream = 1;
  exchange.reads = {x};
  Collective c;
  c.kind = Collective::Kind::all_to_all_v;
  c.groups = b.groups({{Rank(0), Rank(1)}});
  c.counts = b.table(pairs);
  c.cols = 50'000;  // 100 kB a row: 100 MB each way at 100 GB/s = 1 ms
  exchange.work = c;
  b.add(exchange);
  const Plan plan = std::move(b).finish();
  const Timeline t = run(plan, round_cluster(1, 2));
  const Span& early = span_of(t, plan, "exchange", 0);
  CHECK(early.ready == from_microseconds(200));
  CHECK(early.wait == from_microseconds(200));
  CHECK(to_microseconds(early.end) == doctest::Approx(1400).epsilon(1e-9));
  CHECK(span_of(t, plan, "exchange", 1).wait == Picoseconds(0));
  Bytes carried;
  for (const LinkUse& l : t.links) carried += l.bytes;
  CHECK(carried == Bytes(4 * 100'000'000));  // two flows over two links each
}

TEST_CASE("a plan whose ranks meet in different orders is reported, not hung on") {
  PlanBuilder b(empty_plan(3));
  Table one(1, 1);
  one.at(0, 0) = 1;
  const auto reduce = [&](const char* name, std::vector<Rank> group, int stream) {
    Op op;
    op.name = name;
    op.stream = stream;
    Collective c;
    c.kind = Collective::Kind::all_reduce;
    c.groups = b.groups({std::move(group)});
    c.counts = b.table(one);
    c.cols = 1;
    op.work = c;
    return b.add(op);
  };
  const OpId first = reduce("first", {Rank(0), Rank(1)}, 0);
  reduce("second", {Rank(1), Rank(2)}, 1);
  Plan plan = std::move(b).finish();
  plan.ops[1].after = {first};
  CHECK_NOTHROW(run(plan, round_cluster(1, 4)));
}

TEST_CASE("no op of a simulated model beats its data sheet, and all time is accounted for") {
  const Model model = small_model(8, 2, 2);
  const FunctionRouting routing = balanced(model, 256);
  for (const char* strategy : {"expert_parallel", "expert_sharding", "tensor_parallel", "expert_tensor_parallel"}) {
    const Cluster cluster = round_cluster(1, 4);
    const Plan plan = make_plan(strategy, {}, model, cluster, prefill(16, 16), routing);
    const Timeline t = run(plan, cluster);
    CHECK(t.spans.size() == plan.ops.size() * 4);
    for (const Span& s : t.spans) {
      CHECK(s.ready <= s.start);
      CHECK(s.start <= s.end);
      CHECK(s.launch + s.wait <= s.end - s.ready);
      if (const auto* c = std::get_if<Collective>(&plan.op(s.op).work)) {
        const Traffic bytes = traffic(plan, *c, s.rank);
        // In and out of a GPU at most at its link's 100 GB/s; a reduction may be done in the switch.
        if (c->kind == Collective::Kind::all_to_all_v)
          CHECK(s.end - s.start >= std::max(bytes.sent, bytes.received) / BytesPerSecond(100e9));
      }
    }
  }
}
