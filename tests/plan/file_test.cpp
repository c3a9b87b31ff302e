#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>

#include "moesim/error.hpp"
#include "support/files.hpp"
#include "tests/plan/paper_plan.hpp"
#include "tests/scratch.hpp"

using namespace moesim;
namespace fs = std::filesystem;

namespace {

// A plan in which every field of every op has a value of its own.
Plan rich_plan() {
  Plan p = test::paper_plan();
  p.options = {{"a", "1"}, {"b \"quoted\"\n", "\xc3\xa9"}};
  p.routing_synthetic = false;
  p.dropped_copies = 3;
  p.placements.push_back(test::in_order(2, 3));
  const auto add = [&](const char* name, Category category, Pass pass, Work work) {
    p.ops.push_back({name, category, pass, Layer{}, 2, {OpId(1), OpId(3)}, {BufferId(0)}, {}, std::move(work)});
  };
  add("gemm", Category::dense, Pass::backward,
      Gemm{Rows{5, {}}, 3, 7, 11, DType::fp8, DType::fp4, DType::f16, Math::fp4});
  add("grouped", Category::experts, Pass::backward,
      GroupedGemm{GroupedGemm::Form::weight_gradient, TableId(0), 4, 3, 2, DType::int8, DType::int8, DType::f32,
                  Math::int8, Launch{true, 4}, true});
  add("attention", Category::attention, Pass::forward,
      AttentionCore{Rows{2, {}}, 1, 9, 8, 2, 16, 4, 5, 40, true, true, DType::f16, Math::f16});
  add("activation", Category::other, Pass::forward,
      Elementwise{Elementwise::Fn::gated, Rows{0, TableId(1)}, 8, 4, DType::bf16, 17, Activation::silu});
  add("copy", Category::optimizer, Pass::update, Copy{Copy::Direction::device_to_host, Rows{1, {}}, 2, DType::i32});
  add("sync", Category::gate, Pass::forward, HostSync{});
  add("sparse", Category::combine, Pass::backward,
      Collective{Collective::Kind::sparse_reduce_scatter, Collective::Algorithm::in_switch, GroupsId(0), TableId{}, 6,
                 DType::fp4, 0, PlacementId(1), PlacementId(1)});
  p.buffers[2].shard.sections = {{3, 1}, {5, 2}};
  p.buffers[2].shard.groups = GroupsId(0);
  p.buffers.push_back({"moments", BufferRole::optimizer, Location::host, DType::f32, Rows{0, TableId(0)}, 2, {}});
  return p;
}

}  // namespace

TEST_CASE("a plan comes back from its file as it was") {
  for (const Plan& plan : {test::paper_plan(), rich_plan()}) {
    REQUIRE(faults(plan).empty());
    const std::string path = test::scratch("round_trip.plan.json");
    write_plan(plan, path);
    CHECK(read_plan(path) == plan);
    const std::string first = read_file(path);
    write_plan(read_plan(path), path);
    CHECK(read_file(path) == first);  // the same bytes again
  }
}

TEST_CASE("the file is what docs/plan_format.md says") {
  const std::string path = test::scratch("format.plan.json");
  write_plan(test::paper_plan(), path);
  const std::string text = read_file(path);
  CHECK(text.find("{\"format_version\":2,\"strategy\":\"paper\"") == 0);
  CHECK(text.find("\"token_begin\":[0,3,5]") != std::string::npos);
  CHECK(text.find("{\"rows\":2,\"cols\":4,\"cells\":[1,0,2,0,1,1,0,0]}") != std::string::npos);
  CHECK(text.find("\"rows\":{\"table\":0}") != std::string::npos);
  CHECK(text.find("\"type\":\"permute\",\"from\":\"token\",\"to\":\"by_slot\"") != std::string::npos);
  CHECK(text.find("\"shard\":null") != std::string::npos);
}

// tests/bad_input/plans: the paper plan with one thing broken each, and where the reader says it is.
TEST_CASE("bad plan files are refused, and the message says what is wrong with them") {
  struct Bad {
    const char* file;
    const char* message;
  };
  const std::vector<Bad> bad{
      {"empty.json", ":1:1: error: is not a plan: the JSON is broken or truncated here"},
      {"truncated.json", ": error: is not a plan: the JSON is broken or truncated here"},
      {"not_json.json", ":1:1: error: is not a plan"},
      {"list.json", "is not a plan: it has no format_version"},
      {"no_version.json", "is not a plan: it has no format_version"},
      {"other_version.json", "has plan format 999, and this program reads 2"},
      {"missing_field.json", "ops[2].work.counts is missing"},
      {"wrong_type.json", "ops[4].work.n should be an integer: \"8\""},
      {"fraction.json", "ranks should be an integer: 2.5"},
      {"unknown_role.json", "buffers[2].role is 'wieght'"},
      {"unknown_work.json", "ops[0].work.type is not a type of work: \"elementwize\""},
      {"number_too_large.json", "buffers[1].cols is too large: 9223372036854775808"},
      {"cell_missing.json", "tables[0] should have 2 x 4 cells"},
      {"negative_table.json", "does not name a table"},
      {"cycle.json", "op 2 'dispatch': depends on op 3, which does not come before it"},
      {"rank_out_of_range.json", "groups 0: rank 7 is out of range"},
      {"two_faults.json", "holds a negative count"},
      {"counts_do_not_add_up.json", "delivers 4 rows of 8 to rank 0, where its output has 3 of 8"},
      {"tall_table.json", "table 1: has 3 rows for 2 ranks"},
      {"huge_buffer.json", "cols is 4611686018427387904, outside 0 to 1099511627776"},
  };
  const std::string directory = std::string(MOESIM_TESTS_DIR) + "/bad_input/plans/";
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(directory)) ++files;
  CHECK(files == bad.size());
  for (const Bad& b : bad) {
    CAPTURE(b.file);
    try {
      static_cast<void>(read_plan(directory + b.file));
      FAIL("the plan was taken");
    } catch (const InputError& e) {
      const std::string message = e.what();
      CHECK_MESSAGE(message.find(b.message) != std::string::npos, message);
      CHECK(message.find(b.file) != std::string::npos);
    }
  }
}

TEST_CASE("a plan file that is not there") {
  CHECK_THROWS_AS(static_cast<void>(read_plan("/nowhere/plan.json")), InputError);
}

// Whatever happens to the bytes, the reader answers with a plan that is sound or with an InputError.
TEST_CASE("damaged bytes never get through as an unsound plan") {
  const std::string path = test::scratch("fuzz.plan.json");
  write_plan(test::paper_plan(), path);
  const std::string good = read_file(path);
  std::mt19937 random(7);
  int taken = 0;
  for (int i = 0; i < 3000; ++i) {
    std::string text = good;
    const auto at = [&] { return std::uniform_int_distribution<std::size_t>(0, text.size() - 1)(random); };
    switch (i % 3) {
      case 0:
        text[at()] = static_cast<char>('0' + i % 10);
        break;
      case 1:
        text.resize(at());
        break;
      default:
        text.erase(at(), 1 + static_cast<std::size_t>(i % 5));
    }
    {
      std::ofstream out(path, std::ios::binary);
      out << text;
    }
    try {
      const Plan plan = read_plan(path);
      CHECK(faults(plan).empty());
      static_cast<void>(describe(plan, Rank(0)));
      static_cast<void>(worst_memory_peak(plan));
      ++taken;
    } catch (const InputError&) {
    }
  }
  CHECK(taken > 0);  // a digit in a name or a count nobody checks
  CHECK(taken < 1000);
}

TEST_CASE("a description names every op with its shape, and the peak") {
  const std::string text = describe(test::paper_plan(), Rank(0));
  CHECK(text.find("[., 8] x [8, 8] f32") != std::string::npos);
  CHECK(text.find("3 rows in 2 of 2 groups") != std::string::npos);
  CHECK(text.find("1 group of 2, 64 B out, 64 B in") != std::string::npos);
  CHECK(text.find("peak memory of rank 0: 1.00 KiB, during permute") != std::string::npos);
}
