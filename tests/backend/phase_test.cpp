// Collectives against their definitions in docs/plan_format.md, with uneven counts, in subgroups, as threads and one at
// a time.
#include "backend/host/phase.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "backend/executor.hpp"
#include "backend/host/numerics.hpp"
#include "plan/builder.hpp"
#include "tests/backend/small_models.hpp"

using namespace moesim;
using namespace moesim::test;
using Kind = Collective::Kind;

namespace {

// A plan of one collective: weights (filled by their hashes) go in, so that inputs differ by rank through row slices.
class OneCollective {
 public:
  OneCollective(Kind kind, Groups groups, Table counts, std::int64_t cols, const std::vector<std::int64_t>& rows_in,
                const std::vector<std::int64_t>& rows_out, DType dtype = DType::f32, ExpertPlacement from = {},
                ExpertPlacement to = {}, int root = 0) {
    Plan p;
    p.ranks = static_cast<int>(rows_in.size());
    for (int r = 0; r < p.ranks; ++r) {
      p.owner_of_rank.push_back(r);
      p.tokens.begin.push_back(r + 1);
    }
    PlanBuilder b(std::move(p));
    std::vector<Rank> everyone;
    for (int r = 0; r < static_cast<int>(rows_in.size()); ++r) everyone.emplace_back(r);
    Shard shard;
    shard.groups = b.groups({everyone});
    shard.by_rows = true;
    const auto rows_of = [&](const std::vector<std::int64_t>& n) {
      Table t(static_cast<int>(n.size()), 1);
      for (std::size_t i = 0; i < n.size(); ++i) t.at(static_cast<int>(i), 0) = static_cast<std::int32_t>(n[i]);
      return Rows{0, b.table(std::move(t))};
    };
    x = b.buffer({"x", BufferRole::weight, Location::device, dtype, rows_of(rows_in), cols, shard});
    y = b.buffer({"y", BufferRole::communication, Location::device, dtype, rows_of(rows_out), cols, {}});
    Collective c{
        kind, Collective::Algorithm::automatic, b.groups(groups), b.table(std::move(counts)), cols, dtype, root, {},
        {}};
    if (from.slots() > 0) {
      c.from = b.placement(from);
      c.to = b.placement(to);
    }
    b.add({"c", Category::other, Pass::forward, Layer{}, 1, {}, {x}, {y}, c});
    plan = std::move(b).finish();
  }

  // x and y of every rank.
  void run(backend::Run how) {
    const TableRouting routing(1, 1, {std::vector<ExpertIndex>(64)});
    const backend::Programs programs = backend::compute(plan, {routing, 4}, how);
    in.clear();
    out.clear();
    for (const auto& p : programs) {
      in.push_back(backend::values(*p, x));
      out.push_back(backend::values(*p, y));
    }
  }

  Plan plan;
  BufferId x;
  BufferId y;
  std::vector<std::vector<float>> in;
  std::vector<std::vector<float>> out;
};

std::vector<float> rows(const std::vector<float>& v, std::int64_t first, std::int64_t n, std::int64_t cols) {
  return {v.begin() + first * cols, v.begin() + (first + n) * cols};
}
void append(std::vector<float>& to, const std::vector<float>& from) { to.insert(to.end(), from.begin(), from.end()); }

Table column(const std::vector<std::int64_t>& n) {
  Table t(static_cast<int>(n.size()), 1);
  for (std::size_t i = 0; i < n.size(); ++i) t.at(static_cast<int>(i), 0) = static_cast<std::int32_t>(n[i]);
  return t;
}

const Groups pairs{{Rank(0), Rank(3)}, {Rank(2), Rank(1)}};  // not in the order of ranks

}  // namespace

TEST_CASE("all-to-all concatenates by destination and by source") {
  // [sender, member]; groups {0, 3} and {2, 1}.
  Table t(4, 2);
  const int sent[4][2] = {{1, 2}, {0, 3}, {4, 0}, {2, 2}};
  for (int r = 0; r < 4; ++r)
    for (int j = 0; j < 2; ++j) t.at(r, j) = sent[r][j];
  for (const auto how : {backend::Run::one_at_a_time, backend::Run::threads}) {
    OneCollective c(Kind::all_to_all_v, pairs, t, 3, {3, 3, 4, 4}, {3, 3, 4, 4});
    c.run(how);
    std::vector<float> expected = rows(c.in[0], 0, 1, 3);  // member 0 of {0, 3}: from itself, then from rank 3
    append(expected, rows(c.in[3], 0, 2, 3));
    CHECK(c.out[0] == expected);
    expected = rows(c.in[0], 1, 2, 3);
    append(expected, rows(c.in[3], 2, 2, 3));
    CHECK(c.out[3] == expected);
    expected = rows(c.in[2], 0, 4, 3);  // rank 2 is member 0 of its group
    CHECK(c.out[2] == expected);
    CHECK(c.out[1] == rows(c.in[1], 0, 3, 3));
  }
}

TEST_CASE("all-gather and reduce-scatter, uneven, with an empty member") {
  const std::vector<std::int64_t> n{2, 0, 3, 1};
  const Groups all{{Rank(2), Rank(0), Rank(1), Rank(3)}};
  for (const auto how : {backend::Run::one_at_a_time, backend::Run::threads}) {
    OneCollective gather(Kind::all_gather_v, all, column(n), 5, n, {6, 6, 6, 6});
    gather.run(how);
    std::vector<float> expected;
    for (const std::size_t r : {2U, 0U, 1U, 3U}) append(expected, gather.in[r]);
    for (const auto& out : gather.out) CHECK(out == expected);

    OneCollective scatter(Kind::reduce_scatter_v, all, column(n), 5, {6, 6, 6, 6}, n);
    scatter.run(how);
    const std::int64_t first[4] = {3, 5, 0, 5};  // of each rank's rows, in member order
    for (std::size_t r = 0; r < 4; ++r)
      for (std::int64_t i = 0; i < n[r] * 5; ++i) {
        float sum = 0;
        for (const std::size_t j : {2U, 0U, 1U, 3U}) sum += scatter.in[j][static_cast<std::size_t>(first[r] * 5 + i)];
        CHECK(scatter.out[r][static_cast<std::size_t>(i)] == sum);  // in member order: to the last bit
      }
  }
}

TEST_CASE("all-reduce gives every rank the same bits, whatever divides") {
  for (const std::int64_t count : {0, 1, 2, 7})
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const auto how : {backend::Run::one_at_a_time, backend::Run::threads}) {
        const std::vector<std::int64_t> n(3, count);
        OneCollective c(Kind::all_reduce, {{Rank(0), Rank(1), Rank(2)}}, column(n), 5, n, n, dtype);
        c.run(how);
        CHECK(c.out[1] == c.out[0]);
        CHECK(c.out[2] == c.out[0]);
        for (std::size_t i = 0; i < c.out[0].size(); ++i) {
          const float sum = c.in[0][i] + c.in[1][i] + c.in[2][i];
          CHECK(std::abs(c.out[0][i] - sum) <= (dtype == DType::f32 ? 0.0F : 0x1p-8F * std::abs(sum)));
        }
      }
}

TEST_CASE("broadcast and reduce at a root") {
  const std::vector<std::int64_t> n(3, 4);
  const Groups all{{Rank(1), Rank(2), Rank(0)}};
  for (const auto how : {backend::Run::one_at_a_time, backend::Run::threads}) {
    OneCollective broadcast(Kind::broadcast, all, column(n), 2, n, n, DType::f32, {}, {}, 1);  // the root is rank 2
    broadcast.run(how);
    for (const auto& out : broadcast.out) CHECK(out == broadcast.in[2]);
    OneCollective reduce(Kind::reduce, all, column(n), 2, n, n, DType::f32, {}, {}, 1);
    reduce.run(how);
    for (std::size_t i = 0; i < 8; ++i) CHECK(reduce.out[2][i] == reduce.in[1][i] + reduce.in[2][i] + reduce.in[0][i]);
    CHECK(reduce.out[0] == std::vector<float>(8));
  }
}

TEST_CASE("sparse collectives move the chunks that are lacking, and sum partial ones") {
  ExpertPlacement from;
  for (const int e : {0, 1, 2, 1}) from.expert_of_slot.emplace_back(e);
  from.slot_begin = {0, 2, 4};  // rank 0: 0, 1; rank 1: 2, 1
  ExpertPlacement to;
  for (const int e : {2, 0, 1, 0}) to.expert_of_slot.emplace_back(e);
  to.slot_begin = {0, 2, 4};  // rank 0: 2, 0; rank 1: 1, 0
  const Groups both{{Rank(0), Rank(1)}};
  for (const auto how : {backend::Run::one_at_a_time, backend::Run::threads}) {
    OneCollective gather(Kind::sparse_all_gather, both, Table(1, 1), 3, {2, 2}, {2, 2}, DType::f32, from, to);
    gather.run(how);
    std::vector<float> expected = rows(gather.in[1], 0, 1, 3);
    append(expected, rows(gather.in[0], 0, 1, 3));
    CHECK(gather.out[0] == expected);
    expected = rows(gather.in[1], 1, 1, 3);  // its own copy of expert 1
    append(expected, rows(gather.in[0], 0, 1, 3));
    CHECK(gather.out[1] == expected);

    OneCollective scatter(Kind::sparse_reduce_scatter, both, Table(1, 1), 3, {2, 2}, {2, 2}, DType::f32, from, to);
    scatter.run(how);
    for (std::size_t c = 0; c < 3; ++c) {
      CHECK(scatter.out[0][c] == scatter.in[1][c]);                             // expert 2
      CHECK(scatter.out[1][c] == scatter.in[0][3 + c] + scatter.in[1][3 + c]);  // expert 1 was on both
      CHECK(scatter.out[1][3 + c] == scatter.in[0][c]);
    }
  }
  OneCollective lacking(Kind::sparse_all_gather, both, Table(1, 1), 3, {2, 2}, {2, 2}, DType::f32, from, to);
  lacking.plan.placements[1].expert_of_slot[0] = LogicalExpert(7);  // faults() finds it, who does not ask is refused
  CHECK_THROWS_WITH_AS(lacking.run(backend::Run::one_at_a_time), "op 'c': no rank holds expert 7 before it",
                       backend::Refused);
}

TEST_CASE("a rank outside of all groups takes no part") {
  const std::vector<std::int64_t> n{2, 2, 2};
  OneCollective c(Kind::all_reduce, {{Rank(0), Rank(2)}}, column(n), 2, n, n);
  for (const auto how : {backend::Run::one_at_a_time, backend::Run::threads}) {
    c.run(how);
    CHECK(c.out[1] == std::vector<float>(4));
    CHECK(c.out[0] == c.out[2]);
    CHECK(c.out[0][0] == c.in[0][0] + c.in[2][0]);
  }
}
