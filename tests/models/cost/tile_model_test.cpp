#include "models/cost/tile_model.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <vector>

#include "models/cost/expert_model.hpp"
#include "moesim/error.hpp"

using namespace moesim;
using namespace moesim::cost;

namespace {

// 100 SMs of 1000 flop/us, 10^6 B/us. Loads, steps and epilogues cost next to nothing unless a test says so, the norms
// are close to the maximum, and half-empty waves cost as much as full ones.
constexpr Device device{100, 1000, 1e6};
TileParameters ideal() {
  TileParameters p{};
  p.launch_us = 3;
  p.matrix_efficiency = 1;
  p.memory_efficiency = 1;
  p.write_cost = 1e-9;
  p.balance = 1e-6;
  p.step_us = 1e-9;
  p.overlap = 8;
  p.epilogue_us = 1e-9;
  p.tail = 1;
  p.sharpness = 10;
  p.split_us = 7;
  p.split_rate = 1e9;
  return p;
}

TileWork work(std::int64_t m, double n, double k) {
  TileWork w;
  w.rows = RowTiles::dense(m);
  w.n = n;
  w.k = k;
  return w;
}

}  // namespace

TEST_CASE("tiles: one full wave, and the tile that fits the rest best") {
  // 10 x 10 tiles of 128 x 128 are one wave of 100 SMs: 2 * 128 * 128 * 640 / 1000 = 20,971.52 us.
  CHECK(tile_us(ideal(), TilePolicy::best, device, work(1280, 1280, 640)) == doctest::Approx(20971.52));
  // One row more: 11 x 10 tiles of 128 x 128 take two waves, but 81 x 40 of 16 x 32 only 33 waves of 655.36 us; with k
  // in two parts 65 waves of half that, and a reduction of 7 us.
  CHECK(tile_us(ideal(), TilePolicy::best, device, work(1281, 1280, 640)) == doctest::Approx(65 * 327.68 + 7));
  TileWork whole = work(1281, 1280, 640);
  whole.splits = false;
  CHECK(tile_us(ideal(), TilePolicy::best, device, whole) == doctest::Approx(33 * 655.36));
  // A library that chooses by rows has no choice: 2 waves.
  CHECK(tile_us(ideal(), TilePolicy::by_rows, device, work(1281, 1280, 640)) == doctest::Approx(2 * 20971.52));
  // Where half of the idle part of the last wave is lost: 1.1 + 0.5 * 0.9 = 1.55 waves.
  TileParameters half = ideal();
  half.tail = 0.5;
  CHECK(tile_us(half, TilePolicy::by_rows, device, work(1281, 1280, 640)) == doctest::Approx(1.55 * 20971.52));
}

TEST_CASE("tiles: k is padded to steps of 128 bytes, and loads bound small tiles") {
  // bf16: a step is 64 of k; k = 65 costs two steps = 128. One tile of 128 x 128 for all: by_rows, m = 129 -> 2 tiles.
  CHECK(tile_us(ideal(), TilePolicy::by_rows, device, work(129, 128, 65)) ==
        doctest::Approx(2.0 * 128 * 128 * 128 / 1000));
  // Loads of a 64 x 64 tile: (64 + 64) * 64 * 2 bytes at 1000 / balance flop/byte: balance 100 -> 10 B/us -> 1638.4 us;
  // its math takes 2 * 64^3 / 1000 = 524.288 us.
  TileParameters loads = ideal();
  loads.balance = 100;
  CHECK(tile_us(loads, TilePolicy::by_rows, device, work(64, 64, 64)) == doctest::Approx(1638.4));
}

TEST_CASE("tiles: ragged rows slow the main loop, not the loads and not the memory") {
  TileParameters p = ideal();
  p.ragged = 1.5;
  TileWork w = work(1281, 1280, 640);
  const double even = tile_us(p, TilePolicy::by_rows, device, w);  // 2 waves of 20,971.52 us
  w.ragged = true;
  CHECK(tile_us(p, TilePolicy::by_rows, device, w) == doctest::Approx(1.5 * even));
  const Device fast{100, 1e9, 1e6};
  TileWork thin = work(1, 4096, 4096);
  const double streamed = tile_us(p, TilePolicy::best, fast, thin);
  thin.ragged = true;
  CHECK(tile_us(p, TilePolicy::best, fast, thin) == doctest::Approx(streamed));
}

TEST_CASE("tiles: memory bounds thin products, writes may cost more than reads") {
  // One row: bytes = 2 (k + k n + n), at 10^6 B/us, k = n = 4096: 33.57... us; math on 128 tiles of 16 x 32 is two
  // waves of 2 * 16 * 32 * 4096 / 1000 = 4194 us on this slow device, so make it fast.
  const Device fast{100, 1e9, 1e6};
  const double bytes = 2.0 * (4096 + 4096.0 * 4096 + 4096);
  CHECK(tile_us(ideal(), TilePolicy::best, fast, work(1, 4096, 4096)) == doctest::Approx(bytes / 1e6));
  CHECK(bound_us(fast, work(1, 4096, 4096)) == doctest::Approx(bytes / 1e6));
  TileParameters dear = ideal();
  dear.write_cost = 1;
  CHECK(tile_us(dear, TilePolicy::best, fast, work(1, 4096, 4096)) == doctest::Approx((bytes + 2 * 4096) / 1e6));
}

TEST_CASE("tiles: k is split when too few tiles fill the device") {
  // One 16 x 32 tile alone: 32,768 steps of k take 2 * 16 * 32 * 32768 / 1000 = 33,554.432 us. 32 splits: a
  // thirty-second of that on 32 SMs, plus the reduction.
  CHECK(tile_us(ideal(), TilePolicy::best, device, work(16, 32, 32768)) == doctest::Approx(33554.432 / 32 + 7));
  TileWork grouped = work(16, 32, 32768);
  grouped.splits = false;
  CHECK(tile_us(ideal(), TilePolicy::best, device, grouped) == doctest::Approx(33554.432));
}

TEST_CASE("tiles: time never falls with rows or columns, and never below the bound") {
  std::mt19937 random(3);
  const auto draw = [&](int limit) { return static_cast<std::int64_t>(1 + random() % static_cast<unsigned>(limit)); };
  TileParameters p = ideal();
  p.tail = 0.4;
  p.epilogue_us = 2;
  p.step_us = 0.1;
  p.balance = 50;
  p.sharpness = 3;
  const Device real{132, 7.5e6, 3.35e6};
  for (int i = 0; i < 300; ++i) {
    const std::int64_t m = draw(5000);
    const double n = static_cast<double>(draw(9000));
    const double k = static_cast<double>(draw(9000));
    const double t = tile_us(p, TilePolicy::best, real, work(m, n, k));
    CHECK(t >= bound_us(real, work(m, n, k)));
    CHECK(tile_us(p, TilePolicy::best, real, work(m + draw(500), n, k)) >= t);
    CHECK(tile_us(p, TilePolicy::best, real, work(m, n + static_cast<double>(draw(500)), k)) >= t);
  }
}

TEST_CASE("grouped: ragged rows cost whole tiles, matrices of empty groups are not read") {
  const std::vector<std::int32_t> m{1, 0, 17, 128, 129};
  const RowTiles t = RowTiles::grouped(m);
  CHECK(t.rows == 275);
  CHECK(t.groups == 4);
  CHECK(t.mean == 55);
  CHECK(t.tiles[0] == 1 + 2 + 8 + 9);  // of 16 rows
  CHECK(t.tiles[3] == 1 + 1 + 1 + 2);  // of 128 rows
  CHECK(t.expected[3] == 5);           // ceil(55 / 128) of each of five groups
  CHECK(RowTiles::grouped(std::vector<std::int32_t>{0, 0}).rows == 0);
  CHECK(RowTiles::grouped(std::vector<std::int32_t>{300}).tiles == RowTiles::dense(300).tiles);
}

TEST_CASE("grouped: the tile is chosen for the mean load, so skew costs more than the best tile would") {
  // 8 groups of 128 rows choose one tile height; all 1024 rows in one group have the same rows and fewer matrices, but
  // the tile is still the one for a mean of 128.
  const std::vector<std::int32_t> even(8, 128);
  std::vector<std::int32_t> skewed(8, 0);
  skewed[0] = 1017;
  for (std::size_t i = 1; i < 8; ++i) skewed[i] = 1;
  TileWork w;
  w.n = 128;
  w.k = 64;
  w.splits = false;
  w.rows = RowTiles::grouped(even);
  // 8 tiles of 128 x 128 or 64 of 16 x 128: the smaller tile fills 64 SMs in one wave: 2 * 16 * 128 * 64 / 1000 each,
  // or 256 tiles of 16 x 32 in three waves of 65.536.
  const double balanced = tile_us(ideal(), TilePolicy::best, device, w);
  CHECK(balanced == doctest::Approx(3 * 65.536));
  w.rows = RowTiles::grouped(skewed);
  // Rows of 16: 64 + 7 = 71, times 4 columns = 284 tiles: three waves as well.
  CHECK(tile_us(ideal(), TilePolicy::best, device, w) == doctest::Approx(3 * 65.536));
  skewed[0] = 10;
  w.rows = RowTiles::grouped(skewed);
  CHECK(w.rows.expected[0] == 8);
}

TEST_CASE("quantization: bytes, rows and the latency of one row") {
  // 100 rows of 1000: 100 * 1000 * 3 / 10^6 + (100 * 5 + 1000 * 2) ns = 0.3 + 2.5 us.
  CHECK(quant_us({3, 5, 2}, device, 100, 1000) == doctest::Approx(2.8));
}

TEST_CASE("experts: launch, two products, elementwise and routing add up") {
  ExpertParameters p{ideal(), 1, 2, 4, 3};
  ExpertWork w;
  w.rows = RowTiles::grouped(std::vector<std::int32_t>{64, 64});
  w.tokens = 100;
  w.top_k = 10;
  w.experts = 2;
  w.hidden = 256;
  w.inter = 128;
  TileWork up{w.rows, 256, 256, 2, 2, 2, false};
  TileWork down{w.rows, 256, 128, 2, 2, 2, false};
  const double products =
      tile_us(p.tiles, TilePolicy::best, device, up) + tile_us(p.tiles, TilePolicy::best, device, down);
  // bytes = 2 (2 * 128 * 256 + 128 * 3 * 128 + 2 * 100 * 256) = 331,776 -> 0.331776 us; routing 2 * 1000 / 10^4 = 0.2;
  // experts 4 * 2 / 100 = 0.08.
  CHECK(expert_us(p, TilePolicy::best, device, w) == doctest::Approx(3 + products + 0.331776 + 0.2 + 0.08));
  // Two matrices: the up projection is half as wide. Misaligned widths take `misaligned` times as long.
  w.gated = false;
  CHECK(expert_us(p, TilePolicy::best, device, w) < 3 + products + 0.612);
  w.inter = 136;
  const double aligned = expert_us({ideal(), 1, 2, 4, 1}, TilePolicy::best, device, w);
  CHECK(expert_us(p, TilePolicy::best, device, w) > 2 * aligned);
  CHECK(expert_bound_us(device, w) == doctest::Approx(2.0 * 128 * 2 * 136 * 256 / 1000 / 100));
}

TEST_CASE("a device needs the pipeline") {
  Gpu gpu;
  gpu.name = "paper";
  gpu.sms = 10;
  gpu.memory_bandwidth = BytesPerSecond(2e12);
  gpu.peak[static_cast<std::size_t>(Math::bf16)] = FlopsPerSecond(5e13);
  const Device d = device_of(gpu, Math::bf16);
  CHECK(d.flops_per_us == doctest::Approx(5e6));
  CHECK(d.bytes_per_us == doctest::Approx(2e6));
  CHECK_THROWS_AS(static_cast<void>(device_of(gpu, Math::fp8)), InputError);
}
