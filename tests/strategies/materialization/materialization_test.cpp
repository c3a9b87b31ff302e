// Hecate's algorithms and its rivals' placements: on paper, and as properties of random inputs.
#include "strategies/materialization/materialization.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>

#include "strategies/materialization/holders.hpp"

using namespace moesim;
using namespace moesim::materialization;

namespace {

std::set<std::pair<int, int>> pairs_of(const ExpertPlacement& p) {  // (expert, device)
  std::set<std::pair<int, int>> out;
  for (int d = 0; d < p.ranks(); ++d)
    for (int s = p.slot_begin[static_cast<std::size_t>(d)]; s < p.slot_begin[static_cast<std::size_t>(d) + 1]; ++s)
      CHECK(out.insert({p.expert_of_slot[static_cast<std::size_t>(s)].value(), d}).second);
  return out;
}

std::vector<double> random_loads(std::mt19937& random, int experts) {
  std::lognormal_distribution<double> law(0, 1.5);
  std::vector<double> out(static_cast<std::size_t>(experts));
  for (double& l : out) l = std::floor(1000 * law(random));
  return out;
}

double most(const std::vector<double>& v) { return *std::ranges::max_element(v); }

}  // namespace

TEST_CASE("overlap degree: 3 ms beside 10 GB/s and experts of 8 MB are 3.75 experts") {
  CHECK(overlap_degree(from_seconds(3e-3), BytesPerSecond(10e9), Bytes(8'000'000)) == 3);
  CHECK(overlap_degree(from_seconds(3.2e-3), BytesPerSecond(10e9), Bytes(8'000'000)) == 4);
  CHECK(overlap_degree(Picoseconds(0), BytesPerSecond(10e9), Bytes(8'000'000)) == 0);
}

TEST_CASE("algorithm 1 on paper: few hot experts go everywhere") {
  // 4 experts on 2 nodes of 2, one each; the two hottest, 2 and 0, fit the two free slots of every device.
  const ExpertPlacement owners = contiguous_placement(4, 4);
  const std::vector<double> load{30, 10, 50, 10};
  const ExpertPlacement p = materialize(owners, load, 2, 2, 2);
  const std::set<std::pair<int, int>> expected{{0, 0}, {0, 1}, {0, 2}, {0, 3}, {1, 1},
                                               {2, 0}, {2, 1}, {2, 2}, {2, 3}, {3, 3}};
  CHECK(pairs_of(p) == expected);
  CHECK(gathered(owners, p) == 6);
}

TEST_CASE("algorithm 1 on paper: fewer slots than hot experts") {
  // t = 3 hottest (2: 60, 0: 30, 1: 10), one slot on each of 4 devices: quotas 2.4, 1.2, 0.4, seats 2, 1, 1 (the
  // largest remainder is 0.4 twice; the hotter goes first, so 3, 1, 0).
  const ExpertPlacement owners = contiguous_placement(4, 4);
  const std::vector<double> load{30, 10, 60, 0};
  const ExpertPlacement p = materialize(owners, load, 3, 1, 2);
  // Expert 2 lives on device 2 (node 1): first to node 0, device 0; then, with a copy on each node, to the node with
  // more room (node 1 has two slots), device 3; then to device 1. Expert 0 lives on device 0: node 1 lacks it:
  // device 2.
  const std::set<std::pair<int, int>> expected{{0, 0}, {1, 1}, {2, 2}, {3, 3}, {2, 0}, {2, 3}, {2, 1}, {0, 2}};
  CHECK(pairs_of(p) == expected);
}

TEST_CASE("algorithm 1: owners stay, slots hold, no device has an expert twice, the maximum load does not rise") {
  std::mt19937 random(17);
  for (int trial = 0; trial < 200; ++trial) {
    const int per_node = 1 << (random() % 3);
    const int devices = per_node * static_cast<int>(1 + random() % 4);
    const int experts = devices * static_cast<int>(1 + random() % 3);
    const auto t = static_cast<std::int64_t>(random() % static_cast<unsigned>(experts + 3));
    const auto slots = static_cast<std::int64_t>(random() % 6);
    const std::vector<double> load = random_loads(random, experts);
    const ExpertPlacement owners = contiguous_placement(experts, devices);
    const ExpertPlacement p = materialize(owners, load, t, slots, per_node);
    const auto before = pairs_of(owners);
    const auto after = pairs_of(p);
    CHECK(std::ranges::includes(after, before));
    CHECK(gathered(owners, p) == static_cast<std::int64_t>(after.size() - before.size()));
    std::vector<std::int64_t> copies(static_cast<std::size_t>(devices));
    std::vector<int> order = hottest_first(load);
    for (const auto& [e, d] : after) {
      if (before.contains({e, d})) continue;
      ++copies[static_cast<std::size_t>(d)];
      CHECK(std::ranges::find(order, e) - order.begin() < t);  // only hot ones are copied
    }
    for (const std::int64_t c : copies) CHECK(c <= std::min(slots, t));
    if (t > 0 && t <= slots)
      for (std::int64_t i = 0; i < std::min<std::int64_t>(t, experts); ++i)
        for (int d = 0; d < devices; ++d) CHECK(after.contains({order[static_cast<std::size_t>(i)], d}));
  }
}

TEST_CASE("algorithm 2 on paper: two layers of 4 experts on 2 devices") {
  // t = 1. Layer 1 (maximum 90) goes first: its hottest, 0, is left aside; 3 (50), 2 (30), 1 (10) go to 0, 1, 1.
  // Layer 0: 0 (40) aside; 1 (30) to device 0 (fewer slots used), 2 (20) to 1, 3 (10) to 1 (20 < 30). Device 0 has used
  // 2 of 4 slots, device 1 all 4: both hot ones fill device 0.
  const std::vector<Loads> loads{{40, 30, 20, 10}, {90, 10, 30, 50}};
  const std::vector<ExpertPlacement> p = shard_heterogeneously(loads, 1, 2, 2);
  CHECK(pairs_of(p[0]) == std::set<std::pair<int, int>>{{1, 0}, {2, 1}, {3, 1}, {0, 0}});
  CHECK(pairs_of(p[1]) == std::set<std::pair<int, int>>{{3, 0}, {2, 1}, {1, 1}, {0, 0}});
}

TEST_CASE("algorithm 2: every expert of every layer has one owner, devices own equal numbers") {
  std::mt19937 random(23);
  for (int trial = 0; trial < 100; ++trial) {
    const int per_node = 1 << (random() % 3);
    const int devices = per_node * static_cast<int>(1 + random() % 3);
    const int experts = devices * static_cast<int>(1 + random() % 3);
    const int layers = static_cast<int>(1 + random() % 5);
    std::vector<Loads> loads;
    for (int l = 0; l < layers; ++l) loads.push_back(random_loads(random, experts));
    const auto t = static_cast<std::int64_t>(random() % static_cast<unsigned>(experts + 1));
    const auto placements = shard_heterogeneously(loads, t, devices, per_node);
    std::vector<int> owned(static_cast<std::size_t>(devices));
    for (const ExpertPlacement& p : placements) {
      validate(p, experts);
      CHECK(p.slots() == experts);
      for (int d = 0; d < devices; ++d) owned[static_cast<std::size_t>(d)] += p.slots_on(Rank(d));
    }
    for (const int n : owned) CHECK(n == layers * experts / devices);
  }
}

TEST_CASE("FasterMoE shadows while its predicted time falls") {
  // 2 devices, 2 experts; all 100 + 100 tokens want expert 0. Computing costs 1 a token, exchanging 1: at its owner
  // 200 + 100 = 300. Shadowed: 100 on each, and the broadcast. It pays below 200.
  Table counts(2, 2);
  counts.at(0, 0) = counts.at(1, 0) = 100;
  const ExpertPlacement owners = contiguous_placement(2, 2);
  CHECK(gathered(owners, shadow(owners, counts, {1, 1, 199})) == 1);
  CHECK(gathered(owners, shadow(owners, counts, {1, 1, 201})) == 0);
}

TEST_CASE("SmartMoE: the best swap on paper; no swap ever raises the maximum; sizes stay") {
  // Devices {0, 1} and {2, 3}: 80 + 60 against 20 + 10. Swapping 1 and 2 gives 100 and 70, 0 and 2 gives 80 and 90.
  const std::vector<double> load{80, 60, 20, 10};
  const ExpertPlacement p = exchange_experts(contiguous_placement(4, 2), load);
  CHECK(most(device_loads(p, load)) == 90);
  std::mt19937 random(31);
  for (int trial = 0; trial < 100; ++trial) {
    const int devices = static_cast<int>(2 + random() % 6);
    const int experts = devices * static_cast<int>(1 + random() % 4);
    const std::vector<double> l = random_loads(random, experts);
    const ExpertPlacement before = contiguous_placement(experts, devices);
    const ExpertPlacement after = exchange_experts(before, l);
    validate(after, experts);
    CHECK(most(device_loads(after, l)) <= most(device_loads(before, l)));
    for (int d = 0; d < devices; ++d) CHECK(after.slots_on(Rank(d)) == before.slots_on(Rank(d)));
  }
}

TEST_CASE("FlexMoE: slots stay, the maximum falls or the placement stays") {
  std::mt19937 random(37);
  for (int trial = 0; trial < 100; ++trial) {
    const int devices = static_cast<int>(2 + random() % 6);
    const int experts = devices * static_cast<int>(1 + random() % 3);
    const int spare = static_cast<int>(1 + random() % 2);
    const std::vector<double> load = random_loads(random, experts);
    const ExpertPlacement before = with_spare_slots(experts, devices, spare);
    validate(before, experts);
    for (int d = 0; d < devices; ++d) CHECK(before.slots_on(Rank(d)) <= experts / devices + spare);
    const ExpertPlacement after = replicate_and_shrink(before, load, 3);
    validate(after, experts);
    CHECK(after.slots() == before.slots());
    CHECK(most(device_loads(after, load)) <= most(device_loads(before, load)));
    if (!(after == before)) CHECK(most(device_loads(after, load)) < most(device_loads(before, load)));
    CHECK(moves(before, after).sum() <= 3);
  }
}

TEST_CASE("an expert that nobody holds cannot be moved") {
  ExpertPlacement none;
  none.slot_begin = {0, 0, 0};
  CHECK_THROWS_AS(moves(none, contiguous_placement(2, 2)), std::invalid_argument);
}
