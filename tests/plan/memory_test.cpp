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
