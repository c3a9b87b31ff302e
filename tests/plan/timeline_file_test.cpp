#include "plan/timeline_file.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "moesim/error.hpp"
#include "support/files.hpp"
#include "tests/plan/paper_plan.hpp"
#include "tests/scratch.hpp"

using namespace moesim;

namespace {

Timeline two_spans() {
  Timeline t;
  t.kind = Timeline::Kind::measured_composed;
  t.ranks = 2;
  t.spans.push_back({OpId(0), Rank(1), Picoseconds(0), Picoseconds(5), Picoseconds(9), Picoseconds(2), Picoseconds(3)});
  t.spans.push_back({OpId(3), Rank(0), Picoseconds(7), Picoseconds(7), Picoseconds(1'000'000'000'007), {}, {}});
  t.makespan = Picoseconds(1'000'000'000'007);
  return t;
}

std::string written() {
  const std::string path = test::scratch("t.timeline.json");
  write_timeline(timeline_file(test::paper_plan(), two_spans(), "by hand"), path);
  return path;
}

}  // namespace

TEST_CASE("a timeline comes back from its file as it was") {
  const std::string path = written();
  const TimelineFile f = read_timeline(path);
  CHECK(f.timeline.spans == two_spans().spans);
  CHECK(f.timeline.kind == Timeline::Kind::measured_composed);
  CHECK(f.timeline.makespan == two_spans().makespan);
  CHECK(f.timeline.ranks == 2);
  CHECK(f.method == "by hand");
  CHECK(f.strategy == "paper");
  REQUIRE(f.ops.size() == 8);
  CHECK(f.ops[2] == TimelineOp{"dispatch", "all_to_all_v", "dispatch", Layer(0), Pass::forward});
  CHECK(f.plan_hash == plan_hash(test::paper_plan()));
}

TEST_CASE("plans that differ in one count have different hashes") {
  Plan plan = test::paper_plan();
  const std::string before = plan_hash(plan);
  CHECK(before.size() == 16);
  CHECK(plan_hash(test::paper_plan()) == before);
  ++plan.tables[0].at(0, 0);
  CHECK(plan_hash(plan) != before);
}

TEST_CASE("bad timeline files are refused") {
  const std::string path = written();
  const std::string good = read_file(path);
  const auto refused = [&](const std::string& from, const std::string& to, const std::string& message) {
    std::string text = good;
    const std::size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    text.replace(at, from.size(), to);
    std::ofstream(path, std::ios::binary) << text;
    CAPTURE(to);
    try {
      static_cast<void>(read_timeline(path));
      FAIL("the file was taken");
    } catch (const InputError& e) {
      CHECK_MESSAGE(std::string(e.what()).find(message) != std::string::npos, e.what());
    }
  };
  refused("{", "[", "is not a timeline");
  refused("timeline_version", "version", "is not a timeline");
  refused("\"timeline_version\":2", "\"timeline_version\":9", "has timeline format 9, and this program reads 2");
  refused("\"pass\":\"forward\"", "\"pass\":\"sideways\"", "pass is 'sideways'");
  refused("measured_composed", "guessed", "kind is 'guessed'");
  refused("\"ranks\":2", "\"ranks\":0", "ranks is 0, outside 1 to");
  refused("\"name\":\"dispatch\",", "", "name is missing");
  refused("[0,1,0,5,9,2,3]", "[0,1,0,5,9,2]", "span 0 should have 7 numbers");
  refused("[0,1,0,5,9,2,3]", "[0,2,0,5,9,2,3]", "the rank of span 0 is 2, outside 0 to 1");
  refused("[0,1,0,5,9,2,3]", "[8,1,0,5,9,2,3]", "the op of span 0 is 8, outside 0 to 7");
  refused("[0,1,0,5,9,2,3]", "[0,1,0,5,4,2,3]", "span 0 does not run from ready over start to end");
  refused("[0,1,0,5,9,2,3]", "[0,1,0,5,9.5,2,3]", "end of span 0 should be an integer");
  refused("[0,1,0,5,9,2,3]", "[3,1,0,5,9,2,3]", "span 1 is not in order");
  refused("[0,1,0,5,9,2,3]", "[0,1,0,5,18446744073709551615,2,3]", "end of span 0 should be an integer");
}
