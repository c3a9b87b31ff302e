#include "models/cost/fitted.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <random>
#include <vector>

#include "moesim/error.hpp"
#include "support/files.hpp"
#include "tests/scratch.hpp"

using namespace moesim;
using namespace moesim::cost;

namespace {

Gpu gpu_like(double tflops, double gbps, int sms) {
  Gpu gpu;
  gpu.name = "paper";
  gpu.sms = sms;
  gpu.peak[static_cast<std::size_t>(Math::bf16)] = FlopsPerSecond(tflops * 1e12);
  gpu.peak[static_cast<std::size_t>(Math::tf32)] = FlopsPerSecond(tflops * 0.5e12);
  gpu.peak[static_cast<std::size_t>(Math::f32)] = FlopsPerSecond(tflops * 0.07e12);
  gpu.memory_bandwidth = BytesPerSecond(gbps * 1e9);
  gpu.matrix_efficiency = 0.8;
  gpu.memory_efficiency = 0.85;
  gpu.attention_efficiency = 0.6;
  gpu.kernel_floor = from_microseconds(2);
  return gpu;
}

FitFile paper_fits() {
  FitEntry e;
  e.schema = "gemm";
  e.library = "vllm 1";
  e.dtype = "bfloat16";
  e.variant = "best";
  e.rows = 500;
  e.gpu = "paper";
  e.holdout = "shape";
  e.source = "made up, \"quoted\"";
  e.notes = {"first", "second"};
  e.parameters = to_map(tile_fields(), from_map(tile_fields(), {}));
  e.parameters["launch_us"] = 3;
  e.parameters["memory_efficiency"] = 0.8;
  e.ranges = {{"m", 1, 4096}, {"n", 32, 8192}, {"k", 32, 8192}};
  Accuracy a;
  a.regime = "all";
  a.rows = 500;
  a.median = 0.04;
  a.p90 = 0.12;
  a.bias = -0.01;
  a.low = -0.16449;
  a.high = 0.16449;
  a.coverage = 0.9;
  e.accuracy.push_back(a);
  a.regime = "memory";
  a.rows = 100;
  a.low = -0.32898;
  a.high = 0.32898;
  e.accuracy.push_back(a);
  return {"paper", {e}};
}

}  // namespace

TEST_CASE("a fit file says again what was written") {
  const std::string path = test::scratch("fit_file.toml");
  const FitFile file = paper_fits();
  write_fit_file(file, path);
  const FitFile back = read_fit_file(path);
  CHECK(to_toml(back) == to_toml(file));
  REQUIRE(back.entries.size() == 1);
  const FitEntry& e = back.entries.front();
  CHECK(e.source == "made up, \"quoted\"");
  CHECK(e.notes == std::vector<std::string>{"first", "second"});
  CHECK(e.parameters.at("launch_us") == 3);
  CHECK(e.ranges.size() == 3);
  REQUIRE(e.find("memory"));
  CHECK(e.find("memory")->bias == doctest::Approx(-0.01));
  CHECK(!e.find("nothing"));
  CHECK(to_toml(file).find("# of the memory bandwidth, in a long stream") != std::string::npos);
}

TEST_CASE("a bad fit file is refused with all its faults") {
  const std::string path = test::scratch("bad_fit.toml");
  write_file(path,
             "format = 1\nmachine = \"paper\"\n[[fit]]\nschema = \"gemm\"\nrows = 3\n"
             "[fit.parameters]\nlaunch_us = -2.0\ntail = \"much\"\n[fit.ranges]\nm = [5, 1]\n");
  try {
    static_cast<void>(read_fit_file(path));
    FAIL("not refused");
  } catch (const InputError& e) {
    const std::string text = e.what();
    CHECK(text.find("launch_us") != std::string::npos);
    CHECK(text.find("tail") != std::string::npos);
    CHECK(text.find("two rising numbers") != std::string::npos);
    CHECK(text.find(":7:") != std::string::npos);
  }
  write_file(path, "format = 9\nmachine = \"paper\"\n");
  CHECK_THROWS_AS(static_cast<void>(read_fit_file(path)), InputError);
}

TEST_CASE("fitted gemm: launch and tiles, with the regime's interval and range") {
  const Gpu gpu = gpu_like(300, 2000, 100);
  const auto model = make_fitted(gpu, paper_fits());
  const KernelCost cost = model->gemm({.m = 1, .n = 4096, .k = 4096});
  TileWork work;
  work.rows = RowTiles::dense(1);
  work.n = work.k = 4096;
  const TileParameters p = from_map(tile_fields(), paper_fits().entries[0].parameters);
  const double us = 3 + tile_us(p, TilePolicy::best, device_of(gpu, Math::bf16), work);
  CHECK(to_microseconds(cost.duration) == doctest::Approx(us));
  CHECK(cost.in_range);
  // 33.6 MB at 2 TB/s are 16.8 us: memory-bound. Its interval is +-0.32898 = 1.6449 sigma.
  CHECK(cost.log_sigma == doctest::Approx(0.2).epsilon(0.001));
  CHECK(!model->gemm({.m = 5000, .n = 4096, .k = 4096}).in_range);
  CHECK(model->gemm({.m = 0, .n = 4096, .k = 4096}).duration == Picoseconds(0));
  // Another pipeline borrows the parameters and says so.
  const KernelCost tf32 = model->gemm(
      {.m = 4096, .n = 4096, .k = 4096, .in = DType::f32, .weight = DType::f32, .out = DType::f32, .math = Math::tf32});
  CHECK(!tf32.in_range);
  CHECK(tf32.duration > model->gemm({.m = 4096, .n = 4096, .k = 4096}).duration);
}

TEST_CASE("fitted streaming: launch and the fitted share of the bandwidth") {
  const auto model = make_fitted(gpu_like(300, 2000, 100), paper_fits());
  // 16 MB at 0.8 * 2 TB/s = 10 us, and 3 us.
  CHECK(to_microseconds(model->streaming(Bytes(16'000'000), Flops(0)).duration) == doctest::Approx(13));
  CHECK(model->streaming(Bytes(0), Flops(0)).duration == Picoseconds(0));
}

TEST_CASE("fitted models never beat the data sheet, whatever the shape, format and parameters") {
  const Gpu gpu = gpu_like(300, 2000, 100);
  FitFile fits = paper_fits();
  fits.entries[0].parameters["launch_us"] = 0.5;
  fits.entries[0].parameters["memory_efficiency"] = 1;
  FitEntry experts = fits.entries[0];
  experts.schema = "moe_kernel";
  fits.entries.push_back(experts);
  const auto model = make_fitted(gpu, fits);
  std::mt19937 random(7);
  const auto draw = [&](int limit) { return static_cast<std::int64_t>(1 + random() % static_cast<unsigned>(limit)); };
  for (int i = 0; i < 300; ++i) {
    const Math math = random() % 2 == 0 ? Math::bf16 : Math::tf32;
    const DType type = math == Math::bf16 ? DType::bf16 : DType::f32;
    const GemmShape dense{.m = draw(20000),
                          .n = draw(20000),
                          .k = draw(20000),
                          .batch = draw(4),
                          .in = type,
                          .weight = type,
                          .out = type,
                          .math = math};
    CHECK_NOTHROW(check_physics(gpu, math, model->gemm(dense)));
    std::vector<std::int32_t> m;
    for (int g = 0; g < 20; ++g) m.push_back(static_cast<std::int32_t>(random() % 3 == 0 ? 0 : draw(700)));
    const GroupedShape grouped{.m = m,
                               .matrices = draw(20),
                               .n = draw(9000),
                               .k = draw(9000),
                               .in = type,
                               .weight = type,
                               .out = type,
                               .math = math,
                               .block = random() % 2 == 0 ? 128 : 0};
    CHECK_NOTHROW(check_physics(gpu, math, model->grouped_gemm(grouped)));
    CHECK_NOTHROW(check_physics(gpu, Math::f32, model->streaming(Bytes(draw(1 << 30)), Flops(draw(1 << 30)))));
  }
}

TEST_CASE("a file without a fit leaves the roofline") {
  const Gpu gpu = gpu_like(300, 2000, 100);
  const auto fitted = make_fitted(gpu, FitFile{"paper", {}});
  const auto roofline = make_roofline(gpu);
  const GemmShape s{.m = 300, .n = 4096, .k = 512};
  CHECK(fitted->gemm(s).duration == roofline->gemm(s).duration);
  CHECK(fitted->gemm(s).log_sigma == 0);
}

TEST_CASE("the library that is asked for is taken, else the first") {
  FitFile fits = paper_fits();
  FitEntry other = fits.entries[0];
  other.library = "trtllm 2";
  fits.entries.push_back(other);
  CHECK(find_entry(fits, "gemm", "bfloat16")->library == "vllm 1");
  CHECK(find_entry(fits, "gemm", "bfloat16", "trtllm")->library == "trtllm 2");
  CHECK(find_entry(fits, "gemm", "fp8") == nullptr);
}

TEST_CASE("transfer: parameters stay, intervals widen with the distance, nothing is in range") {
  const Gpu from = gpu_like(300, 2000, 100);
  const Gpu to = gpu_like(300, 2000 * std::exp(0.5), 100);
  CHECK(distance(from, to) == doctest::Approx(0.5));
  CHECK(distance(from, from) == 0);
  const FitFile moved = transfer(paper_fits(), from, to, "other", {{"gemm", 0.2, 1.0}});
  REQUIRE(moved.entries.size() == 1);
  const FitEntry& e = moved.entries[0];
  CHECK(moved.machine == "other");
  CHECK(e.transferred_from == "paper");
  CHECK(e.transfer_sigma == doctest::Approx(0.1));
  CHECK(e.parameters == paper_fits().entries[0].parameters);
  CHECK(log_sigma(e, "all") == doctest::Approx(std::hypot(0.1, 0.1)).epsilon(0.001));
  const KernelCost cost = make_fitted(to, moved)->gemm({.m = 1, .n = 4096, .k = 4096});
  CHECK(!cost.in_range);
  CHECK(cost.duration < make_fitted(from, paper_fits())->gemm({.m = 1, .n = 4096, .k = 4096}).duration);
}

TEST_CASE("transfer: a tile's latencies are those of as many operations of one SM") {
  const Gpu from = gpu_like(300, 2000, 100);  // 3 TFLOPS an SM
  const Gpu to = gpu_like(1200, 2000, 100);   // 12
  FitFile fits = paper_fits();
  FitEntry& e = fits.entries[0];
  e.parameters["step_us"] = 0.4;
  e.parameters["epilogue_us"] = 2;
  e.parameters["launch_us"] = 3;
  FitEntry nccl;
  nccl.schema = "nccl";
  nccl.parameters["step_us"] = 0.8;  // of a ring: no business of an SM
  fits.entries.push_back(nccl);
  const FitFile moved = transfer(fits, from, to, "other", {});
  CHECK(moved.entries[0].parameters.at("step_us") == doctest::Approx(0.1));
  CHECK(moved.entries[0].parameters.at("epilogue_us") == doctest::Approx(0.5));
  CHECK(moved.entries[0].parameters.at("launch_us") == 3);
  CHECK(moved.entries.back().parameters.at("step_us") == 0.8);
  // The same SMs, half as many: nothing changes.
  CHECK(transfer(fits, from, gpu_like(150, 1000, 50), "half", {}).entries[0].parameters.at("step_us") ==
        doctest::Approx(0.4));
}

TEST_CASE("predictions of collectives and exchanges carry their interval") {
  FitFile fits = paper_fits();
  FitEntry nccl = fits.entries[0];
  nccl.schema = "nccl";
  nccl.dtype = "";
  nccl.parameters = {};
  nccl.ranges = {{"gpus", 2, 8}};
  fits.entries.push_back(nccl);
  const Fabric fabric{4.5e5, 5e4, 3.35e6, false};
  const auto p = predict_collective(fabric, fits, {CollectiveKind::all_gather, 8, 1, 1e8});
  REQUIRE(p);
  CHECK(p->low_us < p->us);
  CHECK(p->high_us == doctest::Approx(p->us * std::exp(0.16449)).epsilon(0.001));
  CHECK(p->low_us >= collective_bound_us(fabric, {CollectiveKind::all_gather, 8, 1, 1e8}));
  CHECK(p->in_range);
  CHECK(!predict_collective(fabric, fits, {CollectiveKind::all_gather, 16, 2, 1e8})->in_range);
  CHECK(!predict_exchange(fabric, fits, {.tokens = 1, .hidden = 1, .bytes_per_element = 1}));
  CHECK(!predict_experts(gpu_like(300, 2000, 100), fits, {}, DType::bf16));
}
