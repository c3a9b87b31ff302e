#include <doctest/doctest.h>

#include "tests/plan/paper_plan.hpp"

using namespace moesim;
using namespace moesim::literals;

// Rows of 8 float32: 32 bytes each. Rank 0 has 3 tokens, 3 copies, 3 arriving rows, 3 computed ones; rank 1 has 2, 2,
// 2, 2 of the same. Weights: 10 + 16 rows.
//
//   op          alive (rows of rank 0)
//   embedding   x 3
//   permute     x 3, sorted 3            = 6: x is last read here
//   dispatch    sorted 3, dispatched 3   = 6
//   ...         every op holds its input and its output
TEST_CASE("peak memory of the paper plan") {
  const Plan plan = test::paper_plan();
  const MemoryPeak peak = memory_peak(plan, Rank(0));
  CHECK(peak.total == Bytes(26 * 32 + 6 * 32));
  CHECK(plan.op(peak.at).name == "permute");
  CHECK(peak.by_role.at(BufferRole::weight) == Bytes(26 * 32));
  CHECK(peak.by_role.at(BufferRole::activation) == Bytes(6 * 32));
  CHECK(peak.by_role.count(BufferRole::communication) == 0);
  CHECK(memory_peak(plan, Rank(1)).total == Bytes(26 * 32 + 4 * 32));
  CHECK(worst_memory_peak(plan).total == peak.total);
}

TEST_CASE("a buffer that is read again lives on") {
  Plan plan = test::paper_plan();
  plan.ops.back().reads.push_back(plan.ops.front().writes.front());  // the residual: x is read at the end
  // Now x's 3 rows are alive all the time: 9 rows from dispatch on.
  const MemoryPeak peak = memory_peak(plan, Rank(0));
  CHECK(peak.total == Bytes(26 * 32 + 9 * 32));
  CHECK(plan.op(peak.at).name == "dispatch");
  CHECK(peak.by_role.at(BufferRole::communication) == Bytes(3 * 32));
}

TEST_CASE("host memory, caches and what no op touches") {
  Plan plan = test::paper_plan();
  const Bytes before = memory_peak(plan, Rank(0)).total;
  plan.buffers.push_back({"cache", BufferRole::kv_cache, Location::device, DType::bf16, Rows{5, {}}, 3, {}});
  CHECK(memory_peak(plan, Rank(0)).total == before + Bytes(30));  // lives through the plan
  plan.buffers.push_back({"spare", BufferRole::activation, Location::device, DType::bf16, Rows{5, {}}, 3, {}});
  CHECK(memory_peak(plan, Rank(0)).total == before + Bytes(30));
  plan.buffers.push_back({"offloaded", BufferRole::optimizer, Location::host, DType::f32, Rows{1 << 20, {}}, 8, {}});
  CHECK(memory_peak(plan, Rank(0)).total == before + Bytes(30));
}

TEST_CASE("fp4 packs two elements to a byte, rounded up per buffer") {
  Plan plan = test::paper_plan();
  const Bytes before = memory_peak(plan, Rank(0)).total;
  plan.buffers.push_back({"fp4", BufferRole::weight, Location::device, DType::fp4, Rows{3, {}}, 3, {}});
  CHECK(memory_peak(plan, Rank(0)).total == before + Bytes(5));
}

TEST_CASE("a plan without ops holds its weights") {
  Plan plan = test::paper_plan();
  plan.ops.clear();
  const MemoryPeak peak = memory_peak(plan, Rank(0));
  CHECK(peak.total == Bytes(26 * 32));
  CHECK(!peak.at.valid());
}

// Four experts of 5 x 2 float32, 40 bytes, two on each of two ranks. Rank 0 gathers expert 3, rank 1 nothing.
TEST_CASE("a gathered stack takes room for the experts that the rank lacks") {
  Plan plan;
  plan.ranks = 2;
  plan.tokens.begin = {0, 0, 0};
  plan.owner_of_rank = {0, 1};
  plan.groups = {{{Rank(0), Rank(1)}}};
  const auto placement = [](const std::vector<int>& experts, int first) {
    ExpertPlacement p;
    for (const int e : experts) p.expert_of_slot.emplace_back(e);
    p.slot_begin = {0, first, static_cast<int>(experts.size())};
    return p;
  };
  plan.placements = {placement({0, 1, 2, 3}, 2), placement({0, 1, 3, 2, 3}, 3)};
  Table owned(2, 1), all(2, 1);
  owned.at(0, 0) = owned.at(1, 0) = 10;
  all.at(0, 0) = 15;
  all.at(1, 0) = 10;
  plan.tables = {owned, all};
  Shard shard;
  shard.matrix_rows = 5;
  shard.expert_groups = GroupsId(0);
  shard.placement = PlacementId(0);
  plan.buffers.push_back({"w", BufferRole::weight, Location::device, DType::f32, {0, TableId(0)}, 2, shard});
  shard.placement = PlacementId(1);
  plan.buffers.push_back({"gathered", BufferRole::gathered, Location::device, DType::f32, {0, TableId(1)}, 2, shard});
  Collective c;
  c.kind = Collective::Kind::sparse_all_gather;
  c.groups = GroupsId(0);
  c.cols = 10;
  c.dtype = DType::f32;
  c.from = PlacementId(0);
  c.to = PlacementId(1);
  plan.ops.push_back({"gather", Category::parameters, Pass::forward, {}, 3, {}, {BufferId(0)}, {BufferId(1)}, c});
  CHECK(faults(plan).empty());
  CHECK(memory_peak(plan, Rank(0)).by_role.at(BufferRole::gathered) == Bytes(40));
  CHECK(memory_peak(plan, Rank(0)).total == Bytes(80 + 40));
  CHECK(memory_peak(plan, Rank(1)).total == Bytes(80));
}
