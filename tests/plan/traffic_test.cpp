#include <doctest/doctest.h>

#include "plan/builder.hpp"
#include "tests/plan/paper_plan.hpp"

using namespace moesim;

namespace {

using Kind = Collective::Kind;

// One collective over all ranks (or `groups`), by itself.
class One {
 public:
  One(int ranks, Table counts, std::int64_t cols, DType dtype, Groups groups = {}) {
    plan_.ranks = ranks;
    if (groups.empty()) {
      groups.emplace_back();
      for (int r = 0; r < ranks; ++r) groups.back().emplace_back(r);
    }
    plan_.groups.push_back(std::move(groups));
    plan_.tables.push_back(std::move(counts));
    collective_ = {{}, Collective::Algorithm::automatic, GroupsId(0), TableId(0), cols, dtype, 0, {}, {}};
  }
  Traffic of(Kind kind, int rank, int root = 0) {
    collective_.kind = kind;
    collective_.root = root;
    return traffic(plan_, collective_, Rank(rank));
  }
  Traffic sparse(Kind kind, const ExpertPlacement& from, const ExpertPlacement& to, int rank) {
    plan_.placements = {from, to};
    collective_.from = PlacementId(0);
    collective_.to = PlacementId(1);
    return of(kind, rank);
  }

 private:
  Plan plan_;
  Collective collective_;
};

Table column(const std::vector<std::int32_t>& rows) {
  Table t(static_cast<int>(rows.size()), 1);
  for (std::size_t i = 0; i < rows.size(); ++i) t.at(static_cast<int>(i), 0) = rows[i];
  return t;
}

void check(Traffic t, std::int64_t sent, std::int64_t received) {
  CHECK(t.sent == Bytes(sent));
  CHECK(t.received == Bytes(received));
}

}  // namespace

// papers.md section 1: E = 128, G = 4, float32, 30,000 tokens of 768 on every GPU. Tokens are 92,160,000 bytes.
//   sent      3 x 92,160,000 (all-gather) + 3 x 92,160,000 (reduce-scatter) + 3 x 512 (counts) = 552,961,536
//   received  3 x 92,160,000              +     92,160,000                  + 3 x 512          = 368,641,536
TEST_CASE("MoEShard's bytes per GPU and layer are those that its authors counted") {
  One tokens(4, column({30'000, 30'000, 30'000, 30'000}), 768, DType::f32);
  One counts(4, column({1, 1, 1, 1}), 128, DType::i32);
  for (int rank = 0; rank < 4; ++rank) {
    Bytes sent;
    Bytes received;
    for (const Traffic& t : {counts.of(Kind::all_gather_v, rank), tokens.of(Kind::all_gather_v, rank),
                             tokens.of(Kind::reduce_scatter_v, rank)}) {
      sent += t.sent;
      received += t.received;
    }
    CHECK(sent == Bytes(552'961'536));
    CHECK(received == Bytes(368'641'536));
  }
}

TEST_CASE("uneven all-gather and reduce-scatter are mirror images but for the sum") {
  // 1, 2 and 4 rows of 5 bfloat16 = 10 bytes each.
  One c(3, column({1, 2, 4}), 5, DType::bf16);
  check(c.of(Kind::all_gather_v, 0), 2 * 10, 6 * 10);
  check(c.of(Kind::all_gather_v, 2), 2 * 40, 3 * 10);
  check(c.of(Kind::reduce_scatter_v, 0), 6 * 10, 10);  // the sum of its own row arrives once
  check(c.of(Kind::reduce_scatter_v, 2), 3 * 10, 40);
}

TEST_CASE("all-to-all counts what leaves and what arrives, not what stays") {
  Table t(2, 2);
  t.at(0, 0) = 100;
  t.at(0, 1) = 3;
  t.at(1, 0) = 7;
  t.at(1, 1) = 100;
  One c(2, t, 2, DType::f32);
  check(c.of(Kind::all_to_all_v, 0), 3 * 8, 7 * 8);
  check(c.of(Kind::all_to_all_v, 1), 7 * 8, 3 * 8);
  check(c.of(Kind::send_recv, 1), 7 * 8, 3 * 8);
}

TEST_CASE("one row of counts holds for all ranks") {
  Table t(1, 3);
  t.at(0, 0) = 4;
  t.at(0, 1) = 5;
  t.at(0, 2) = 6;
  One c(3, t, 1, DType::f32);
  check(c.of(Kind::all_to_all_v, 1), (4 + 6) * 4, 2 * 5 * 4);
}

TEST_CASE("broadcast, reduce and all-reduce") {
  One c(4, column({6, 6, 6, 6}), 10, DType::f32);  // 240 bytes
  check(c.of(Kind::broadcast, 2, 2), 3 * 240, 0);
  check(c.of(Kind::broadcast, 0, 2), 0, 240);
  check(c.of(Kind::reduce, 2, 2), 0, 240);
  check(c.of(Kind::reduce, 0, 2), 240, 0);
  check(c.of(Kind::all_reduce, 3), 240, 240);
}

TEST_CASE("groups act alone, and a rank outside of them moves nothing") {
  One c(5, column({1, 2, 4, 8, 16}), 1, DType::i32, {{Rank(3), Rank(0)}, {Rank(1), Rank(4)}});
  check(c.of(Kind::all_gather_v, 0), 4, 32);
  check(c.of(Kind::all_gather_v, 3), 32, 4);
  check(c.of(Kind::all_gather_v, 1), 8, 64);
  check(c.of(Kind::all_gather_v, 2), 0, 0);
}

TEST_CASE("a group of one moves nothing") {
  One c(1, column({9}), 9, DType::f32);
  for (const Kind kind : {Kind::all_to_all_v, Kind::all_gather_v, Kind::reduce_scatter_v, Kind::all_reduce,
                          Kind::broadcast, Kind::reduce})
    check(c.of(kind, 0), 0, 0);
}

// Experts 0..3 on two ranks, two each; then rank 0 also wants expert 2, and rank 1 experts 0 and 1.
TEST_CASE("sparse all-gather sends what is lacking, from its first holder") {
  const ExpertPlacement from = test::in_order(2, 2);
  ExpertPlacement to;
  for (const int e : {0, 1, 2, 2, 3, 0, 1}) to.expert_of_slot.emplace_back(e);
  to.slot_begin = {0, 3, 7};
  One c(2, Table(1, 1), 100, DType::f32);  // chunks of 400 bytes
  check(c.sparse(Kind::sparse_all_gather, from, to, 0), 800, 400);
  check(c.sparse(Kind::sparse_all_gather, from, to, 1), 400, 800);
  check(c.sparse(Kind::sparse_reduce_scatter, to, from, 0), 400, 800);  // the way back
  check(c.sparse(Kind::sparse_reduce_scatter, to, from, 1), 800, 400);
}

TEST_CASE("sparse collectives number the members of a group, not the ranks") {
  const ExpertPlacement from = test::in_order(2, 1);
  ExpertPlacement to;
  for (const int e : {0, 1, 1}) to.expert_of_slot.emplace_back(e);
  to.slot_begin = {0, 2, 3};
  One c(4, Table(1, 1), 1, DType::f32, {{Rank(0), Rank(2)}, {Rank(3), Rank(1)}});
  check(c.sparse(Kind::sparse_all_gather, from, to, 0), 0, 4);
  check(c.sparse(Kind::sparse_all_gather, from, to, 2), 4, 0);
  check(c.sparse(Kind::sparse_all_gather, from, to, 3), 0, 4);
  check(c.sparse(Kind::sparse_all_gather, from, to, 1), 4, 0);
}

TEST_CASE("over all ranks, what an exchange sends is what it delivers") {
  const Plan plan = test::paper_plan();
  for (const Op& op : plan.ops) {
    const auto* c = std::get_if<Collective>(&op.work);
    if (c == nullptr) continue;
    Bytes sent;
    Bytes received;
    for (int r = 0; r < plan.ranks; ++r) {
      sent += traffic(plan, *c, Rank(r)).sent;
      received += traffic(plan, *c, Rank(r)).received;
    }
    CHECK(sent == received);
    CHECK(sent == Bytes(4 * 32));  // 2 + 2 rows travel
  }
}
