#include <doctest/doctest.h>

#include <functional>

#include "tests/plan/paper_plan.hpp"

using namespace moesim;

namespace {

template <class T>
T& work(Plan& plan, const char* name) {
  for (Op& op : plan.ops)
    if (op.name == name) return std::get<T>(op.work);
  FAIL("no op " << name);
  throw std::logic_error("unreachable");
}

struct Damage {
  const char* message;
  std::function<void(Plan&)> what;
};

// Every damage is the only one: exactly one fault, with this text.
const std::vector<Damage> damages{
    {"plan: has 0 ranks", [](Plan& p) { p.ranks = 0, p.owner_of_rank.clear(), p.tables.clear(), p.groups.clear(); }},
    {"plan: token ranges do not rise", [](Plan& p) { p.tokens.begin = {0, 4, 3}; }},
    {"plan: owner_of_rank has 1 entries for 2 ranks", [](Plan& p) { p.owner_of_rank.pop_back(); }},
    {"plan: token owner 2 is out of range", [](Plan& p) { p.owner_of_rank[1] = 2; }},
    {"table 1: has 3 rows for 2 ranks", [](Plan& p) { p.tables[1] = Table(3, 1); }},
    {"table 0: holds a negative count", [](Plan& p) { p.tables[0].at(0, 0) = -1; }},
    {"groups 0: rank 2 is out of range", [](Plan& p) { p.groups[0][0][1] = Rank(2); }},
    {"groups 0: rank 0 is in it twice", [](Plan& p) { p.groups[0][0][1] = Rank(0); }},
    {"groups 0: has an empty group", [](Plan& p) { p.groups[0].emplace_back(); }},
    {"placement 0: slot_begin does not rise", [](Plan& p) { p.placements[0].slot_begin.back() = 5; }},
    {"buffer 0 'x': rows 99 is out of range", [](Plan& p) { p.buffers[0].rows.table = TableId(99); }},
    {"buffer 1 'embedding.table': cols is -1", [](Plan& p) { p.buffers[1].cols = -1; }},
    {"buffer 1 'embedding.table': cols is 2305843009213693952, outside 0 to 1099511627776",
     [](Plan& p) { p.buffers[1].cols = std::int64_t{1} << 61; }},
    {"buffer 1 'embedding.table': is larger than 2^63 bytes",
     [](Plan& p) { p.buffers[1].cols = p.buffers[1].rows.fixed = std::int64_t{1} << 40; }},
    {"plan: dropped_copies is -5, outside 0 to", [](Plan& p) { p.dropped_copies = -5; }},
    {"plan: dropped_copies is 4611686018427387904, outside 0 to",
     [](Plan& p) { p.dropped_copies = std::int64_t{1} << 62; }},
    {"op 4 'experts': layer is 1000000000, outside -1 to 100000",
     [](Plan& p) { p.ops[4].layer = Layer(1'000'000'000); }},
    {"op 4 'experts': kernels is 0, outside 1 to", [](Plan& p) { work<GroupedGemm>(p, "experts").launch.kernels = 0; }},
    {"op 1 'permute': passes is -3, outside 1 to", [](Plan& p) { work<Permute>(p, "permute").launch.passes = -3; }},
    {"op 1 'permute': moves rows of 7 columns, and its buffer 'sorted' has 8",
     [](Plan& p) { work<Permute>(p, "permute").cols = 7; }},
    {"op 4 'experts': Y has 8 columns in its buffer 'y', and 3 in the product",
     [](Plan& p) {
       work<GroupedGemm>(p, "experts").n = 3;
       p.buffers[2].cols = 3;
     }},
    {"op 4 'experts': multiplies weights of f16, and 'experts.weight' holds f32",
     [](Plan& p) { work<GroupedGemm>(p, "experts").weight = DType::f16; }},
    {"buffer 2 'experts.weight': has 24 rows on rank 0, which holds 2 experts of 8 rows",
     [](Plan& p) { p.buffers[2].rows.fixed = 24; }},
    {"buffer 2 'experts.weight': has sections of 9 columns in all, and 8 columns",
     [](Plan& p) { p.buffers[2].shard.sections = {{5, 2}, {4, 2}}; }},
    {"buffer 2 'experts.weight': places experts without groups",
     [](Plan& p) { p.buffers[2].shard.expert_groups = GroupsId{}; }},
    {"op 1 'embedding': its name is taken", [](Plan& p) { p.ops[1].name = "embedding"; }},
    {"op 0 'embedding': stream is -1, outside 0 to 63", [](Plan& p) { p.ops[0].stream = -1; }},
    {"op 2 'dispatch': depends on op 2, which does not come before it", [](Plan& p) { p.ops[2].after[0] = OpId(2); }},
    {"op 2 'dispatch': depends on op 7, which does not come before it", [](Plan& p) { p.ops[2].after[0] = OpId(7); }},
    {"op 1 'permute': buffer 10 is out of range", [](Plan& p) { p.ops[1].reads[0] = BufferId(10); }},
    {"op 4 'experts': 2 groups of rows do not divide over 3 matrices",
     [](Plan& p) { work<GroupedGemm>(p, "experts").matrices = 3; }},
    {"op 1 'permute': has 2 token rows on rank 0 which owns 3 tokens",
     [](Plan& p) { work<Permute>(p, "permute").rows_in = Rows{2, {}}; }},
    {"op 1 'permute': has 3 copies on rank 0, but 20 are routed",
     [](Plan& p) { work<Permute>(p, "permute").capacity = 5; }},
    {"op 7 'unpermute': routes to 2 slots where the placement has 4",
     [](Plan& p) { work<Permute>(p, "unpermute").routed = work<GroupedGemm>(p, "experts").rows; }},
    {"op 2 'dispatch': a group of 2 ranks exchanges 4 counts",
     [](Plan& p) { work<Collective>(p, "dispatch").counts = work<Permute>(p, "permute").routed; }},
    // Rank 0 has rows for 1 + 2 copies, of which no more than 3 can cross.
    {"op 2 'dispatch': 4 rows of rank 0 cross, but it exchanges 3",
     [](Plan& p) {
       p.tables.emplace_back(1, 1).at(0, 0) = 4;
       work<Collective>(p, "dispatch").island_rows = TableId(p.tables.size() - 1);
     }},
    {"op 2 'dispatch': delivers 3 rows of 7 to rank 0, where its output has 3 of 8",
     [](Plan& p) { work<Collective>(p, "dispatch").cols = 7; }},
    {"op 6 'combine': delivers bf16 to a buffer of f32",
     [](Plan& p) { work<Collective>(p, "combine").dtype = DType::bf16; }},
    {"op 2 'dispatch': ranks 0 and 1 of one group have different numbers of rows",
     [](Plan& p) { work<Collective>(p, "dispatch").kind = Collective::Kind::all_reduce; }},
    {"op 2 'dispatch': placement -1 is out of range",
     [](Plan& p) { work<Collective>(p, "dispatch").kind = Collective::Kind::sparse_all_gather; }},
    {"op 2 'dispatch': root 2 is not a member of a group of 2",
     [](Plan& p) {
       auto& c = work<Collective>(p, "dispatch");
       c.kind = Collective::Kind::broadcast;
       c.root = 2;
     }},
};

}  // namespace

TEST_CASE("the paper plan is sound") { CHECK(faults(test::paper_plan()).empty()); }

TEST_CASE("each damage is found, named and nothing else is") {
  for (const Damage& damage : damages) {
    Plan plan = test::paper_plan();
    damage.what(plan);
    const std::vector<std::string> found = faults(plan);
    CAPTURE(damage.message);
    REQUIRE(!found.empty());
    CHECK_MESSAGE(found.front().find(damage.message) == 0, found.front());
    CHECK(found.size() == 1);
  }
}

TEST_CASE("a placement over another number of members than the group has") {
  Plan plan = test::paper_plan();
  plan.placements.push_back(test::in_order(4, 1));
  for (const char* name : {"permute", "group", "ungroup", "unpermute"})
    work<Permute>(plan, name).placement = PlacementId(1);
  const std::vector<std::string> found = faults(plan);
  REQUIRE(found.size() == 4);
  CHECK(found[0] == "op 1 'permute': places experts on 4 members of a group of 2");
}
