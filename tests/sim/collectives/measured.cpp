// Collectives timed by a calibration: alone they take what the model says, never less than the wire; together they
// share links. round_cluster: 100 GB/s per GPU inside a node, 10 GB/s per GPU between nodes.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <random>

#include "models/cost/communication.hpp"
#include "sim/collectives/lowering.hpp"
#include "sim/collectives/predict.hpp"
#include "tests/common/cases.hpp"

using namespace moesim;
using namespace moesim::testing;
using Kind = Collective::Kind;
using Algorithm = Collective::Algorithm;

namespace {

// The links carry 80 % of a data sheet of 125 GB/s, the NICs 80 % of 12.5.
cost::Communication known() {
  cost::Communication c;
  c.fabric = {125e3, 12.5e3, 1e6, false};
  c.link = 100e3;
  c.nic = 10e3;
  c.nccl = cost::from_map(cost::collective_fields(), {});
  c.nccl.large_rate = 0.72;
  c.nccl.nic_efficiency = 0.7;
  c.dispatch = cost::from_map(cost::exchange_fields(), {});
  c.dispatch->nic_efficiency = 0.7;
  c.quick_combine = cost::from_map(cost::low_latency_fields(), {});
  c.quick_combine->nic_efficiency = 0.7;
  return c;
}

Cluster cluster(int nodes, int gpus) {
  Cluster c = round_cluster(nodes, gpus);
  c.collectives.launch = from_seconds(2e-6);
  c.collectives.sms = 24;
  c.collectives.ramp = from_seconds(1e-3);  // the machine file's terms are not used
  c.collectives.ramp_half = Bytes(1);
  c.communication = std::make_shared<const cost::Communication>(known());
  return c;
}

sim::Prediction predict(const Cluster& c, Kind kind, Bytes size, Algorithm a = Algorithm::automatic,
                        const std::vector<double>& skew = {}) {
  return sim::predict(sim::single_collective(kind, a, c.ranks(), size, skew), c, {});
}

constexpr std::array kinds{std::pair{Kind::all_gather_v, cost::CollectiveKind::all_gather},
                           std::pair{Kind::reduce_scatter_v, cost::CollectiveKind::reduce_scatter},
                           std::pair{Kind::all_reduce, cost::CollectiveKind::all_reduce},
                           std::pair{Kind::all_to_all_v, cost::CollectiveKind::all_to_all}};

}  // namespace

TEST_CASE("alone, on one node and two, the simulator gives the time that was fitted") {
  for (const auto& [nodes, gpus] : {std::pair{1, 2}, std::pair{1, 8}, std::pair{2, 4}}) {
    const Cluster c = cluster(nodes, gpus);
    for (const auto& [kind, model] : kinds)
      for (std::int64_t bytes = 1 << 10; bytes <= 1 << 28; bytes *= 4) {
        CAPTURE(nodes * gpus);
        CAPTURE(to_string(kind));
        CAPTURE(bytes);
        const cost::CollectiveShape shape{model, nodes * gpus, nodes, static_cast<double>(bytes)};
        const double us = cost::collective_us(c.communication->nccl, c.communication->fabric, shape);
        // Trees lie a little differently on NVLink in the lowering: a chain starts at every member.
        const double tolerance = kind == Kind::all_reduce && nodes > 1 ? 0.02 : 1e-3;
        CHECK(to_microseconds(predict(c, kind, Bytes(bytes)).time) == doctest::Approx(us).epsilon(tolerance));
      }
  }
}

TEST_CASE("an all-to-all of 8 MB on 4 GPUs, by hand") {
  // Simple: 6 us to enter, 3 x 0.3 us of peers, 6 us of the protocol; 6 MB of wire at 0.72 x 125 GB/s: 66.67 us; 2 MB
  // of its own at 0.3 TB/s: 6.67 us. LL would take 6.9 + 2 MB / 1.5 GB/s = 1340 us.
  CHECK(to_microseconds(predict(cluster(1, 4), Kind::all_to_all_v, Bytes(8'000'000)).time) ==
        doctest::Approx(6 + 0.9 + 6 + 66.67 + 6.67).epsilon(1e-3));
}

TEST_CASE("nothing is faster than its bytes on the wire, whatever was fitted") {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> weight(0.01, 1);
  for (int i = 0; i < 60; ++i) {
    Cluster c = cluster(1 + i % 3, 4);
    cost::Communication fast = known();  // a fit that is too good
    fast.nccl.large_rate = fast.nccl.medium_rate = fast.nccl.small_rate = fast.nccl.exchange_rate = 1;
    fast.nccl.ring_us = fast.nccl.exchange_us = fast.nccl.step_us = 1e-3;
    c.communication = std::make_shared<const cost::Communication>(fast);
    std::vector<double> skew;
    for (int r = 0; r < c.ranks(); ++r) skew.push_back(weight(random));
    const auto [kind, model] = kinds[static_cast<std::size_t>(i) % kinds.size()];
    const Bytes size(static_cast<std::int64_t>(1e3 * std::pow(10, i % 6)));
    const sim::Prediction p =
        predict(c, kind, size, Algorithm::automatic, kind == Kind::all_to_all_v ? skew : std::vector<double>{});
    CHECK(p.time >= p.least);
    CHECK(to_microseconds(p.time) >=
          cost::collective_bound_us(c.communication->fabric,
                                    {model, c.ranks(), c.nodes, 0.9 * static_cast<double>(p.size.value())}));
  }
}

TEST_CASE("a collective of the busiest member: skew costs its bytes") {
  const Cluster c = cluster(1, 4);
  // Member 0 receives 0.7 of 16 MB from each of three others: 33.6 MB of wire at 90 GB/s; its own 11.2 MB at 0.3 TB/s.
  const double wire = 3 * 11.2e6 / 90e3;
  CHECK(to_microseconds(
            predict(c, Kind::all_to_all_v, Bytes(16'000'000), Algorithm::automatic, {0.7, 0.1, 0.1, 0.1}).time) ==
        doctest::Approx(6 + 0.9 + 6 + wire + 11.2e6 / 300e3).epsilon(2e-3));
}

TEST_CASE("exchanges of activations that ask for it take the time of DeepEP's kernels") {
  const Cluster c = cluster(2, 4);
  Plan plan = sim::single_collective(Kind::all_to_all_v, Algorithm::hierarchical, 8, Bytes(64'000'000));
  Collective& work = std::get<Collective>(plan.ops[0].work);
  work.cols = 8000;  // rows of 8 kB: 1000 to each of 8 members
  for (int j = 0; j < 8; ++j) plan.tables[0].at(0, j) = 1000;
  const auto& p = *c.communication->dispatch;
  cost::ExchangeLoad load;
  load.copies = 8000;
  load.row = 8000;
  // From a member and its counterpart: 1000 to each of three neighbours and 1000 forwarded; 4000 to the other node.
  load.link = 6000 * 8000.0;
  load.nic = 4000 * 8000.0;
  load.relays = 4000;
  load.sms = c.collectives.sms;
  const double us = cost::exchange_us(p, c.communication->fabric, load);
  CHECK(to_microseconds(sim::predict(plan, c, {}).time) == doctest::Approx(us).epsilon(0.01));
  // Direct, on the way back: low latency; 1000 to each of three neighbours, 4000 to the other node.
  work.algorithm = Algorithm::direct;
  work.returns = true;
  load.link = 3000 * 8000.0;
  CHECK(
      to_microseconds(sim::predict(plan, c, {}).time) ==
      doctest::Approx(cost::exchange_us(*c.communication->quick_combine, c.communication->fabric, load)).epsilon(1e-3));
  // What was not measured, and counts, are NCCL's, or the machine file's where a hierarchy is asked for.
  work.returns = false;
  CHECK(sim::predict(plan, c, {}).time == predict(c, Kind::all_to_all_v, Bytes(64'000'000)).time);
  work.dtype = DType::i32;
  CHECK_FALSE(sim::exchange_kernel(work).has_value());
}

TEST_CASE("without a calibration nothing changes") {
  Cluster c = cluster(1, 4);
  c.communication = nullptr;
  c.collectives.ramp = {};
  // launch 2 us, the flows: 6 MB at 100 GB/s.
  CHECK(to_microseconds(predict(c, Kind::all_to_all_v, Bytes(8'000'000)).time) ==
        doctest::Approx(2 + 60 + to_microseconds(c.collectives.intra_message) +
                        2 * to_microseconds(c.collectives.message_gap)));
}
