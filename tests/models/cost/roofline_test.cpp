#include <doctest/doctest.h>

#include <random>
#include <vector>

#include "models/cost/kernel_model.hpp"
#include "moesim/error.hpp"

using namespace moesim;
using namespace moesim::cost;
using namespace moesim::literals;

namespace {

// Round numbers, so that every expectation is solved on paper: 100 TFLOP/s at 80 %, 1 TB/s at 50 %.
Gpu paper_gpu() {
  Gpu gpu;
  gpu.name = "paper";
  gpu.peak[static_cast<std::size_t>(Math::bf16)] = 100_TFLOPS;
  gpu.peak[static_cast<std::size_t>(Math::f32)] = 10_TFLOPS;
  gpu.memory_bandwidth = 1000_GBps;
  gpu.matrix_efficiency = 0.8;
  gpu.memory_efficiency = 0.5;
  gpu.attention_efficiency = 0.4;
  gpu.kernel_floor = 2_us;
  return gpu;
}

std::int64_t visible_pairs(const AttentionShape& s) {
  std::int64_t sum = 0;
  for (std::int64_t i = 0; i < s.q_len; ++i)
    for (std::int64_t j = 0; j < s.kv_len; ++j) {
      const std::int64_t position = s.kv_len - s.q_len + i;
      const bool seen = !s.causal || (j <= position && (s.window == 0 || j > position - s.window));
      sum += seen ? 1 : 0;
    }
  return sum;
}

}  // namespace

TEST_CASE("gemm: flops, bytes and the larger of two times") {
  const auto model = make_roofline(paper_gpu());
  // 2 m n k = 2 * 1000 * 2000 * 4000 = 1.6e10; / (0.8 * 1e14) = 200 us.
  // bytes = 2 (1000 * 4000 + 4000 * 2000 + 1000 * 2000) = 2.8e7; / (0.5 * 1e12) = 56 us.
  const KernelCost large = model->gemm({.m = 1000, .n = 2000, .k = 4000});
  CHECK(large.flops == Flops(16'000'000'000));
  CHECK(large.bytes == Bytes(28'000'000));
  CHECK(large.duration == 200_us);
  // One row: bytes = 2 (4000 + 8,000,000 + 2000) = 16,012,000 -> 32.024 us; flops 1.6e7 -> 0.2 us.
  CHECK(model->gemm({.m = 1, .n = 2000, .k = 4000}).duration == from_microseconds(32.024));
  // A kernel is never shorter than the floor, and no work takes no time.
  CHECK(model->gemm({.m = 1, .n = 8, .k = 8}).duration == 2_us);
  CHECK(model->gemm({.m = 0, .n = 8, .k = 8}).duration == 0_ps);
  CHECK(model->gemm({.m = 0, .n = 8, .k = 8}).bytes == 0_B);
}

TEST_CASE("gemm: storage of each operand has its own width") {
  // fp8 weights (1 byte), bf16 in (2), f32 out (4): 3 * 5 * 2 + 5 * 7 * 1 + 3 * 7 * 4 = 30 + 35 + 84.
  CHECK(bytes(GemmShape{.m = 3, .n = 7, .k = 5, .weight = DType::fp8, .out = DType::f32}) == 149_B);
}

TEST_CASE("grouped gemm: only the matrices of groups with rows are read, each once") {
  const std::vector<std::int32_t> m{3, 0, 5, 2};
  const GroupedShape four{.m = m, .matrices = 4, .n = 10, .k = 20};
  CHECK(flops(four) == Flops(2 * 10 * 10 * 20));
  CHECK(bytes(four) == Bytes(2 * (10 * 20 + 3 * 20 * 10 + 10 * 10)));
  // Two matrices: group 0 and 2 use matrix 0, group 1 (empty) and 3 use matrix 1: both are read, once.
  const GroupedShape two{.m = m, .matrices = 2, .n = 10, .k = 20};
  CHECK(bytes(two) == Bytes(2 * (10 * 20 + 2 * 20 * 10 + 10 * 10)));
  const std::vector<std::int32_t> even_only{3, 0, 5, 0};
  const GroupedShape one{.m = even_only, .matrices = 2, .n = 10, .k = 20};
  CHECK(bytes(one) == Bytes(2 * (8 * 20 + 20 * 10 + 8 * 10)));
}

TEST_CASE("grouped gemm: blocks pad the time, not the work") {
  const auto model = make_roofline(paper_gpu());
  // Rows 1 and 129 pad to 128 and 256: 2 * 384 * 4096^2 = 1.2884901888e10 -> / 8e13 = 161.061274 us.
  // Compulsory bytes: 2 (130 * 4096 * 2 + 2 * 4096^2) = 69,238,784 -> / 5e11 = 138.477568 us.
  const std::vector<std::int32_t> m{1, 129};
  const GroupedShape ragged{.m = m, .matrices = 2, .n = 4096, .k = 4096};
  GroupedShape padded = ragged;
  padded.block = 128;
  CHECK(model->grouped_gemm(ragged).duration == from_microseconds(138.477568));
  CHECK(to_microseconds(model->grouped_gemm(padded).duration) == doctest::Approx(161.061274).epsilon(1e-8));
  CHECK(model->grouped_gemm(padded).flops == flops(ragged));
}

TEST_CASE("attention: causal pairs are counted exactly") {
  // q_len = 3 new tokens behind 4 cached: (7 - 3 + 1) + 6 + 7 = 18 pairs.
  AttentionShape s{.sequences = 2, .q_len = 3, .kv_len = 7, .heads = 4, .qk_dim = 8, .v_dim = 6, .kv_cols = 14};
  CHECK(flops(s) == Flops(2 * 2 * 4 * 18 * (8 + 6)));
  CHECK(bytes(s) == Bytes(2 * (2 * 3 * 4 * (8 + 6) + 2 * 7 * 14)));
  s.causal = false;  // 3 * 7
  CHECK(flops(s) == Flops(2 * 2 * 4 * 21 * (8 + 6)));
  s.backward = true;  // five products instead of two: three of width qk, two of width v
  CHECK(flops(s) == Flops(2 * 2 * 4 * 21 * (3 * 8 + 2 * 6)));
  CHECK(bytes(s) == Bytes(2 * 2 * (2 * 3 * 4 * (8 + 6) + 2 * 7 * 14)));
}

TEST_CASE("attention: the closed form equals the count over all pairs") {
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    const auto draw = [&](int limit) { return static_cast<std::int64_t>(random() % static_cast<unsigned>(limit)); };
    AttentionShape s{.sequences = 1, .q_len = draw(20), .kv_len = draw(30), .heads = 1, .qk_dim = 1, .v_dim = 0};
    s.causal = draw(4) > 0;
    s.window = draw(12);
    CAPTURE(s.q_len);
    CAPTURE(s.kv_len);
    CAPTURE(s.window);
    CHECK(flops(s).value() == 2 * visible_pairs(s));
  }
}

TEST_CASE("streaming: bandwidth, the vector pipeline or the floor") {
  const auto model = make_roofline(paper_gpu());
  CHECK(model->streaming(Bytes(50'000'000), Flops(0)).duration == 100_us);
  CHECK(model->streaming(Bytes(50'000'000), Flops(2'000'000'000)).duration == 200_us);
  CHECK(model->streaming(Bytes(1), Flops(1)).duration == 2_us);
}

TEST_CASE("physics: nothing beats the data sheet, and the roofline does not") {
  const Gpu gpu = paper_gpu();
  CHECK(speed_of_light(gpu, Math::bf16, Flops(100'000'000), Bytes(1000)) == 1_us);
  CHECK(speed_of_light(gpu, Math::bf16, Flops(1), Bytes(1'000'000)) == 1_us);
  KernelCost cost{.duration = 1_us, .flops = Flops(100'000'000), .bytes = Bytes(1)};
  CHECK_NOTHROW(check_physics(gpu, Math::bf16, cost));
  cost.flops = Flops(100'000'100);
  CHECK_THROWS_AS(check_physics(gpu, Math::bf16, cost), PhysicsError);
  const auto model = make_roofline(gpu);
  std::mt19937 random(2);
  for (int i = 0; i < 200; ++i) {
    const auto draw = [&] { return static_cast<std::int64_t>(1 + random() % 5000); };
    CHECK_NOTHROW(check_physics(gpu, Math::bf16, model->gemm({.m = draw(), .n = draw(), .k = draw()})));
  }
}

TEST_CASE("a pipeline that the GPU lacks is bad input, with the ones it has") {
  const auto model = make_roofline(paper_gpu());
  const GemmShape fp8{.m = 8, .n = 8, .k = 8, .math = Math::fp8};
  CHECK_THROWS_WITH_AS(static_cast<void>(model->gemm(fp8)), doctest::Contains("GPU 'paper' has no fp8 matrix pipeline"),
                       InputError);
  CHECK_THROWS_WITH_AS(static_cast<void>(model->gemm(fp8)), doctest::Contains("f32, bf16"), InputError);
}
