// The emulator finds what it is there for: small kernels with a fault each.
#include "tests/backend/cuda/emulator/emulator.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "backend/cuda/driver/team.cuh"

using namespace moesim;
using namespace moesim::test;
using namespace moesim::backend::gpu;

namespace {

std::string fault(const std::function<void()>& what) {
  try {
    what();
  } catch (const Fault& e) {
    return e.what();
  }
  return "none";
}
bool says(const std::string& text, const std::string& part) {
  CAPTURE(text);
  const bool there = text.find(part) != std::string::npos;
  CHECK(there);
  return there;
}

// y = the row sums of x, [rows, blockDim.x], by a tree in shared memory.
struct Rows {
  const float* x;
  float* y;
  int skipped;  // of the barriers: 0 before the tree, 1 in it, 2 behind it; or none
};
__global__ void sum_rows(const Rows c, int rows) {
  __shared__ float part[64];
  const auto me = static_cast<int>(threadIdx.x);
  for (int i = static_cast<int>(blockIdx.x); i < rows; i += static_cast<int>(gridDim.x)) {
    part[me] = c.x[i * 64 + me];
    if (c.skipped != 0) __syncthreads();
    for (int step = 32; step > 0; step /= 2) {
      if (me < step) part[me] += part[me + step];
      if (c.skipped != 1) __syncthreads();
    }
    c.y[i] = part[0];
    if (c.skipped != 2) __syncthreads();
  }
}

}  // namespace

TEST_CASE("a barrier that is missing shows as a wrong number") {
  std::vector<float> x(64 * 7);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 13);
  std::vector<float> expected(7);
  for (std::size_t i = 0; i < x.size(); ++i) expected[i / 64] += x[i];
  for (const int skipped : {-1, 0, 1, 2}) {
    int wrong = 0;
    for (unsigned seed = 0; seed < 20; ++seed) {
      seed_emulator(seed);
      std::vector<float> y(7, NAN);
      start(sum_rows, 2, 64, 0, nullptr, Rows{x.data(), y.data(), skipped}, 7);
      if (y != expected) ++wrong;
    }
    CAPTURE(skipped);
    CAPTURE(wrong);
    CHECK((skipped < 0 ? wrong == 0 : wrong > 10));
  }
}

namespace {
// One warp is ahead by a whole sum when it writes what another has not read.
__global__ void twice(float* y) {
  __shared__ float of_warp[warp];
  const auto me = static_cast<int>(threadIdx.x);
  for (int round = 0; round < 2; ++round) {
    const float v = WarpTeam{}.sum(static_cast<float>(round + 1));
    if (me % warp == 0) of_warp[me / warp] = v;
    __syncthreads();
    y[round * 128 + me] = of_warp[0] + of_warp[1] + of_warp[2] + of_warp[3];
  }
}
}  // namespace

namespace {
__global__ void sums(float* y) {
  float sum = 0;
  for (int i = 0; i < 3; ++i) sum += BlockTeam{}.sum(static_cast<float>(i));
  y[threadIdx.x] = sum;
}
}  // namespace

TEST_CASE("sums over a block, one right after the other") {
  for (unsigned seed = 0; seed < 20; ++seed) {
    seed_emulator(seed);
    std::vector<float> y(128);
    start(sums, 1, 128, 0, nullptr, y.data());
    CHECK(y == std::vector<float>(128, 3 * 128.0F));
  }
}

TEST_CASE("a warp that is far ahead overwrites what the others have not read") {
  int wrong = 0;
  for (unsigned seed = 0; seed < 20; ++seed) {
    seed_emulator(seed);
    std::vector<float> y(256);
    start(twice, 1, 128, 0, nullptr, y.data());
    CHECK(std::count(y.begin() + 128, y.end(), 256.0F) == 128);
    if (std::count(y.begin(), y.begin() + 128, 128.0F) != 128) ++wrong;
  }
  CHECK(wrong > 10);
}

namespace {
__global__ void divergent(int kind) {
  const auto me = static_cast<int>(threadIdx.x);
  if (kind == 0) {
    if (me < 40)  // NOLINT(bugprone-branch-clone): at two places
      __syncthreads();
    else
      __syncthreads();
  }
  if (kind == 1 && me != 3) __syncthreads();
  if (kind == 2 && me != 35) __shfl_xor_sync(0xffffffffU, 1.0F, 1);
  if (kind == 3) __shfl_xor_sync(0xffffffffU, 1.0F, 1);  // of 40 threads
  if (kind == 4) __shfl_xor_sync(0x0000ffffU << (me & 16), 1.0F, 16);
  if (kind == 5) __syncwarp(0x1U);
  if (kind == 6 && me % 2 == 0) __syncwarp();
}
}  // namespace

TEST_CASE("threads that wait for those that do not come, or are not there") {
  const auto of = [](int kind, unsigned threads = 64) {
    return fault([&] { start(divergent, 3, threads, 0, nullptr, kind); });
  };
  std::string text = of(0);
  says(text, "void (*)(int), block (");
  says(text, "40 threads wait for the block at emulator_test.cpp");
  says(text, "24 threads wait for the block at emulator_test.cpp");
  text = of(1);
  says(text, "63 threads wait for the block at emulator_test.cpp");
  says(text, "1 threads have ended (the first is 3)");
  text = of(2);  // as it comes: before or after thread 35 has ended
  CHECK((text.find("names lane 3, which is not there") != std::string::npos ||
         text.find("1 threads have ended (the first is 35)") != std::string::npos));
  says(of(3, 40), "names lane 8, which is not there");
  says(of(4), "which does not give one");
  says(of(5), "it names others only");
  says(of(6), "not");
  CHECK(of(7) == "none");
  CHECK(of(3) == "none");
}

namespace {
__global__ void write_shared(int first, int last) {
  for (int i = first + static_cast<int>(threadIdx.x); i < last; i += static_cast<int>(blockDim.x)) shared_room()[i] = 1;
}
__global__ void read_shared(float* y) { y[threadIdx.x] = shared_room()[threadIdx.x]; }
}  // namespace

TEST_CASE("shared memory: as much as was asked for, without content") {
  start(write_shared, 1, 32, 100 * sizeof(float), nullptr, 0, 100);
#ifndef __SANITIZE_ADDRESS__  // which ends the program
  says(fault([] { start(write_shared, 1, 32, 100 * sizeof(float), nullptr, 0, 101); }),
       "writes past its 400 bytes of shared memory");
#endif
  std::vector<float> y(32, 1);
  start(read_shared, 1, 32, 32 * sizeof(float), nullptr, y.data());
  CHECK(std::all_of(y.begin(), y.end(), [](float v) { return std::isnan(v); }));
  says(fault([] { start(write_shared, 1, 32, 49153, nullptr, 0, 1); }), "49153 bytes of shared memory");
}

TEST_CASE("launches that CUDA refuses, and addresses that fault") {
  const auto launched = [](Dim3 blocks, Dim3 threads) {
    return fault([&] { run_kernel("none", blocks, threads, 0, [] {}); });
  };
  says(launched(1, 1025), "blocks of 1025 x 1 x 1 threads");
  says(launched(1, {2, 2, 65}), "blocks of 2 x 2 x 65 threads");
  says(launched(1, 0), "blocks of 0 x");
  says(launched(0x80000000U, 1), "a grid of 2147483648 x");
  says(launched({1, 65536}, 1), "a grid of 1 x 65536 x");
  CHECK(launched({2, 3, 2}, {4, 5, 2}) == "none");

  alignas(16) std::byte bytes[64]{};
  launch(backend::CastCall{{bytes, DType::bf16, 1, 8}, {bytes + 32, DType::bf16, 1, 8}}, nullptr);
  says(fault([&] {
         launch(backend::CastCall{{bytes + 2, DType::bf16, 1, 8}, {bytes + 32, DType::bf16, 1, 8}}, nullptr);
       }),
       "thread (0, 0, 0): an address that is not aligned");
}

namespace {
struct Copy {
  const float* x;
  float* y;
};
struct CopyRow {
  template <class Team>
  __device__ void operator()(const Team& team, const Copy& c, std::int64_t i) const {
    for (int e = team.lane(); e < 100; e += team.lanes()) c.y[i * 100 + e] = c.x[i * 100 + e];
  }
};
// Leaves the last rows out where the grid does not divide them.
__global__ void forgets(const Copy c, std::int64_t rows) {
  for (std::int64_t r = 0; r < rows / gridDim.x; ++r) CopyRow{}(BlockTeam{}, c, r * gridDim.x + blockIdx.x);
}
}  // namespace

TEST_CASE("rows beyond a grid: all of them, whatever its size; a row that nobody writes stays NaN") {
  for (const std::int64_t rows : {1, 2, 7, 24, 25}) {
    std::vector<float> x(static_cast<std::size_t>(rows) * 100);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
    for (const unsigned blocks : {1U, 2U, 3U, 40U}) {
      std::vector<float> y(x.size(), NAN);
      start(rows_by_block<CopyRow, Copy>, blocks, 64, 0, nullptr, Copy{x.data(), y.data()}, rows);
      CHECK(x == y);
      std::fill(y.begin(), y.end(), NAN);
      start(rows_by_lanes<warp, CopyRow, Copy>, blocks, 96, 0, nullptr, Copy{x.data(), y.data()}, rows);
      CHECK(x == y);
      std::fill(y.begin(), y.end(), NAN);
      start(forgets, blocks, 64, 0, nullptr, Copy{x.data(), y.data()}, rows);
      CHECK((x == y) == (rows % blocks == 0));
    }
  }
}

namespace {
// Sum and largest element. A row has an end of its own, so that teams of a warp go apart.
struct AddRow {
  template <class Team>
  __device__ void operator()(const Team& team, const Copy& c, std::int64_t i) const {
    for (std::int64_t round = 0; round <= i % 3; ++round) {
      float sum = 0;
      float most = 0;
      for (int e = team.lane(); e < 100; e += team.lanes()) {
        sum += c.x[i * 100 + e];
        most = fmaxf(most, c.x[i * 100 + e]);
      }
      sum = team.sum(sum);
      most = team.most(most);
      team.barrier();
      c.y[i * 100 + team.lane()] = sum;
      c.y[i * 100 + 50 + team.lane()] = most;
    }
  }
};
template <int width>
void add_rows() {
  CAPTURE(width);
  std::vector<float> x(1300);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 17 * (i / 100));
  for (unsigned blocks = 1; blocks < 5; ++blocks) {
    std::vector<float> y(x.size(), NAN);
    start(rows_by_lanes<width, AddRow, Copy>, blocks, 64, 0, nullptr, Copy{x.data(), y.data()}, 13);
    for (std::size_t i = 0; i < 13; ++i) {
      const auto row = x.begin() + static_cast<std::ptrdiff_t>(100 * i);
      const float sum = std::accumulate(row, row + 100, 0.0F);
      for (std::size_t lane = 0; lane < 50; ++lane) {
        const bool there = lane < width;
        CHECK((there ? y[i * 100 + lane] == sum : std::isnan(y[i * 100 + lane])));
        CHECK(
            (there ? y[i * 100 + 50 + lane] == *std::max_element(row, row + 100) : std::isnan(y[i * 100 + 50 + lane])));
      }
    }
  }
}
}  // namespace

TEST_CASE("teams of a part of a warp: each its own row, whatever the others do") {
  add_rows<32>();
  add_rows<16>();
  add_rows<8>();
  add_rows<1>();
}

namespace {
__global__ void write_down(std::vector<unsigned>* order) { order->push_back(blockIdx.x * 64 + threadIdx.x); }
}  // namespace

TEST_CASE("threads and blocks run in a random order, each once") {
  std::set<std::vector<unsigned>> orders;
  for (unsigned seed = 0; seed < 5; ++seed) {
    seed_emulator(seed);
    std::vector<unsigned> order;
    start(write_down, 5, 64, 0, nullptr, &order);
    orders.insert(order);
    std::sort(order.begin(), order.end());
    REQUIRE(order.size() == 320);
    for (unsigned i = 0; i < 320; ++i) CHECK(order[i] == i);
  }
  CHECK(orders.size() == 5);
}
