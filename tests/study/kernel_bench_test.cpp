// Shares of ceilings, on a GPU of known rates.
#include "study/kernel_bench.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "backend/executor.hpp"

using namespace moesim;
using namespace moesim::study;
using namespace moesim::backend;

namespace {

// Copies at 4 TB/s, streams at 3, products at 800 TFLOPS, groups at 760 (balanced) and 400 TFLOPS.
class Steady final : public ProbeSource {
 public:
  [[nodiscard]] std::string gpu() const override { return "made"; }
  [[nodiscard]] int gpus() const override { return 1; }
  [[nodiscard]] std::string versions() const override { return "none"; }
  ProbeTime measure(const Probe& p) override {
    const ProbeWork w = work_of(p);
    double us = 0;
    if (std::holds_alternative<CopyProbe>(p)) us = w.bytes / 4e6;
    if (std::holds_alternative<StreamProbe>(p)) us = w.bytes / 3e6;
    if (std::holds_alternative<GemmProbe>(p)) us = w.flops / 800e6;
    if (const auto* g = std::get_if<GroupedProbe>(&p)) {
      if (g->k == 14336) throw Refused("no room");
      const bool even = std::all_of(g->rows.begin(), g->rows.end(), [&](auto m) { return m == g->rows[0]; });
      us = w.flops / (even ? 760e6 : 400e6);
    }
    return {us, us, us};
  }
};

}  // namespace

TEST_CASE("kernels against the GPU's ceilings") {
  Steady gpu;
  const KernelBench b = bench_kernels(gpu, {});
  CHECK(b.copy_rate == doctest::Approx(4e12));
  CHECK(b.gemm_rate == doctest::Approx(800e12));
  REQUIRE(b.rows.size() == 9 + 4 * 3 - 2);
  for (std::size_t i = 0; i < 9; ++i) CHECK(b.rows[i].share == doctest::Approx(0.75));
  const auto row = [&](const std::string& part) {
    for (const KernelRow& r : b.rows)
      if (r.name.find(part) != std::string::npos) return r;
    return KernelRow{};
  };
  CHECK(row("8 balanced groups").share == doctest::Approx(0.95));
  CHECK(row("8 groups, half").share == doctest::Approx(0.5));
  CHECK(row("8 groups, half").rate == doctest::Approx(400e12));  // its rows are as many as those of one product
  CHECK(b.left_out.size() == 2);
  const std::string text = render_kernels(b);
  CHECK(text.find("permute 16384x4096 bf16") != std::string::npos);
  CHECK(text.find("80 %, missed") != std::string::npos);
  CHECK(text.find("90 %, reached") != std::string::npos);
  CHECK(text.find("left out: grouped gemm 8 groups, 32768x4096x14336 bf16: no room") != std::string::npos);
  const auto json = nlohmann::json::parse(kernels_json(b));
  CHECK(json["kernels"].size() == b.rows.size());
  CHECK(json["kernels"][0]["share"].get<double>() == doctest::Approx(0.75));
  int told = 0;
  CHECK(bench_kernels(gpu, [&](double, const std::string&) { return ++told < 6; }).rows.size() == 2);
}
