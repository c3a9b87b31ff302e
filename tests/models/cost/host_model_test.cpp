// The host's linear cost model: amounts that can be counted on paper, and what a file of it predicts.
#include "models/cost/host_model.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>

#include "tests/scratch.hpp"

using namespace moesim;
using namespace moesim::cost;

namespace {

Gpu core() {
  Gpu g;
  g.name = "one core";
  g.peak[static_cast<std::size_t>(Math::f32)] = FlopsPerSecond(256e9);
  g.memory_bandwidth = BytesPerSecond(512e9);
  return g;
}

FitFile by_hand() {
  FitEntry product;
  product.schema = host_schema;
  product.variant = "product";
  product.dtype = "f32";
  product.parameters = {{"call", 2.0}, {"group", 3.0}, {"gflop", 20'000.0}, {"weight", 500.0}, {"row", 100.0}};
  product.rows = 100;
  product.ranges = {{"gflop", 0, 1}};
  Accuracy longer;
  longer.regime = "long";
  longer.rows = 50;
  longer.low = -0.16449;
  longer.high = 0.16449;
  product.accuracy = {longer};
  return {"host", {product}};
}

}  // namespace

TEST_CASE("amounts of a product: calls, groups, GFLOP, millions of weights and of row elements") {
  // 100 x 200 times 200 x 300, twice: 2 * 2 * 100 * 200 * 300 = 24 MFLOP; W 2 * 60,000; X and Y 2 * 100 * 500.
  GemmShape s;
  s.m = 100;
  s.k = 200;
  s.n = 300;
  s.batch = 2;
  const Amounts a = amounts(s);
  CHECK(a[0] == 1);
  CHECK(a[1] == 2);
  CHECK(a[2] == doctest::Approx(0.024));
  CHECK(a[3] == doctest::Approx(0.12));
  CHECK(a[4] == doctest::Approx(0.1));
  s.m = 0;
  CHECK(amounts(s) == Amounts{});
}

TEST_CASE("amounts of a grouped product: empty groups cost nothing, blocks are whole") {
  const std::int32_t rows[] = {10, 0, 130};
  GroupedShape s;
  s.m = rows;
  s.matrices = 3;
  s.k = 100;
  s.n = 50;
  // 140 rows in 2 groups: 2 * 140 * 5,000 = 1.4 MFLOP, W 2 * 5,000, X and Y 140 * 150.
  CHECK(amounts(s)[1] == 2);
  CHECK(amounts(s)[2] == doctest::Approx(1.4e-3));
  CHECK(amounts(s)[3] == doctest::Approx(0.01));
  CHECK(amounts(s)[4] == doctest::Approx(0.021));
  s.block = 128;  // 128 + 256 rows
  CHECK(amounts(s)[2] == doctest::Approx(2 * 384 * 5e-6));
}

TEST_CASE("amounts of attention: pairs under the causal mask") {
  AttentionShape s;
  s.sequences = 2;
  s.q_len = 4;
  s.kv_len = 4;
  s.heads = 3;
  s.qk_dim = 8;
  s.v_dim = 8;
  s.kv_cols = 3 * 16;
  // 1 + 2 + 3 + 4 = 10 pairs in each of 6 heads; 2 flops for each of 16 columns of a pair.
  const Amounts a = amounts(s);
  CHECK(a[1] == 6);
  CHECK(a[2] == doctest::Approx(60 * 32e-9));
  CHECK(a[3] == doctest::Approx(60e-6));
  CHECK(a[4] == doctest::Approx(2 * (4 * 48 + 4 * 3 * 16) * 1e-6));
}

TEST_CASE("a prediction is the sum of its terms, with the interval of its regime, and bounded by the data sheet") {
  const auto model = make_host(core(), by_hand());
  GemmShape s;
  s.m = 100;
  s.k = 200;
  s.n = 300;
  s.in = s.weight = s.out = DType::f32;
  s.math = Math::f32;
  // 2 + 3 + 0.012 * 20,000 + 0.06 * 500 + 0.05 * 100 = 280 us
  const KernelCost c = model->gemm(s);
  CHECK(to_microseconds(c.duration) == doctest::Approx(280));
  CHECK(c.log_sigma == doctest::Approx(0.1).epsilon(1e-3));  // half-width 0.16449 of 90 %
  CHECK(c.in_range);
  s.weight = DType::bf16;  // converted, and nobody measured what that takes
  CHECK_FALSE(model->gemm(s).in_range);
  s.weight = DType::f32;
  s.m = 100'000;  // 12 GFLOP, past the range
  CHECK_FALSE(model->gemm(s).in_range);

  FitFile fast = by_hand();
  for (auto& [name, cost] : fast.entries[0].parameters) cost = 1e-9;
  s.m = 1000;  // 120 MFLOP at 256 GFLOP/s
  CHECK(to_microseconds(make_host(core(), fast)->gemm(s).duration) == doctest::Approx(0.12e9 / 256e3));
}

TEST_CASE("a host file comes back with its terms and their meanings") {
  const std::string path = test::scratch("host_model.fit.toml");
  write_fit_file(by_hand(), path);
  const FitFile read = read_fit_file(path);
  const FitEntry* e = find_host_entry(read, HostKernel::product);
  REQUIRE(e != nullptr);
  CHECK(host_costs(*e) == std::array<double, 5>{2, 3, 20'000, 500, 100});
  CHECK(find_host_entry(read, HostKernel::transfer) == nullptr);
  CHECK(to_toml(by_hand()).find("us per 10^9 floating-point operations") != std::string::npos);
}
