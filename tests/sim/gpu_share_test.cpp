// Kernels on one GPU: max-min fair shares, solved by hand.
#include "sim/gpu_share.hpp"

#include <doctest/doctest.h>

using namespace moesim;
using namespace moesim::sim;

TEST_CASE("a kernel alone takes its own time, to the picosecond") {
  GpuShare gpu;
  gpu.start(1, Picoseconds(7), Picoseconds(1'000'003), {1, 0.2});
  REQUIRE(gpu.next());
  CHECK(gpu.next()->time == Picoseconds(1'000'010));
}

TEST_CASE("two kernels bound by memory take turns, one bound by each do not meet") {
  // x1 = x2 = 1/2: 1000 ps of work end at 2000.
  GpuShare same;
  same.start(1, Picoseconds(0), Picoseconds(1000), {0, 1});
  same.start(2, Picoseconds(0), Picoseconds(1000), {0, 1});
  CHECK(same.next()->time == Picoseconds(2000));
  GpuShare apart;
  apart.start(1, Picoseconds(0), Picoseconds(1000), {1, 0});
  apart.start(2, Picoseconds(0), Picoseconds(1000), {0, 1});
  CHECK(apart.next()->time == Picoseconds(1000));
}

TEST_CASE("max-min: the kernel that needs less is not slowed below its fair share") {
  // m1 = 1, m2 = 0.2: raised together, x (1 + 0.2) <= 1, so x = 5/6 for both.
  GpuShare gpu;
  gpu.start(1, Picoseconds(0), Picoseconds(5000), {0, 1});
  gpu.start(2, Picoseconds(0), Picoseconds(1000), {0, 0.2});
  CHECK(gpu.next()->kernel == 2);
  CHECK(gpu.next()->time == Picoseconds(1200));
  gpu.finish(2, Picoseconds(1200));
  // Kernel 1 has done 1000 of 5000 and runs alone.
  CHECK(gpu.next()->time == Picoseconds(5200));
}

TEST_CASE("a collective that holds a quarter of the SMs slows a matrix kernel to three quarters, and gives them back") {
  GpuShare gpu;
  gpu.start(1, Picoseconds(0), Picoseconds(3000), {1, 0});
  gpu.reserve(Picoseconds(0), {0.25, 0});
  CHECK(gpu.next()->time == Picoseconds(4000));
  gpu.release(Picoseconds(2000), {0.25, 0});
  // 1500 done by then.
  CHECK(gpu.next()->time == Picoseconds(3500));
}
