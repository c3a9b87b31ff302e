// Hecate's overlap degree against the simulator: what it says is hidden is hidden.
#include <doctest/doctest.h>

#include "models/cost/kernel_model.hpp"
#include "sim/engine.hpp"
#include "strategies/hecate.hpp"
#include "strategies/load_history.hpp"
#include "strategies/materialization/materialization.hpp"
#include "study/iterations.hpp"
#include "tests/common/cases.hpp"

using namespace moesim;
using namespace moesim::testing;

TEST_CASE("gathering is hidden up to the overlap degree, and exposed more and more past it") {
  // Two nodes of one GPU and a 10 GB/s card each; experts of 24,576 bytes take 2.4576 us. All of the first t experts
  // belong to rank 0, so rank 1 receives t of them.
  const Model model = small_model(64, 1, 3);
  const Cluster cluster = round_cluster(2, 1);
  Workload work = prefill(2, 4096);
  work.phase = Workload::Phase::train;
  const FunctionRouting routing = balanced(model, 2 * 4096);
  const strategies::Strategy* hecate = strategies::find("hecate_materialization");
  const auto exposed = [&](std::int64_t t) {
    const strategies::Options options(hecate->options, {{"overlap_degree", t}, {"calibrate", false}});
    const Plan plan = hecate->plan({model, cluster, work, routing, options, "x"});
    const auto kernels = cost::make_roofline(cluster.gpu);
    const Timeline timeline = sim::simulate(plan, cluster, *kernels, {});
    // Waiting is the other rank's exposed gathering.
    const study::Summary s = study::summarize(plan, timeline, cluster);
    return s.parts[static_cast<std::size_t>(study::Part::parameters)] +
           s.parts[static_cast<std::size_t>(study::Part::wait)];
  };
  const strategies::Options none(hecate->options, {});
  const Picoseconds hidden = strategies::attention_time({model, cluster, work, routing, none, "x"});
  const std::int64_t degree =
      materialization::overlap_degree(hidden, strategies::gathering_bandwidth(cluster), Bytes(24'576));
  REQUIRE(degree >= 2);
  REQUIRE(degree <= 8);
  const Picoseconds alone = exposed(0);  // the sum of the dense gradients
  for (std::int64_t t = 1; t <= degree; ++t) CHECK(exposed(t) <= alone + Picoseconds(1000));
  CHECK(exposed(4 * degree) > alone + from_microseconds(1));
  CHECK(exposed(32) > exposed(4 * degree));
  MESSAGE("overlap degree ", degree, "; exposed us at t = 0, degree, 2, 4 degrees, 32: ", to_microseconds(alone), ' ',
          to_microseconds(exposed(degree)), ' ', to_microseconds(exposed(2 * degree)), ' ',
          to_microseconds(exposed(4 * degree)), ' ', to_microseconds(exposed(32)));
}

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
