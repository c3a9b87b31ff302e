// Flows and collectives end to end, against closed forms. round_cluster: 100 GB/s per GPU and direction inside a node,
// 10 GB/s per GPU between nodes, no latency; 100 MB take 1 ms inside.
#include <doctest/doctest.h>

#include <map>

#include "sim/collectives/lowering.hpp"
#include "sim/network/network.hpp"
#include "tests/common/cases.hpp"

using namespace moesim;
using namespace moesim::testing;

namespace {

constexpr Bytes block(100'000'000);
using Pair = std::pair<int, int>;

// Milliseconds at which the flows of a set that starts at 0 are complete at each rank.
std::map<int, double> completion_ms(const Cluster& cluster, const std::vector<Pair>& pairs) {
  const auto network = sim::make_network(*cluster.topology, {});
  std::vector<sim::Flow> flows;
  for (const auto& [from, to] : pairs) flows.push_back({Rank(from), Rank(to), block, 1.0, {}});
  network->start(Picoseconds(0), flows);
  std::vector<sim::Completion> done;
  while (const auto next = network->next()) network->advance(*next, done);
  std::map<int, double> out;
  for (const sim::Completion& c : done) out[c.rank.value()] = to_milliseconds(c.time);
  return out;
}

// Milliseconds of one collective of 100 MB blocks over all ranks.
double collective_ms(Collective::Kind kind, Collective::Algorithm algorithm, int ranks, bool pairs = false) {
  const Cluster cluster = round_cluster(1, ranks);
  Plan plan;
  plan.ranks = ranks;
  Table counts(1, pairs ? ranks : 1);
  for (std::int32_t& c : counts.row(0)) c = 1;
  plan.tables.push_back(counts);
  plan.groups.emplace_back(1);
  for (int r = 0; r < ranks; ++r) plan.groups[0][0].emplace_back(r);
  const Collective c{kind, algorithm, GroupsId(0), TableId(0), block.value(), DType::fp8, 0, {}, {}};
  const auto network = sim::make_network(*cluster.topology, {});
  Picoseconds now;
  for (const sim::Stage& stage : sim::lower(plan, c, 0, cluster)) {
    now += stage.latency;
    network->start(now, stage.flows);
    std::vector<sim::Completion> done;
    while (const auto next = network->next()) network->advance(*next, done);
    for (const sim::Completion& d : done) now = std::max(now, d.time);
  }
  return to_milliseconds(now);
}

}  // namespace

TEST_CASE("a flow alone goes at its slowest link") {
  CHECK(completion_ms(round_cluster(1, 4), {{0, 1}})[1] == doctest::Approx(1));
  CHECK(completion_ms(round_cluster(2, 2), {{0, 2}})[2] == doctest::Approx(10));  // through its NIC
}

TEST_CASE("flows into one GPU share its link; the others take what is left") {
  // Into GPU 2: 33.3 GB/s for each of three. 0 -> 1 gets the other 66.7 of GPU 0's link: 100 MB in 1.5 ms.
  const auto done = completion_ms(round_cluster(1, 4), {{0, 1}, {0, 2}, {1, 2}, {3, 2}});
  CHECK(done.at(2) == doctest::Approx(3));
  CHECK(done.at(3) == doctest::Approx(3));
  CHECK(completion_ms(round_cluster(1, 5), {{0, 4}, {0, 2}, {1, 2}, {3, 2}}).at(4) == doctest::Approx(1.5));
}

TEST_CASE("what a finished flow leaves goes to those still on the link") {
  // 0 -> 1 and 0 -> 2 at 50 GB/s each, and 3 -> 2 with the 50 left of GPU 2's link: all end at 2 ms.
  const auto done = completion_ms(round_cluster(1, 4), {{0, 1}, {0, 2}, {3, 2}});
  CHECK(done.at(1) == doctest::Approx(2));
  CHECK(done.at(3) == doctest::Approx(2));
}

TEST_CASE("collectives of blocks b over n GPUs take their closed forms") {
  using Kind = Collective::Kind;
  using Algorithm = Collective::Algorithm;
  for (const int n : {2, 4, 8}) {
    CAPTURE(n);
    // b / B is 1 ms. all_gather and reduce_scatter: (n - 1) b / B; nccl-tests' (n - 1)/n of the whole n b.
    CHECK(collective_ms(Kind::all_gather_v, Algorithm::ring, n) == doctest::Approx(n - 1));
    CHECK(collective_ms(Kind::reduce_scatter_v, Algorithm::ring, n) == doctest::Approx(n - 1));
    CHECK(collective_ms(Kind::all_gather_v, Algorithm::direct, n) == doctest::Approx(n - 1));
    // One broadcast or reduce per member, in turn.
    CHECK(collective_ms(Kind::all_gather_v, Algorithm::per_root, n) == doctest::Approx(n));
    CHECK(collective_ms(Kind::reduce_scatter_v, Algorithm::per_root, n) == doctest::Approx(n));
    // all_reduce of b: 2 (n - 1)/n b / B.
    CHECK(collective_ms(Kind::all_reduce, Algorithm::ring, n) == doctest::Approx(2.0 * (n - 1) / n));
    CHECK(collective_ms(Kind::broadcast, Algorithm::ring, n) == doctest::Approx(1));
    // all_to_all of b to each other: (n - 1) b / B.
    CHECK(collective_ms(Kind::all_to_all_v, Algorithm::direct, n, true) == doctest::Approx(n - 1));
  }
}
