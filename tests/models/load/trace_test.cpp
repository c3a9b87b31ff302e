// Recorded routing: round trips, windows, tiling, layers, notes, exact counts.
#include "models/load/trace.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "models/load/synthetic.hpp"
#include "moesim/error.hpp"
#include "support/files.hpp"
#include "tests/scratch.hpp"

using namespace moesim;
using namespace moesim::load;

namespace {

std::string written(const std::string& name, const std::string& content) {
  const std::string path = test::scratch(name);
  write_file(path, content);
  return path;
}

TraceSpec spec_for(const std::string& path, int experts, int layers = 0, int top_k = 0, std::int64_t tokens = 0) {
  TraceSpec spec;
  spec.path = path;
  spec.shape = {layers, experts, top_k, 1, 1, tokens};
  return spec;
}

std::vector<ExpertIndex> ids_of(const Routing& routing, int layer, std::int64_t first, std::size_t tokens) {
  std::vector<ExpertIndex> ids(tokens * static_cast<std::size_t>(routing.top_k()));
  routing.assign(layer, first, ids);
  return ids;
}

// A .npy of version 1 as NumPy 1.26 writes it.
template <class T>
std::string npy(const std::string& descr, const std::array<int, 3>& shape, const std::vector<T>& ids,
                char version = 1) {
  std::string header = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (" + std::to_string(shape[0]) +
                       ", " + std::to_string(shape[1]) + ", " + std::to_string(shape[2]) + "), }";
  header.resize(117, ' ');
  header += '\n';
  std::string out("\x93NUMPY", 6);
  out += version;
  out += '\0';
  out += static_cast<char>(118);
  out += '\0';
  if (version > 1) out += std::string(2, '\0');
  out += header;
  out.append(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(T));
  return out;
}

std::string faults_of(const TraceSpec& spec) {
  try {
    open_trace(spec);
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("npy: what is written is read back, in one and in two bytes") {
  for (const int experts : {64, 300}) {
    SyntheticSpec source;
    source.shape = {3, experts, 4, 1, 1, 20'000};
    source.law = {"zipf", {}};
    const auto routing = make_synthetic(source);
    const std::string file = test::scratch("trace.npy");
    write_npy(file, *routing, 100, 19'000);
    CHECK(std::filesystem::file_size(file) == 128 + 3U * 19'000 * 4 * (experts > 256 ? 2 : 1));
    const auto trace = open_trace(spec_for(file, experts, 3, 4, 19'000));
    CHECK(trace->moe_layers() == 3);
    CHECK(trace->top_k() == 4);
    CHECK(trace->tokens() == 19'000);
    CHECK_FALSE(trace->synthetic());
    CHECK(trace->notes().empty());
    for (int layer = 0; layer < 3; ++layer)
      CHECK(ids_of(*trace, layer, 0, 19'000) == ids_of(*routing, layer, 100, 19'000));
  }
}

TEST_CASE("npy: every integer type and format version") {
  const std::vector<ExpertIndex> expected{0, 1, 2, 3, 4, 5, 1, 0, 3, 2, 5, 4};
  const auto check = [&](const std::string& content) {
    const std::string file = written("type.npy", content);
    const auto trace = open_trace(spec_for(file, 6));
    std::vector<ExpertIndex> ids = ids_of(*trace, 0, 0, 3);
    const std::vector<ExpertIndex> second = ids_of(*trace, 1, 0, 3);
    ids.insert(ids.end(), second.begin(), second.end());
    CHECK(ids == expected);
  };
  const std::array<int, 3> shape{2, 3, 2};
  check(npy("|i1", shape, std::vector<std::int8_t>(expected.begin(), expected.end())));
  check(npy("|u1", shape, std::vector<std::uint8_t>(expected.begin(), expected.end())));
  check(npy("<i2", shape, std::vector<std::int16_t>(expected.begin(), expected.end())));
  check(npy("<u2", shape, std::vector<std::uint16_t>(expected.begin(), expected.end())));
  check(npy("<i4", shape, std::vector<std::int32_t>(expected.begin(), expected.end()), 2));
  check(npy("<u4", shape, std::vector<std::uint32_t>(expected.begin(), expected.end()), 3));
  check(npy("<i8", shape, std::vector<std::int64_t>(expected.begin(), expected.end())));
  check(npy("<u8", shape, std::vector<std::uint64_t>(expected.begin(), expected.end())));
}

TEST_CASE("windows: first and last tokens; tiling only when asked") {
  // 10 tokens of top-1 that choose 0, 1, ..., 9.
  std::vector<std::uint8_t> ids(10);
  std::iota(ids.begin(), ids.end(), std::uint8_t{0});
  const std::string file = written("window.npy", npy("|u1", {1, 10, 1}, ids));
  TraceSpec spec = spec_for(file, 10);
  spec.window = {0, 4};
  CHECK(ids_of(*open_trace(spec), 0, 0, 4) == std::vector<ExpertIndex>{0, 1, 2, 3});
  spec.window = {-3, 0};
  CHECK(ids_of(*open_trace(spec), 0, 0, 3) == std::vector<ExpertIndex>{7, 8, 9});
  spec.window = {-3, 2};
  CHECK(open_trace(spec)->tokens() == 2);

  spec.shape.tokens = 7;
  std::string text = faults_of(spec);
  CHECK_MESSAGE(text.find("has 2 tokens in the window, the workload needs 7") != std::string::npos, text);
  CHECK_MESSAGE(text.find("repeat = true") != std::string::npos, text);
  spec.repeat = true;
  const auto tiled = open_trace(spec);
  CHECK(tiled->tokens() == 7);
  CHECK(ids_of(*tiled, 0, 0, 7) == std::vector<ExpertIndex>{7, 8, 7, 8, 7, 8, 7});
  CHECK(ids_of(*tiled, 0, 3, 2) == std::vector<ExpertIndex>{8, 7});
  REQUIRE(tiled->notes().size() == 1);
  CHECK(tiled->notes()[0] == "2 recorded tokens are repeated 3.5 times");

  for (const Window& outside : {Window{10, 0}, Window{-11, 0}, Window{5, 6}, Window{0, -1}}) {
    spec.window = outside;
    CHECK(faults_of(spec).find("has 10 tokens; the window of") != std::string::npos);
  }
}

TEST_CASE("layers: exact, or in turn") {
  const std::string file = written("layers.npy", npy("|u1", {2, 1, 1}, std::vector<std::uint8_t>{3, 5}));
  TraceSpec spec = spec_for(file, 8, 5);
  CHECK(faults_of(spec).find("has routing of 2 layers, the model has 5 MoE layers") != std::string::npos);
  spec.layers = LayerMap::cycle;
  const auto trace = open_trace(spec);
  CHECK(trace->moe_layers() == 5);
  for (int l = 0; l < 5; ++l) CHECK(ids_of(*trace, l, 0, 1)[0] == (l % 2 == 0 ? 3 : 5));
  REQUIRE(trace->notes().size() == 1);
  CHECK(trace->notes()[0] == "2 recorded layers stand for 5 MoE layers in turn");
  spec.shape.top_k = 2;
  CHECK(faults_of(spec).find("has 1 expert ids per token, the model uses top_k = 2") != std::string::npos);
}

TEST_CASE("jsonl: layers in any order of rows, ids by falling weight, other records skipped") {
  const std::string file =
      written("routes.jsonl",
              "{\"type\": \"meta\", \"top_k\": 2}\n"
              "{\"type\": \"route\", \"req_id\": \"a\", \"token_idx\": 0, \"layer\": 7, \"topk_ids\": [1, 2]}\r\n"
              "\n"
              "{\"type\": \"route\", \"req_id\": \"a\", \"token_idx\": 0, \"layer\": 3, \"topk_ids\": [4, 5], "
              "\"topk_weights\": [0.1, 0.4]}\n"
              "{\"type\": \"route\", \"req_id\": \"a\", \"token_idx\": 1, \"layer\": 7, \"topk_ids\": [0, 3]}\n"
              "{\"type\": \"route\", \"req_id\": \"a\", \"token_idx\": 1, \"layer\": 3, \"topk_ids\": [6, 7]}");
  const auto trace = open_trace(spec_for(file, 8, 2, 2, 2));
  CHECK(ids_of(*trace, 0, 0, 2) == std::vector<ExpertIndex>{5, 4, 6, 7});  // model layer 3
  CHECK(ids_of(*trace, 1, 0, 2) == std::vector<ExpertIndex>{1, 2, 0, 3});
}

TEST_CASE("a repeated warm-up record is pointed out, and a window leaves it out") {
  std::string rows;
  for (int t = 0; t < 300; ++t) {
    const int e = t < 200 ? 0 : t % 5;
    rows += "{\"layer\": 0, \"topk_ids\": [" + std::to_string(e) + ", " + std::to_string(e + 1) + "]}\n";
  }
  const std::string file = written("warm.jsonl", rows);
  TraceSpec spec = spec_for(file, 8);
  const auto trace = open_trace(spec);
  REQUIRE(trace->notes().size() == 1);
  // Token 200 chooses 0 and 1 as well.
  CHECK(trace->notes()[0].find(
            "201 of 300 tokens in a row (from token 0) choose the same experts at every layer (0 1 at") !=
        std::string::npos);
  CHECK(trace->notes()[0].find("a window from token 201 leaves them out") != std::string::npos);
  spec.window.first = 201;
  CHECK(open_trace(spec)->notes().empty());
}

TEST_CASE("csv: counts are met exactly over the recorded number of tokens") {
  // Top-2 of 4 experts, 10 tokens: 8 + 6 + 5 + 1 = 20 copies.
  const std::string file =
      written("counts.csv", "layer,expert,count\n# a comment\n0,0,8\n0,1,6\n0,2,5\n0,3,1\n1,3,10\n1,0,10\n");
  const auto trace = open_trace(spec_for(file, 4, 2, 2));
  CHECK(trace->tokens() == 10);
  CHECK(trace->notes().empty());
  const TokenRanges one = TokenRanges::even(10, 1);
  const Table first = expert_counts(*trace, 0, one);
  CHECK(std::vector<std::int32_t>(first.cells().begin(), first.cells().end()) == std::vector<std::int32_t>{8, 6, 5, 1});
  const Table second = expert_counts(*trace, 1, one);
  CHECK(std::vector<std::int32_t>(second.cells().begin(), second.cells().end()) ==
        std::vector<std::int32_t>{10, 0, 0, 10});
  // Ten times the tokens: ten times the counts, and a note.
  const auto scaled = open_trace(spec_for(file, 4, 2, 2, 100));
  const Table tenfold = expert_counts(*scaled, 0, TokenRanges::even(100, 1));
  CHECK(std::vector<std::int32_t>(tenfold.cells().begin(), tenfold.cells().end()) ==
        std::vector<std::int32_t>{80, 60, 50, 10});
  REQUIRE(scaled->notes().size() == 1);
  CHECK(scaled->notes()[0] == "counts of 20 to 20 token copies per layer are scaled to 200");
  // 7 tokens: 14 copies in 8 : 6 : 5 : 1 are 5.6, 4.2, 3.5, 0.7: largest remainders .7 and .6.
  const Table few = expert_counts(*open_trace(spec_for(file, 4, 2, 2, 7)), 0, TokenRanges::even(7, 1));
  CHECK(std::vector<std::int32_t>(few.cells().begin(), few.cells().end()) == std::vector<std::int32_t>{6, 4, 3, 1});
}

TEST_CASE("csv: rows of iterations, of this model's size only; windows select iterations") {
  const std::string file =
      written("iterations.csv",
              "num_experts,layer,iteration,tokens_per_expert\n"
              "2,l1,3,5 5\n3,l3,3,1 2 3\n3,l1,3,6 0 0\n3,l1,4,0 6 0\n3,l3,4,3 2 1\n3,l1,5,0 0 6\n3,l3,5,6 0 0\n");
  const auto counts = [](const RecordedRouting& trace, int layer) {
    const Table table = expert_counts(trace, layer, TokenRanges::even(trace.tokens(), 1));
    return std::vector<std::int32_t>(table.cells().begin(), table.cells().end());
  };
  TraceSpec spec = spec_for(file, 3, 2);
  const auto all = open_trace(spec);
  CHECK(counts(*all, 0) == std::vector<std::int32_t>{6, 6, 6});
  CHECK(counts(*all, 1) == std::vector<std::int32_t>{10, 4, 4});
  REQUIRE(all->notes().size() == 1);
  CHECK(all->notes()[0] == "counts are the sum of 3 iterations");
  spec.window = {0, 2};
  CHECK(counts(*open_trace(spec), 1) == std::vector<std::int32_t>{4, 4, 4});
  spec.window = {-1, 0};
  CHECK(counts(*open_trace(spec), 0) == std::vector<std::int32_t>{0, 0, 6});
  spec.window = {3, 0};
  CHECK(faults_of(spec).find("has 3 iterations; the window of all from 3 is not inside") != std::string::npos);
}

TEST_CASE("recorded decisions do not depend on how they are cut") {
  SyntheticSpec source;
  source.shape = {1, 64, 4, 1, 1, 5000};
  const std::string file = test::scratch("cut.npy");
  write_npy(file, *make_synthetic(source), 0, 5000);
  TraceSpec spec = spec_for(file, 64, 1, 4, 12'345);
  spec.repeat = true;
  const auto trace = open_trace(spec);
  const std::vector<ExpertIndex> whole = ids_of(*trace, 0, 0, 12'345);
  for (std::int64_t first = 0, n = 1; first + n <= 12'345; first += n, n = n * 5 % 997 + 1)
    REQUIRE(std::equal(whole.begin() + 4 * first, whole.begin() + 4 * (first + n),
                       ids_of(*trace, 0, first, static_cast<std::size_t>(n)).begin()));
}
