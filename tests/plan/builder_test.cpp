#include "plan/builder.hpp"

#include <doctest/doctest.h>

#include "tests/plan/paper_plan.hpp"

using namespace moesim;

namespace {

Plan two_ranks() {
  Plan p;
  p.ranks = 2;
  p.tokens.begin = {0, 1, 2};
  p.owner_of_rank = {0, 1};
  return p;
}

// Ops that touch one-row buffers; streams and buffers are what the dependencies come from.
class Ops {
 public:
  Ops() : builder(two_ranks()) {}
  BufferId buffer(const char* name) {
    return builder.buffer({name, BufferRole::activation, Location::device, DType::f32, Rows{1, {}}, 1, {}});
  }
  OpId add(const char* name, int stream, std::vector<BufferId> reads, std::vector<BufferId> writes) {
    return builder.add({name,
                        Category::other,
                        Pass::forward,
                        Layer{},
                        stream,
                        {},
                        std::move(reads),
                        std::move(writes),
                        Elementwise{Elementwise::Fn::add, Rows{1, {}}, 1, 1, DType::f32, 0, {}}});
  }
  [[nodiscard]] const std::vector<OpId>& after(OpId op) const { return builder.plan().op(op).after; }
  PlanBuilder builder;
};

}  // namespace

TEST_CASE("an op waits for writers on other streams, not on its own") {
  Ops ops;
  const BufferId a = ops.buffer("a");
  const BufferId b = ops.buffer("b");
  const OpId make = ops.add("make", 0, {}, {a});
  const OpId same = ops.add("same stream", 0, {a}, {b});
  const OpId other = ops.add("other stream", 1, {a, b}, {});
  CHECK(ops.after(make).empty());
  CHECK(ops.after(same).empty());
  CHECK(ops.after(other) == std::vector<OpId>{make, same});
}

TEST_CASE("a write waits for the readers since the last write, and for that write") {
  Ops ops;
  const BufferId a = ops.buffer("a");
  const OpId first = ops.add("first write", 0, {}, {a});
  const OpId read_1 = ops.add("reads on 1", 1, {a}, {});
  const OpId read_2 = ops.add("reads on 2", 2, {a}, {});
  const OpId second = ops.add("second write", 1, {}, {a});
  CHECK(ops.after(second) == std::vector<OpId>{first, read_2});  // read_1 is on its own stream
  const OpId third = ops.add("third write", 0, {}, {a});
  CHECK(ops.after(third) == std::vector<OpId>{second});  // readers before the second write no longer count
  CHECK(ops.after(read_1) == std::vector<OpId>{first});
}

TEST_CASE("an op that reads a buffer twice depends once") {
  Ops ops;
  const BufferId a = ops.buffer("a");
  const BufferId b = ops.buffer("b");
  const OpId make = ops.add("make both", 0, {}, {a, b});
  CHECK(ops.after(ops.add("use both", 1, {a, b, a}, {})) == std::vector<OpId>{make});
}

TEST_CASE("equal tables, groups and placements share an id") {
  PlanBuilder b(two_ranks());
  Table t(2, 1);
  t.at(1, 0) = 7;
  const TableId first = b.table(t);
  CHECK(b.table(t) == first);
  t.at(0, 0) = 7;
  CHECK(b.table(t) != first);
  CHECK(b.table(Table(1, 2)) != b.table(Table(2, 1)));
  CHECK(b.groups({{Rank(0)}, {Rank(1)}}) == b.groups({{Rank(0)}, {Rank(1)}}));
  CHECK(b.groups({{Rank(0), Rank(1)}}) != b.groups({{Rank(1), Rank(0)}}));
  CHECK(b.placement(test::in_order(2, 2)) == b.placement(test::in_order(2, 2)));
}

TEST_CASE("a strategy that makes an unsound plan is told all of it") {
  Ops ops;
  ops.add("twin", -1, {}, {});
  ops.add("twin", 0, {}, {});
  try {
    static_cast<void>(std::move(ops.builder).finish());
    FAIL("the plan was taken");
  } catch (const std::logic_error& e) {
    const std::string message = e.what();
    CHECK(message.find("stream is -1, outside 0 to 63") != std::string::npos);
    CHECK(message.find("its name is taken") != std::string::npos);
  }
}

TEST_CASE("the paper plan's dependencies cross the two streams only where the data does") {
  const Plan plan = test::paper_plan();
  const auto after = [&](const char* name) {
    for (const Op& op : plan.ops)
      if (op.name == name) return op.after;
    return std::vector<OpId>{OpId(-1)};
  };
  CHECK(after("permute").empty());
  CHECK(after("dispatch") == std::vector<OpId>{OpId(1)});
  CHECK(after("group") == std::vector<OpId>{OpId(2)});
  CHECK(after("experts").empty());
  CHECK(after("combine") == std::vector<OpId>{OpId(5)});
  CHECK(after("unpermute") == std::vector<OpId>{OpId(6)});
}
