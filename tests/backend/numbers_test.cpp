#include "backend/numbers.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <set>

using namespace moesim;
using namespace moesim::backend;

namespace {

Plan four_ranks() {
  Plan p;
  p.ranks = 4;
  p.tokens.begin = {0, 1, 2, 3, 4};
  p.owner_of_rank = {0, 1, 2, 3};
  p.groups.push_back({{Rank(0), Rank(1)}, {Rank(2), Rank(3)}});  // slices
  p.groups.push_back({{Rank(0), Rank(2)}, {Rank(1), Rank(3)}});  // experts
  return p;
}

Buffer weight(std::int64_t rows, std::int64_t cols, Shard s) {
  return {"w", BufferRole::weight, Location::device, DType::f32, Rows{rows, {}}, cols, std::move(s)};
}

}  // namespace

TEST_CASE("weights are spread as their scale says, and do not repeat") {
  const LogicalMatrix m(1, "l0.up.weight", 0, 300);  // scale sqrt(3 / 300) = 0.1
  double sum = 0;
  double squares = 0;
  std::set<float> seen;
  const int n = 200;
  for (int r = 0; r < n; ++r)
    for (int c = 0; c < n; ++c) {
      const double v = m.at(r, c);
      CHECK(std::abs(v) <= 0.1);
      sum += v;
      squares += v * v;
      seen.insert(m.at(r, c));
    }
  // Uniform in [-0.1, 0.1): variance 1 / 300; the mean of 40,000 has standard deviation 0.0003.
  CHECK(std::abs(sum / (n * n)) < 0.0015);
  CHECK(squares / (n * n) == doctest::Approx(1.0 / 300).epsilon(0.03));
  CHECK(seen.size() > 39'800);  // of 2^24 values, 40,000 draws collide about 48 times
  CHECK(LogicalMatrix(2, "l0.up.weight", 0, 300).at(3, 4) != m.at(3, 4));
  CHECK(LogicalMatrix(1, "l1.up.weight", 0, 300).at(3, 4) != m.at(3, 4));
  CHECK(LogicalMatrix(1, "l0.up.weight", 1, 300).at(3, 4) != m.at(3, 4));
  CHECK(std::abs(LogicalMatrix(1, "norm.weight", 0, 1).at(0, 0) - 1) <= 0.125F);
}

TEST_CASE("the slices of all ranks together are the tensor, each element once") {
  const Plan plan = four_ranks();
  Shard s;
  s.groups = GroupsId(0);
  // A gated first matrix: 2 slices of 3 columns in each half of 6.
  s.sections = {{3, 2}, {3, 2}};
  for (const int rank : {0, 1, 2, 3}) {
    const ShardMap m(plan, weight(5, 6, s), Rank(rank));
    const std::int64_t first = rank % 2 * 3;
    for (std::int64_t c = 0; c < 3; ++c) {
      CHECK(m.tensor_col(c) == first + c);
      CHECK(m.tensor_col(3 + c) == 6 + first + c);
    }
    CHECK(m.tensor_row(4) == 4);
    CHECK(m.tensor_rows() == 5);
  }
  Shard rows;
  rows.groups = GroupsId(0);
  rows.by_rows = true;
  CHECK(ShardMap(plan, weight(5, 6, rows), Rank(1)).tensor_row(2) == 7);
  CHECK(ShardMap(plan, weight(5, 6, rows), Rank(1)).tensor_rows() == 10);
  rows.tensor_rows = 9;  // a vocabulary of 9 over two ranks
  CHECK(ShardMap(plan, weight(5, 6, rows), Rank(1)).tensor_rows() == 9);
}

TEST_CASE("fewer slices than ranks: neighbours hold the same key head") {
  Plan plan = four_ranks();
  plan.groups[0] = {{Rank(0), Rank(1), Rank(2), Rank(3)}};
  Shard s;
  s.groups = GroupsId(0);
  s.sections = {{4, 4}, {2, 2}};  // queries of 16 columns, keys of 4 in two heads
  const std::int64_t key_head[4] = {16, 16, 18, 18};
  for (const int rank : {0, 1, 2, 3}) {
    const ShardMap m(plan, weight(1, 6, s), Rank(rank));
    CHECK(m.tensor_col(0) == 4 * rank);
    CHECK(m.tensor_col(4) == key_head[rank]);
  }
}

TEST_CASE("stacks of experts, placed and not") {
  Plan plan = four_ranks();
  ExpertPlacement p;
  for (const int e : {2, 0, 1}) p.expert_of_slot.emplace_back(e);
  p.slot_begin = {0, 1, 3};
  plan.placements.push_back(p);
  Shard s;
  s.groups = GroupsId(0);
  s.by_rows = true;
  s.matrix_rows = 4;
  CHECK(ShardMap(plan, weight(8, 6, s), Rank(3)).matrix(7) == 1);
  s.expert_groups = GroupsId(1);
  s.placement = PlacementId(0);
  const ShardMap m(plan, weight(8, 6, s), Rank(3));  // second of its expert group, second slice
  CHECK(m.matrix(0) == 0);
  CHECK(m.matrix(3) == 0);
  CHECK(m.matrix(4) == 1);
  CHECK(m.tensor_row(4) == 4);
  CHECK(m.tensor_row(7) == 7);
  CHECK(m.tensor_rows() == 8);
  CHECK(ShardMap(plan, weight(4, 6, s), Rank(0)).matrix(0) == 2);
}

TEST_CASE("gates fall, are positive and leave something to the others") {
  for (std::int64_t token = 0; token < 1000; ++token) {
    std::vector<float> g(4);
    gate_weights(3, 1, token, g);
    CHECK(std::is_sorted(g.rbegin(), g.rend()));
    CHECK(g.back() > 0);
    CHECK(g[0] + g[1] + g[2] + g[3] < 1);
  }
}

TEST_CASE("token ids cover the vocabulary evenly") {
  std::vector<int> seen(10);
  for (std::int64_t t = 0; t < 10'000; ++t) ++seen.at(static_cast<std::size_t>(token_id(1, t, 10)));
  for (const int n : seen) CHECK(std::abs(n - 1000) < 150);  // five standard deviations of 30
}
