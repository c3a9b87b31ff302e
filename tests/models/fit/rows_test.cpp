#include "models/fit/rows.hpp"

#include <doctest/doctest.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>

#include "models/fit/csv.hpp"
#include "models/fit/group.hpp"
#include "tests/scratch.hpp"

using namespace moesim;
using namespace moesim::fit;

namespace {
std::string written(const std::string& name, const std::string& text) {
  const std::string path = test::scratch(name);
  std::ofstream(path) << text;
  return path;
}
}  // namespace

TEST_CASE("cells may be quoted; places count lines and columns from 1") {
  const CsvTable t("a,b\n\"x, y\",2\n\n 3 ,4\r\n", "t.csv");
  REQUIRE(t.rows() == 2);
  CHECK(t.cell(0, 0) == "x, y");
  CHECK(t.cell(1, 0) == "3");
  CHECK(t.cell(1, 1) == "4");
  CHECK(t.place(1, 1).line == 4);
  CHECK(t.place(1, 1).column == 2);
  CHECK_THROWS_AS(CsvTable("a,a\n1,2\n", "t.csv"), InputError);
}

TEST_CASE("columns in any order, others ignored, plain or compressed") {
  const std::string text = "note,k,n,m,time_us,dtype,library,gpu\nhello,3,2,1,4.5,fp8,lib,g\n";
  const std::string gz = test::scratch("rows.csv.gz");
  gzFile file = gzopen(gz.c_str(), "wb");
  REQUIRE(file != nullptr);
  REQUIRE(gzwrite(file, text.data(), static_cast<unsigned>(text.size())) == static_cast<int>(text.size()));
  gzclose(file);
  for (const std::string& path : {written("plain.csv", text), gz}) {
    const auto rows = read_gemm({path}, "");
    REQUIRE(rows.size() == 1);
    CHECK(rows[0].m == 1);
    CHECK(rows[0].n == 2);
    CHECK(rows[0].k == 3);
    CHECK(rows[0].us == 4.5);
    CHECK(rows[0].origin.place.line == 2);
  }
}

TEST_CASE("nccl-tests' own form: the shorter of out-of-place and in-place") {
  const auto rows = read_collectives({written("nccl.csv",
                                              "gpu,num_gpus,num_nodes,op,size_bytes,out_of_place_us,in_place_us\n"
                                              "h,16,2,all_reduce,1024,30,28\n")},
                                     "");
  REQUIRE(rows.size() == 1);
  CHECK(rows[0].us == 28);
  CHECK(rows[0].shape.nodes == 2);
  CHECK(rows[0].shape.gpus == 16);
}

TEST_CASE("one DeepEP row is a dispatch in fp8 and a combine in bf16") {
  const auto rows = read_exchanges(
      {written(
          "deepep.csv",
          "system,node_num,hidden_size,num_topk,num_experts,num_tokens,dispatch_sms,dispatch_transmit_us,combine_sms,"
          "combine_transmit_us\nh,2,7168,8,256,128,24,50,20,90\n")},
      "");
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].us == 50);
  CHECK(rows[0].shape.sms == 24);
  CHECK(rows[0].shape.bytes_per_element == doctest::Approx(1.03125));  // and a float32 scale per 128 elements
  CHECK(rows[1].us == 90);
  CHECK(rows[1].shape.sms == 20);
  CHECK(rows[1].shape.bytes_per_element == 2);
}

TEST_CASE("folds keep together what is held out together") {
  Group g;
  for (int i = 0; i < 60; ++i) {
    g.log_us.push_back(0);
    g.shape.push_back("shape " + std::to_string(i % 12));
    g.size.push_back(i);
    g.count.push_back(i < 30 ? 2 : 8);
  }
  const std::vector<int> shape = folds(g, Holdout::shape);
  for (std::size_t i = 12; i < 60; ++i) CHECK(shape[i] == shape[i - 12]);
  CHECK(*std::max_element(shape.begin(), shape.end()) == 4);
  const std::vector<int> size = folds(g, Holdout::size);
  CHECK(std::is_sorted(size.begin(), size.end()));  // ranges, so the largest sizes are extrapolated to
  CHECK(std::count(size.begin(), size.end(), 4) == 12);
  const std::vector<int> count = folds(g, Holdout::count);
  for (std::size_t i = 0; i < 60; ++i) CHECK(count[i] == (i < 30 ? 0 : 1));
  g.count.assign(60, 8);
  CHECK_THROWS_AS(folds(g, Holdout::count), InputError);
}
