// Runs of training iterations in a report's numbers.
#include <doctest/doctest.h>

#include "study/iterations.hpp"

using namespace moesim;

TEST_CASE("means over iterations: times are averaged, memory is the most of any") {
  study::IterationMean mean;
  study::Summary s;
  s.step = Picoseconds(10);
  s.straggler = 2;
  s.memory.total = Bytes(7);
  s.sent = Bytes(1);
  mean.add(s);
  s.step = Picoseconds(30);
  s.straggler = 4;
  s.memory.total = Bytes(5);
  s.sent = Bytes(3);
  s.fits = false;
  mean.add(s);
  const study::Summary out = mean.summary();
  CHECK(out.step == Picoseconds(20));
  CHECK(out.straggler == 3);
  CHECK(out.memory.total == Bytes(7));
  CHECK(out.sent == Bytes(3));
  CHECK_FALSE(out.fits);
}
