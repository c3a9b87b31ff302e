// The row orders of docs/plan_format.md, on paper and as properties: what goes out comes in, once.
#include "backend/row_map.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <set>

#include "backend/numbers.hpp"
#include "tests/backend/small_models.hpp"

using namespace moesim;
using namespace moesim::test;
using backend::RowMap;
using backend::RowMaps;

namespace {

// Two ranks with 3 and 2 tokens, three experts, top-2; experts 0 and 2 on rank 0, expert 1 on rank 1.
//   token   0    1    2  |  3    4
//   chooses 0,1  1,2  0,2   2,1  1,0
// Slots: 0 = expert 0, 1 = expert 2 (rank 0); 2 = expert 1 (rank 1).
struct Paper {
  Paper() : routing(3, 2, {{0, 1, 1, 2, 0, 2, 2, 1, 1, 0}}) {
    plan.ranks = 2;
    plan.tokens.begin = {0, 3, 5};
    plan.owner_of_rank = {0, 1};
    plan.groups.push_back({{Rank(0), Rank(1)}});
    ExpertPlacement p;
    for (const int e : {0, 2, 1}) p.expert_of_slot.emplace_back(e);
    p.slot_begin = {0, 2, 3};
    plan.placements.push_back(p);
    Table routed(2, 3);
    const int counts[2][3] = {{2, 2, 2}, {1, 1, 2}};
    for (int r = 0; r < 2; ++r)
      for (int s = 0; s < 3; ++s) routed.at(r, s) = counts[r][s];
    plan.tables.push_back(routed);
  }
  RowMap map(RowOrder from, RowOrder to, int rank, std::int64_t in, std::int64_t out, bool placed = true,
             std::int64_t capacity = 0) {
    const Permute p{from,       to,           0,
                    TableId(0), GroupsId(0),  placed ? PlacementId(0) : PlacementId{},
                    capacity,   Rows{in, {}}, Rows{out, {}},
                    4,          DType::f32,   {}};
    const Op op{"move", Category::dispatch, Pass::forward, Layer(0), 0, {}, {}, {}, p};
    return RowMaps(plan, {routing, seed}).of(op, p, Rank(rank));
  }
  float gate(std::int64_t token, std::size_t i) const {
    std::vector<float> g(2);
    backend::gate_weights(seed, 0, token, g);
    return g[i];
  }
  static constexpr std::uint64_t seed = 9;
  TableRouting routing;
  Plan plan;
};

using Rowsets = std::vector<std::vector<int>>;
Rowsets terms(const RowMap& m) {
  Rowsets out;
  for (std::int64_t i = 0; i < m.rows(); ++i) {
    out.emplace_back();
    for (auto t = m.begin[static_cast<std::size_t>(i)]; t < m.begin[static_cast<std::size_t>(i) + 1]; ++t)
      out.back().push_back(m.from[static_cast<std::size_t>(t)]);
  }
  return out;
}

}  // namespace

TEST_CASE("dispatch and combine at the owner") {
  Paper p;
  // Slot 0 (expert 0): tokens 0, 2; slot 1 (expert 2): tokens 1, 2; slot 2 (expert 1): tokens 0, 1.
  CHECK(terms(p.map(RowOrder::token, RowOrder::by_slot, 0, 3, 6)) == Rowsets{{0}, {2}, {1}, {2}, {0}, {1}});
  const RowMap back = p.map(RowOrder::by_slot, RowOrder::token, 0, 6, 3);
  CHECK(terms(back) == Rowsets{{0, 4}, {2, 5}, {1, 3}});
  // Token 0's copies lie in slots 0 and 2: its first and its second choice. Token 1's in 1 (second) and 2 (first).
  CHECK(back.weight ==
        std::vector<float>{p.gate(0, 0), p.gate(0, 1), p.gate(1, 1), p.gate(1, 0), p.gate(2, 0), p.gate(2, 1)});
}

TEST_CASE("regrouping on arrival") {
  Paper p;
  // On rank 0 arrive, from rank 0: slot 0 (tokens 0, 2), slot 1 (1, 2); from rank 1: slot 0 (token 4), slot 1 (token
  // 3).
  CHECK(terms(p.map(RowOrder::by_source, RowOrder::by_slot, 0, 6, 6)) == Rowsets{{0}, {1}, {4}, {2}, {3}, {5}});
  CHECK(terms(p.map(RowOrder::by_slot, RowOrder::by_source, 0, 6, 6)) == Rowsets{{0}, {1}, {3}, {4}, {2}, {5}});
}

TEST_CASE("once per rank") {
  Paper p;
  // Rank 0's tokens for rank 0: 0 (expert 0), 1 (expert 2), 2 (both); for rank 1: 0, 1 (expert 1).
  CHECK(terms(p.map(RowOrder::token, RowOrder::unique_by_rank, 0, 3, 5)) == Rowsets{{0}, {1}, {2}, {0}, {1}});
  const RowMap home = p.map(RowOrder::unique_by_rank, RowOrder::token, 0, 5, 3);
  CHECK(terms(home) == Rowsets{{0, 3}, {1, 4}, {2}});
  CHECK(home.weight.empty());  // weighted where the experts are
  // Rank 0 gets 0, 1, 2 from itself and 3, 4 from rank 1; copies by slot: expert 0: 0, 2, 4; expert 2: 1, 2, 3.
  CHECK(terms(p.map(RowOrder::unique_by_source, RowOrder::by_slot, 0, 5, 6)) == Rowsets{{0}, {2}, {4}, {1}, {2}, {3}});
  const RowMap sums = p.map(RowOrder::by_slot, RowOrder::unique_by_source, 0, 6, 5);
  CHECK(terms(sums) == Rowsets{{0}, {3}, {1, 4}, {5}, {2}});
  CHECK(sums.weight ==
        std::vector<float>{p.gate(0, 0), p.gate(1, 1), p.gate(2, 0), p.gate(2, 1), p.gate(3, 0), p.gate(4, 1)});
}

TEST_CASE("all tokens gathered, every expert everywhere") {
  Paper p;  // slots are experts now: 0: tokens 0, 2 | 4; 1: 0, 1 | 3, 4; 2: 1, 2 | 3
  Table routed(2, 3);
  const int counts[2][3] = {{2, 2, 2}, {1, 2, 1}};
  for (int r = 0; r < 2; ++r)
    for (int s = 0; s < 3; ++s) routed.at(r, s) = counts[r][s];
  p.plan.tables[0] = routed;
  CHECK(terms(p.map(RowOrder::unique_by_source, RowOrder::by_slot, 1, 5, 10, false)) ==
        Rowsets{{0}, {2}, {4}, {0}, {1}, {3}, {4}, {1}, {2}, {3}});
  CHECK(terms(p.map(RowOrder::unique_by_source, RowOrder::by_source, 1, 5, 10, false)) ==
        Rowsets{{0}, {2}, {0}, {1}, {1}, {2}, {4}, {3}, {4}, {3}});
}

TEST_CASE("capacity pads with zero rows and drops the last copies") {
  Paper p;
  // One row for each slot: the second copy of each is dropped.
  CHECK(terms(p.map(RowOrder::token, RowOrder::by_slot, 0, 3, 3, true, 1)) == Rowsets{{0}, {1}, {0}});
  CHECK(terms(p.map(RowOrder::by_slot, RowOrder::token, 0, 3, 3, true, 1)) == Rowsets{{0, 2}, {1}, {}});
  // Three rows: the third of each is zeros.
  CHECK(terms(p.map(RowOrder::token, RowOrder::by_slot, 0, 3, 9, true, 3)) ==
        Rowsets{{0}, {2}, {}, {1}, {2}, {}, {0}, {1}, {}});
  CHECK(terms(p.map(RowOrder::by_source, RowOrder::by_slot, 1, 4, 4, true, 2)) == Rowsets{{0}, {1}, {2}, {3}});
}

TEST_CASE("a routing that is not the plan's is refused, with the place where they part") {
  Paper p;
  --p.plan.tables[0].at(0, 1);
  CHECK_THROWS_WITH_AS(p.map(RowOrder::token, RowOrder::by_slot, 0, 3, 5),
                       "op 'move': the routing sends more copies of rank 0 to expert 2 than the plan; it is not the "
                       "routing that the plan was made with",
                       backend::Refused);
  p.plan.tables[0].at(0, 1) += 2;
  CHECK_THROWS_WITH_AS(p.map(RowOrder::token, RowOrder::by_slot, 0, 3, 7),
                       "op 'move': the routing sends 2 copies of rank 0 to slot 1, the plan 3; it is not the routing "
                       "that the plan was made with",
                       backend::Refused);
}

// Through dispatch and combine every kept copy of every token travels exactly once, over all strategies and shapes.
TEST_CASE("copies are conserved") {
  std::mt19937 random(17);
  int permutes = 0;
  for (int i = 0; i < 40; ++i) {
    MoeBlock block;
    block.experts = 1 + i % 9;
    block.top_k = 1 + i % std::min<int>(3, static_cast<int>(block.experts));
    block.expert = {48, false, false, Activation::relu};
    const Case c = moe_only(8, block, 1 + i % 8, 1 + i, 1 + i % 3, DType::f32);
    const std::int64_t tokens = c.workload.sequences * c.workload.sequence_length;
    const TableRouting routing =
        random_routing(1, tokens, static_cast<int>(block.experts), static_cast<int>(block.top_k), i % 4, i % 2, random);
    for (const Variant& v : variants()) {
      const auto plan = plan_of(c, routing, v.strategy, v.options);
      if (!plan) continue;
      CAPTURE(v.name);
      for (int r = 0; r < plan->ranks; ++r) {
        const Rank rank(r);
        RowMaps maps(*plan, {routing, 1});
        for (const Op& op : plan->ops) {
          const auto* p = std::get_if<Permute>(&op.work);
          if (p == nullptr) continue;
          ++permutes;
          const RowMap m = maps.of(op, *p, rank);
          CHECK(m.rows() == plan->rows(p->rows_out, rank));
          const std::set<std::int32_t> used(m.from.begin(), m.from.end());
          CHECK((used.empty() || (*used.begin() >= 0 && *used.rbegin() < plan->rows(p->rows_in, rank))));
          const bool combines = p->to == RowOrder::token || p->to == RowOrder::unique_by_source;
          // A combine reads every copy once; a regrouping is a bijection of what is not padding.
          if (combines || (p->from != RowOrder::token && p->from != RowOrder::unique_by_source))
            CHECK(used.size() == m.from.size());
          if (p->capacity == 0 && p->from != RowOrder::token)
            CHECK(static_cast<std::int64_t>(used.size()) == plan->rows(p->rows_in, rank));
        }
      }
    }
  }
  CHECK(permutes > 5000);
}
