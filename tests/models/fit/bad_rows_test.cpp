// Rows that cannot be used are refused, with their place, before anything is fitted or written.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "models/fit/calibrate.hpp"
#include "models/fit/rows.hpp"
#include "moesim/error.hpp"
#include "tests/scratch.hpp"

using namespace moesim;
using namespace moesim::fit;

namespace {

constexpr const char* gemm_head = "gpu,library,dtype,m,n,k,time_us\n";

std::string written(const std::string& name, const std::string& text) {
  const std::string path = test::scratch(name + ".csv");
  std::ofstream(path) << text;
  return path;
}

// The faults as "line:column: message | hint", one a line.
std::string faults(const std::function<void()>& read) {
  try {
    read();
  } catch (const InputError& e) {
    std::string out;
    for (const Diagnostic& d : e.diagnostics())
      out += std::to_string(d.place.line) + ":" + std::to_string(d.place.column) + ": " + d.message + " | " + d.hint +
             "\n";
    return out;
  }
  return "accepted";
}

std::string gemm_faults(const std::string& text, const std::string& gpu = "") {
  const std::string path = written("bad", text);
  return faults([&] { read_gemm({path}, gpu); });
}

void check_has(const std::string& got, const std::string& wanted) {
  CHECK_MESSAGE(got.find(wanted) != std::string::npos, "\"" << wanted << "\" is not in:\n" << got);
}

// Sixty GEMMs with times of about an H100, scaled.
std::string sound_gemms(double scale, const std::string& gpu = "h100_sxm") {
  std::string text = gemm_head;
  for (int m : {16, 64, 256, 1024, 4096})
    for (int n : {1024, 2048, 4096, 8192})
      for (int k : {1024, 4096, 8192}) {
        const double us = 3 + 2.0 * m * n * k / 700e6 + 2.0 * n * k / 2.8e6;
        text += gpu + ",lib 1,bfloat16," + std::to_string(m) + "," + std::to_string(n) + "," + std::to_string(k) + "," +
                std::to_string(us * scale) + "\n";
      }
  return text;
}

std::string calibration_faults(const std::string& text, const std::string& output = "") {
  CalibrationOptions options;
  options.files = {written("bad", text)};
  options.output = output;
  return faults([&] { calibrate(options); });
}

}  // namespace

TEST_CASE("a missing column is named, with the column that may have meant it") {
  check_has(gemm_faults("gpu,library,dtype,m,n,k,time_ms\nh100_sxm,a,bfloat16,1,1,1,2\n"),
            "1:1: the column 'time_us' is missing | did 'time_ms' mean it?");
  check_has(gemm_faults("m,n\n1,2\n"), "'gpu' is missing");
}

TEST_CASE("files without rows") {
  check_has(gemm_faults(""), "1:1: the file is empty");
  check_has(gemm_faults(gemm_head), "header and no rows");
  CHECK(faults([] { read_gemm({"/no/such/file.csv"}, ""); }) != "accepted");
  CHECK(faults([] { read_gemm({std::filesystem::temp_directory_path().string()}, ""); }) != "accepted");
  check_has(faults([] { read_gemm({}, ""); }), "no file");
  const std::string path = written("once", sound_gemms(1));
  check_has(faults([&] { read_gemm({path, path}, ""); }), "given twice");
}

TEST_CASE("negative, zero and senseless cells: all at once, each with its place") {
  const std::string got =
      gemm_faults(std::string(gemm_head) + "h100_sxm,a,bfloat16,1,32,32,-2\n" + "h100_sxm,a,bfloat16,1,32,64,0\n" +
                  "h100_sxm,a,bfloat16,1,32,96,nan\n" + "h100_sxm,a,bfloat16,0,32,128,2\n" +
                  "h100_sxm,a,bfloat16,1.5,32,128,2\n" + "h100_sxm,a,bfloat16,1,32\n");
  check_has(got, "7:1: 5 cells, the header has 7");
  const std::string cells = gemm_faults(std::string(gemm_head) + "h100_sxm,a,bfloat16,1,32,32,-2\n" +
                                        "h100_sxm,a,bfloat16,1,32,64,0\n" + "h100_sxm,a,bfloat16,1,32,96,nan\n" +
                                        "h100_sxm,a,bfloat16,0,32,128,2\n" + "h100_sxm,a,bfloat16,1.5,32,128,2\n");
  check_has(cells, "2:7: 'time_us' is -2 us: a measured time is above 0");
  check_has(cells, "3:7: 'time_us' is 0 us");
  check_has(cells, "4:7: 'time_us' is 'nan': a number is due");
  check_has(cells, "5:4: 'm' is 0: at least 1 is due");
  check_has(cells, "6:4: 'm' is '1.5': a whole number is due");
}

TEST_CASE("two GPUs in one fit") {
  const std::string both = std::string(gemm_head) + "h100_sxm,a,bfloat16,1,32,32,2\na100_sxm,a,bfloat16,1,32,32,2\n";
  check_has(gemm_faults(both), "the rows are of 2 GPUs: a100_sxm (1 rows), h100_sxm (1 rows)");
  CHECK(gemm_faults(both, "h100_sxm") == "accepted");
  check_has(gemm_faults(both, "h200"), "no row is of GPU 'h200'");
}

TEST_CASE("a file pasted twice, and rows that contradict each other") {
  const std::string sound = sound_gemms(1);
  check_has(gemm_faults(sound + sound.substr(sound.find('\n') + 1)), "duplicate of the row at line 2");
  check_has(gemm_faults(std::string(gemm_head) + "h100_sxm,a,bfloat16,1,32,32,2\nh100_sxm,a,bfloat16,1,32,32,2000\n"),
            "the same shape takes");
  // A few repeats with other times are what benchmarks do: their median.
  const std::string path = written("repeat", std::string(gemm_head) +
                                                 "g,a,bfloat16,1,32,32,2\ng,a,bfloat16,1,32,32,4\n"
                                                 "g,a,bfloat16,1,32,32,3\n");
  const auto rows = read_gemm({path}, "");
  REQUIRE(rows.size() == 1);
  CHECK(rows.front().us == 3);
}

TEST_CASE("units off by a thousand, either way") {
  check_has(calibration_faults(sound_gemms(1e-3)), "times are microseconds: were they milliseconds?");
  check_has(calibration_faults(sound_gemms(1e3)), "were they nanoseconds?");
}

TEST_CASE("one row, and nothing is written") {
  const std::string output = test::scratch("never_written.fit.toml");
  check_has(calibration_faults(std::string(gemm_head) + "h100_sxm,a,bfloat16,64,4096,4096,9\n", output),
            "1 row, and 13 parameters need at least 26");
  CHECK_FALSE(std::filesystem::exists(output));
}

TEST_CASE("an unknown number format, and a GPU without a machine file") {
  std::string wrong = sound_gemms(1);
  for (std::size_t at = 0; (at = wrong.find("bfloat16", at)) != std::string::npos;) wrong.replace(at, 8, "bfloat15");
  check_has(calibration_faults(wrong), "did you mean bfloat16?");
  check_has(calibration_faults(sound_gemms(1, "h999")),
            "the rows are of GPU 'h999', and no machine file has that name");
}

TEST_CASE("expert rows that cannot be") {
  const std::string head =
      "gpu,library,kernel_source,dtype,hidden_size,inter_size,topk,num_experts,moe_tp_size,moe_ep_size,distribution,"
      "num_tokens,time_us\n";
  const std::string path = written(
      "experts", head + "h,a,k,bfloat16,64,64,9,8,1,1,balanced,1,5\n" + "h,a,k,bfloat16,64,64,2,8,1,3,balanced,1,5\n" +
                     "h,a,k,bfloat16,64,64,2,8,3,1,balanced,1,5\n" + "h,a,k,bfloat16,64,64,2,8,1,1,power_law_x,1,5\n" +
                     "h,a,k,bfloat16,64,64,2,8,1,1,zipf,1,5\n");
  const std::string got = faults([&] { read_experts({path}, ""); });
  check_has(got, "2:7: topk is 9 and num_experts only 8");
  check_has(got, "3:10: 8 experts do not divide by moe_ep_size 3");
  check_has(got, "4:9: inter_size 64 does not divide by moe_tp_size 3");
  check_has(got, "'power_law_x' has no exponent");
  check_has(got, "unknown distribution 'zipf'");
}

TEST_CASE("collective and exchange rows that cannot be") {
  const std::string nccl = written("nccl",
                                   "gpu,library,op,num_gpus,num_nodes,message_bytes,time_us\nh,n,all_gather,1,1,64,5\n"
                                   "h,n,gossip,8,1,64,5\nh,n,all_reduce,8,3,64,5\n");
  const std::string got = faults([&] { read_collectives({nccl}, ""); });
  check_has(got, "a collective needs at least 2 GPUs");
  check_has(got, "unknown operation 'gossip'");
  check_has(got, "8 GPUs do not divide by 3 nodes");
  const std::string deepep = written("deepep",
                                     "system,node_num,hidden_size,num_topk,num_experts,num_tokens,dispatch_avg_t_us,"
                                     "combine_avg_t_us\nh,1,64,9,8,1,5,5\n");
  check_has(faults([&] { read_exchanges({deepep}, ""); }), "num_topk is 9 and num_experts only 8");
}
