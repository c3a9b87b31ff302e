// Every collective and algorithm against its equation, latencies included, solved on paper. round_cluster: 100 GB/s per
// GPU and direction inside a node, 10 GB/s per GPU between nodes; 100 MB take 1 ms inside, 10 ms between nodes.
#include <doctest/doctest.h>

#include <numeric>

#include "moesim/error.hpp"
#include "sim/collectives/lowering.hpp"
#include "sim/collectives/predict.hpp"
#include "tests/common/cases.hpp"

using namespace moesim;
using namespace moesim::testing;
using Kind = Collective::Kind;
using Algorithm = Collective::Algorithm;

namespace {

constexpr Bytes mb(std::int64_t n) { return Bytes(n * 1'000'000); }

// launch 10 us, a step 1 us inside and 5 us between nodes, 0.1 us from message to message.
Cluster cluster(int nodes, int gpus) {
  Cluster c = round_cluster(nodes, gpus);
  c.collectives.launch = from_seconds(10e-6);
  c.collectives.intra_message = from_seconds(1e-6);
  c.collectives.inter_message = from_seconds(5e-6);
  c.collectives.message_gap = from_seconds(0.1e-6);
  return c;
}

double us(const Cluster& c, Kind kind, Algorithm algorithm, Bytes size, const std::vector<double>& skew = {}) {
  const Plan plan = sim::single_collective(kind, algorithm, c.ranks(), size, skew);
  const sim::Prediction p = sim::predict(plan, c, {});
  CHECK(p.least <= p.time);
  CHECK(p.bracket.low == p.time);
  CHECK(p.bracket.high == p.time);
  const double factor = sim::busbw_factor(kind, c.ranks());
  CHECK(p.algbw.value() == doctest::Approx(static_cast<double>(p.size.value()) / to_seconds(p.time)));
  CHECK(p.busbw.value() == doctest::Approx(p.algbw.value() * factor));
  return to_microseconds(p.time);
}

}  // namespace

TEST_CASE("one node of 4, one step inside costs 1 us") {
  const Cluster c = cluster(1, 4);
  // Ring, n - 1 = 3 steps: 10 + 3 + (n - 1)/n S / B; S = 400 MB: 3 ms.
  CHECK(us(c, Kind::all_gather_v, Algorithm::ring, mb(400)) == doctest::Approx(3013));
  CHECK(us(c, Kind::reduce_scatter_v, Algorithm::ring, mb(400)) == doctest::Approx(3013));
  // Direct: one step, three messages: 10 + 1 + 2 x 0.1 + 3 ms.
  CHECK(us(c, Kind::all_gather_v, Algorithm::direct, mb(400)) == doctest::Approx(3011.2));
  // A broadcast of 100 MB per member, each launched: 4 (10 + 3 + 1000).
  CHECK(us(c, Kind::all_gather_v, Algorithm::per_root, mb(400)) == doctest::Approx(4052));
  CHECK(us(c, Kind::reduce_scatter_v, Algorithm::per_root, mb(400)) == doctest::Approx(4052));
  // 10 + 3 + S / B.
  CHECK(us(c, Kind::broadcast, Algorithm::ring, mb(100)) == doctest::Approx(1013));
  CHECK(us(c, Kind::reduce, Algorithm::ring, mb(100)) == doctest::Approx(1013));
  // 10 + 2 x 3 + 2 (n - 1)/n S / B; S = 400 MB: 6 ms.
  CHECK(us(c, Kind::all_reduce, Algorithm::ring, mb(400)) == doctest::Approx(6016));
  // 100 MB to each: 10 + 1 + 0.2 + 3 ms.
  CHECK(us(c, Kind::all_to_all_v, Algorithm::direct, mb(400)) == doctest::Approx(3011.2));
  // Around the ring as nccl-tests' sendrecv: 10 + 1 + S / B.
  CHECK(us(c, Kind::send_recv, Algorithm::direct, mb(100)) == doctest::Approx(1011));
}

TEST_CASE("2 nodes of 4: rings use all four NICs and cross between nodes twice") {
  const Cluster c = cluster(2, 4);
  // 5 steps inside, 2 between: 10 + 5 + 10. A quarter of S per NIC, 7/8 of it: 175 MB at 10 GB/s.
  CHECK(us(c, Kind::all_gather_v, Algorithm::ring, mb(800)) == doctest::Approx(25 + 17500));
  CHECK(us(c, Kind::reduce_scatter_v, Algorithm::ring, mb(800)) == doctest::Approx(25 + 17500));
  CHECK(us(c, Kind::all_reduce, Algorithm::ring, mb(800)) == doctest::Approx(40 + 35000));
  CHECK(us(c, Kind::broadcast, Algorithm::ring, mb(800)) == doctest::Approx(25 + 20000));
  // Trees: 2 (g - 1) steps inside, 2 log2 m = 2 between; S / 4 per NIC and direction: 10 + 6 + 10 + 20 ms.
  CHECK(us(c, Kind::all_reduce, Algorithm::tree, mb(800)) == doctest::Approx(26 + 20000));
  // Automatic takes the faster of the two, here the tree.
  CHECK(us(c, Kind::all_reduce, Algorithm::automatic, mb(800)) == doctest::Approx(26 + 20000));
}

TEST_CASE("2 nodes of 4: an all-to-all fills the NICs; by counterparts it takes fewer messages and one step more") {
  const Cluster c = cluster(2, 4);
  // 1 MB to each of 8. Direct: 7 messages; 4 MB through each NIC: 10 + 5 + 0.6 + 400.
  CHECK(us(c, Kind::all_to_all_v, Algorithm::direct, mb(8)) == doctest::Approx(415.6));
  // Hierarchical: 3 messages inside and one to the counterpart; the same 4 MB per NIC; then the last byte inside:
  // 10 + 5 + 0.3 + 400 + 1.
  CHECK(us(c, Kind::all_to_all_v, Algorithm::hierarchical, mb(8)) == doctest::Approx(416.3));
  // All to GPU 0 (weights 1, 0, ...), 8 MB from each: 32 MB come through its one NIC: 10 + 5 + 3.2 ms. By
  // counterparts they come through all four NICs, 8 MB each, while neighbours pass on 24 MB and send 24 MB of their own
  // over NVLink in 0.48 ms; nobody has more than one message: 10 + 5 + 800 + 1.
  std::vector<double> hot(8, 0);
  hot[0] = 1;
  CHECK(us(c, Kind::all_to_all_v, Algorithm::direct, mb(8), hot) == doctest::Approx(3215));
  CHECK(us(c, Kind::all_to_all_v, Algorithm::hierarchical, mb(8), hot) == doctest::Approx(816));
}

TEST_CASE("2 nodes of 2: rows that are equal for a node cross once, and are summed before they cross back") {
  const Cluster c = cluster(2, 2);
  // GPU 2 has the same 8 rows of 1 MB for GPUs 0 and 1.
  //   away: 8 MB through its NIC to GPU 0, which forwards them meanwhile, and then the last:  10 + 5 + 800 + 1 + 10
  //   back: GPU 1's first row to GPU 0, then 8 MB of sums through the NIC:                    10 + 1 + 10 + 5 + 800
  //   every row by itself, 16 MB through the NIC:                              the same with 1600 for 800
  for (const bool returns : {false, true})
    for (const bool once : {true, false}) {
      CAPTURE(returns);
      CAPTURE(once);
      Plan plan;
      plan.ranks = 4;
      plan.groups = {{{Rank(0), Rank(1), Rank(2), Rank(3)}}};
      Table counts(4, 4), islands(4, 2);
      for (const int other : {0, 1}) (returns ? counts.at(other, 2) : counts.at(2, other)) = 8;
      islands.at(2, 0) = 8;
      plan.tables = {counts, islands};
      Collective work;
      work.kind = Kind::all_to_all_v;
      work.algorithm = Algorithm::hierarchical;
      work.groups = GroupsId(0);
      work.counts = TableId(0);
      work.cols = 1'000'000;
      work.dtype = DType::int8;
      work.returns = returns;
      if (once) work.island_rows = TableId(1);
      CHECK(to_microseconds(sim::predict(plan, work, 0, c, {}).time) == doctest::Approx(once ? 826 : 1626));
    }
}

TEST_CASE("in the switch: S (1 + 1/n) at e of the link, two steps") {
  Cluster c = cluster(1, 4);
  c.collectives.in_switch = 0.8;
  c.collectives.in_switch_message = from_seconds(3e-6);
  // 125 MB at 80 GB/s: 10 + 6 + 1562.5.
  CHECK(us(c, Kind::all_reduce, Algorithm::in_switch, mb(100)) == doctest::Approx(1578.5));
  // The ring carries 150 MB at 100 GB/s: 10 + 6 + 1500. Automatic takes it.
  CHECK(us(c, Kind::all_reduce, Algorithm::automatic, mb(100)) == doctest::Approx(1516));
  // At full rate the switch wins: 10 + 6 + 1250.
  c.collectives.in_switch = 1;
  CHECK(us(c, Kind::all_reduce, Algorithm::automatic, mb(100)) == doctest::Approx(1266));
}

TEST_CASE("a stream loses ramp b / (b + ramp_half) before it runs at full rate") {
  Cluster c = cluster(1, 4);
  c.collectives.ramp = from_seconds(20e-6);
  c.collectives.ramp_half = mb(1);
  // 1 MB to each of 4, so 3 MB sent: 20 x 3 / 4 = 15; 10 + 1 + 0.2 + 15 + 30.
  CHECK(us(c, Kind::all_to_all_v, Algorithm::direct, mb(4)) == doctest::Approx(56.2));
}

TEST_CASE("sparse collectives move each chunk along a chain") {
  const Cluster c = cluster(1, 4);
  // Expert 0 from GPU 0 to all, expert 1 from GPU 1 to GPU 0; 100 MB each.
  //   0 -> 1 -> 2 -> 3 and 1 -> 0: GPU 1 sends both, 200 MB; the longest chain has 3 steps: 10 + 3 + 2000.
  // Back, GPU 1 receives both.
  ExpertPlacement owners, all;
  owners.slot_begin = {0, 1, 2, 2, 2};
  owners.expert_of_slot = {LogicalExpert(0), LogicalExpert(1)};
  all.slot_begin = {0, 2, 4, 5, 6};
  for (const int e : {0, 1, 0, 1, 0, 0}) all.expert_of_slot.emplace_back(e);
  Plan plan;
  plan.ranks = 4;
  plan.groups = {{{Rank(0), Rank(1), Rank(2), Rank(3)}}};
  plan.placements = {owners, all};
  Collective gather;
  gather.kind = Kind::sparse_all_gather;
  gather.groups = GroupsId(0);
  gather.cols = 100'000'000;
  gather.dtype = DType::int8;
  gather.from = PlacementId(0);
  gather.to = PlacementId(1);
  Collective reduce = gather;
  reduce.kind = Kind::sparse_reduce_scatter;
  std::swap(reduce.from, reduce.to);
  for (const Collective& work : {gather, reduce}) {
    const sim::Prediction p = sim::predict(plan, work, 0, c, {});
    CHECK(to_microseconds(p.time) == doctest::Approx(2013));
    // Four chunks move: lambda S.
    const auto stages = sim::lower(plan, work, 0, c);
    std::int64_t moved = 0;
    for (const sim::Flow& f : stages.at(0).flows) moved += f.bytes.value();
    CHECK(moved == 400'000'000);
  }
}

TEST_CASE("alone there is only the launch") {
  const Cluster c = cluster(1, 1);
  for (const Kind kind : {Kind::all_reduce, Kind::all_gather_v, Kind::all_to_all_v, Kind::broadcast})
    CHECK(to_microseconds(sim::predict(sim::single_collective(kind, Algorithm::automatic, 1, mb(1)), c, {}).time) ==
          10);
}

TEST_CASE("no algorithm moves fewer bytes over a link than its equation, whatever the shape of the cluster") {
  for (const auto& [nodes, gpus] : {std::pair{1, 2}, {1, 7}, {2, 3}, {3, 4}, {5, 2}}) {
    const Cluster c = cluster(nodes, gpus);
    const int n = c.ranks();
    CAPTURE(nodes);
    CAPTURE(gpus);
    const double bytes = 1e6 * n;
    const auto sent = [&](Kind kind, Algorithm algorithm) {
      const Plan plan = sim::single_collective(kind, algorithm, n, Bytes(static_cast<std::int64_t>(bytes)));
      std::vector<double> out(static_cast<std::size_t>(n), 0);
      for (const sim::Stage& s : sim::lower(plan, std::get<Collective>(plan.ops[0].work), 0, c))
        for (const sim::Flow& f : s.flows) out[f.from.index()] += static_cast<double>(f.bytes.value());
      return out;
    };
    // Rings: everybody sends the same, (n - 1)/n S or twice that, to within a byte for each ring.
    for (const double b : sent(Kind::all_gather_v, Algorithm::ring))
      CHECK(b == doctest::Approx(bytes * (n - 1) / n).epsilon(1e-4));
    for (const double b : sent(Kind::all_reduce, Algorithm::ring))
      CHECK(b == doctest::Approx(2 * bytes * (n - 1) / n).epsilon(1e-4));
    // Exchanges deliver everything that is not one's own; forwarding adds what crosses and is not the counterpart's.
    const auto total = [](const std::vector<double>& v) { return std::accumulate(v.begin(), v.end(), 0.0); };
    const double direct = total(sent(Kind::all_to_all_v, Algorithm::direct));
    CHECK(direct == doctest::Approx(bytes * (n - 1)));
    const double crossing = 1e6 * n * (n - gpus);
    CHECK(total(sent(Kind::all_to_all_v, Algorithm::hierarchical)) ==
          doctest::Approx(direct + crossing * (gpus - 1) / gpus));
  }
}
