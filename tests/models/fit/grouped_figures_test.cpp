// Figures that nothing here was fitted on: another GPU, another library, another kernel.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <vector>

#include "models/cost/fitted.hpp"
#include "models/fit/shipped.hpp"
#include "models/fit/statistics.hpp"

using namespace moesim;

namespace {

// Grouped FP8 GEMMs of DeepSeek-V3's experts (hidden 7168, intermediate 2048) on H800: alibaba/InferSim f2293da
// (Apache-2.0), 12 of its 71 settings. Experts on the rank, tokens of each, us of the up and of the down projection.
struct Figure {
  int experts, tokens;
  double up_us, down_us;
};
constexpr std::array figures{
    Figure{256, 256, 4531.0, 2296.0},  Figure{32, 256, 554.174, 291.436}, Figure{16, 4096, 3199.0, 1575.0},
    Figure{4, 2048, 392.682, 237.232}, Figure{256, 4, 2672.0, 1353.0},    Figure{64, 16, 641.711, 342.41},
    Figure{32, 32, 325.361, 175.983},  Figure{16, 64, 196.722, 102.24},   Figure{8, 128, 120.397, 63.444},
    Figure{4, 256, 93.832, 50.987},    Figure{2, 512, 90.889, 51.723},    Figure{1, 1024, 46.716, 36.92}};

fit::Spread errors(const cost::KernelModel& kernels) {
  std::vector<double> residuals;
  for (const Figure& f : figures)
    for (const bool up : {true, false}) {
      const std::vector<std::int32_t> rows(static_cast<std::size_t>(f.experts), f.tokens);
      const cost::GroupedShape shape{.m = rows,
                                     .matrices = f.experts,
                                     .n = up ? 4096 : 7168,
                                     .k = up ? 7168 : 2048,
                                     .in = DType::fp8,
                                     .weight = DType::fp8,
                                     .out = DType::bf16,
                                     .math = Math::fp8};
      const double predicted = to_microseconds(kernels.grouped_gemm(shape).duration);
      residuals.push_back(std::log((up ? f.up_us : f.down_us) / predicted));
    }
  return fit::spread(residuals);
}

}  // namespace

TEST_CASE(
    "grouped GEMMs of another library on a GPU without a fit: 8 % in the middle, and far better than the roofline") {
  const hardware::MachineSpec h800 = hardware::load_machine("h800");
  const auto fits = fit::fits_for(h800);
  REQUIRE(fits);
  const fit::Spread fitted = errors(*cost::make_fitted(h800.gpu, *fits));
  const fit::Spread roofline = errors(*cost::make_roofline(h800.gpu));
  CHECK(fitted.median < 0.10);
  CHECK(fitted.p90 < 0.25);
  CHECK(fitted.median < 0.5 * roofline.median);
  CHECK(fitted.p90 < 0.5 * roofline.p90);
}
