// Probes without a GPU: their commands are carried out by the processor.
#include "backend/cuda/probes.hpp"

#include <doctest/doctest.h>

#include <cmath>

#include "backend/cuda/number.hpp"
#include "backend/executor.hpp"
#include "tests/backend/cuda/processor.hpp"

using namespace moesim;
using namespace moesim::test;
using namespace moesim::backend;
namespace gpu = moesim::backend::gpu;

namespace {

gpu::ProbeSettings tiny() {
  gpu::ProbeSettings s;
  s.room = std::int64_t{6} << 20;
  s.pinned = std::int64_t{1} << 20;
  s.runs = 3;
  s.run_us = 1;
  s.most_launches = 2;
  s.patience = 20;
  return s;
}

template <class C>
std::vector<C> logged(const Machine& machine, int device = 0) {
  std::vector<C> out;
  for (const gpu::Command& c : machine.log.at(device))
    if (const auto* each = std::get_if<C>(&c)) out.push_back(*each);
  return out;
}

std::vector<float> numbers(const Tensor& t) {
  std::vector<float> out;
  for (std::int64_t i = 0; i < t.rows * t.cols; ++i) out.push_back(gpu::load(t.data, t.dtype, i));
  return out;
}

}  // namespace

// gemm: 2 m n k and 2 (m k + k n + m n) bytes of bf16; grouped: only matrices of groups with rows are read; streams by
// their definition in probe.hpp.
TEST_CASE("a probe's work") {
  CHECK(work_of(GemmProbe{2, 3, 5, DType::bf16}).flops == 60);
  CHECK(work_of(GemmProbe{2, 3, 5, DType::bf16}).bytes == 2 * (10 + 15 + 6));
  CHECK(work_of(GroupedProbe{{4, 0, 2}, 3, 5, DType::bf16}).flops == 2 * 6 * 3 * 5);
  CHECK(work_of(GroupedProbe{{4, 0, 2}, 3, 5, DType::bf16}).bytes == 2 * (6 * 5 + 2 * 15 + 6 * 3));
  CHECK(work_of(ExpertsProbe{{4, 0, 2}, 3, 8, 16, true, DType::bf16}).flops == 2 * 6 * 3 * 8 * 16);
  CHECK(work_of(StreamProbe{StreamProbe::Kind::permute, 4, 8, DType::bf16}).bytes == 2 * 4 * 8 * 2 + 4 * 12);
  CHECK(work_of(StreamProbe{StreamProbe::Kind::combine, 4, 8, DType::bf16}).bytes == 3 * 4 * 8 * 2 + 4 * 24);
  CHECK(work_of(StreamProbe{StreamProbe::Kind::quantize, 4, 256, DType::bf16}).bytes == 4 * (512 + 256 + 8));
  CHECK(work_of(CopyProbe{CopyProbe::Kind::device, 100}).bytes == 200);
  CHECK(work_of(CopyProbe{CopyProbe::Kind::to_host, 100}).bytes == 100);
}

TEST_CASE("every probe runs, and says a time") {
  Machine machine(2);
  gpu::GpuProbes probes(machine, tiny());
  CHECK(probes.gpu() == "processor 0");
  CHECK(probes.gpus() == 2);
  std::vector<Probe> all{GemmProbe{8, 16, 8, DType::bf16}, GroupedProbe{{3, 0, 5}, 8, 16, DType::bf16},
                         ExpertsProbe{{3, 0, 5}, 4, 16, 24, true, DType::bf16},
                         ExpertsProbe{{1, 0, 0}, 4, 16, 24, false, DType::f32}};
  for (int k = 0; k <= static_cast<int>(StreamProbe::Kind::quantize); ++k)
    all.emplace_back(StreamProbe{static_cast<StreamProbe::Kind>(k), 6, 40, DType::bf16});
  for (int k = 0; k < 3; ++k) {
    all.emplace_back(CopyProbe{static_cast<CopyProbe::Kind>(k), 4096});
    all.emplace_back(LaunchProbe{static_cast<LaunchProbe::Kind>(k), 4});
  }
  for (const auto kind : {Collective::Kind::all_gather_v, Collective::Kind::reduce_scatter_v,
                          Collective::Kind::all_reduce, Collective::Kind::all_to_all_v})
    all.emplace_back(CollectiveProbe{kind, 2, 64});
  for (const Probe& p : all) {
    CAPTURE(name_of(p));
    const ProbeTime t = probes.measure(p);
    CHECK(t.us > 0);
    CHECK(t.low <= t.us);
    CHECK(t.us <= t.high);
  }
  CHECK_THROWS_WITH_AS(probes.measure(CollectiveProbe{Collective::Kind::all_reduce, 4, 64}),
                       doctest::Contains("this machine has 2 GPUs"), Refused);
  CHECK_THROWS_WITH_AS(probes.measure(GemmProbe{4096, 4096, 4096, DType::f32}), doctest::Contains("are set aside"),
                       Refused);
}

// A graph of L launches is replayed once to warm up and once per run; before it each of the rotated passes runs once,
// and the first once more under the clock.
TEST_CASE("kernels are timed in a graph, in memory that rotates") {
  Machine machine(1);
  gpu::GpuProbes probes(machine, tiny());
  machine.log.clear();
  probes.measure(GemmProbe{64, 64, 64, DType::bf16});
  CHECK(machine.captures == 1);
  CHECK(machine.replays == 1 + 3);
  // 3 x 8 KiB of a cache of 1 MiB: 2 MiB / 24 KiB + 1 = 86, and 32 at most.
  std::set<const std::byte*> places;
  const auto products = logged<gpu::Product>(machine);
  for (const gpu::Product& p : products) places.insert(p.w.data);
  CHECK(places.size() == 32);
  CHECK(products.size() == 32 + 1 + 4 * 32);
}

// Balanced or not, every copy of a token comes back to it: with all experts the identity, a token with c copies gets
// c / 2 of itself. So the row maps are each other's inverse.
TEST_CASE("an expert probe gathers and combines the same rows") {
  Machine machine(1);
  const auto device = machine.open(0);
  gpu::Room room(*device, std::int64_t{4} << 20, 4096);
  const ExpertsProbe p{{5, 0, 4, 1}, 3, 8, 8, false, DType::f32};
  const std::vector<gpu::Command> c = gpu::commands_of(p, room);
  REQUIRE(c.size() == 5);
  const auto& gather = std::get<gpu::MoveRows>(c[0]);
  const auto& combine = std::get<gpu::MoveRows>(c[4]);
  CHECK(std::get<gpu::GroupedProduct>(c[1]).groups.size() == 3);
  std::vector<int> copies(3);
  for (std::int64_t i = 0; i < 10; ++i) {
    REQUIRE(gather.begin[i + 1] == i + 1);
    ++copies[static_cast<std::size_t>(gather.from[i])];
  }
  CHECK(copies == std::vector<int>{4, 3, 3});
  carry_out(gather);
  gpu::MoveRows back = combine;
  back.x = gather.y;
  carry_out(back);
  const std::vector<float> tokens = numbers(gather.x);
  const std::vector<float> result = numbers(back.y);
  for (std::size_t i = 0; i < tokens.size(); ++i)
    CHECK(result[i] == doctest::Approx(tokens[i] * static_cast<float>(copies[i / 8]) / 2).epsilon(1e-6));
}

TEST_CASE("what probes read is random numbers of [-1, 1), whatever the format") {
  Machine machine(1);
  const auto device = machine.open(0);
  gpu::Room room(*device, (std::int64_t{1} << 20) + 12345, 4096);
  for (const DType t : {DType::bf16, DType::f16, DType::f32}) {
    const std::vector<float> v = numbers(room.input(t, 100, 40));
    double sum = 0;
    for (const float x : v) {
      REQUIRE(std::isfinite(x));
      CHECK(std::abs(x) < 2);
      sum += static_cast<double>(x);
    }
    CHECK(std::abs(sum / 4000) < 0.1);
  }
}

TEST_CASE("a probe that a GPU does not finish, or that NCCL refuses, ends with its name") {
  Machine machine(2);
  gpu::ProbeSettings settings = tiny();
  settings.patience = 0.2;
  gpu::GpuProbes probes(machine, settings);
  machine.hang_after = 20;
  CHECK_THROWS_WITH_AS(
      [&] {
        for (int i = 0; i < 10; ++i) probes.measure(GemmProbe{8, 16, 8, DType::bf16});
      }(),
      doctest::Contains("gemm 8x16x8 bf16: processor 0 did not finish a probe within 0.2 s"), std::runtime_error);
}
