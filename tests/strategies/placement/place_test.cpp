#include "strategies/placement/place.hpp"

#include <doctest/doctest.h>

#include <limits>

#include "moesim/error.hpp"
#include "recorded.hpp"
#include "strategies/placement/affinity_search.hpp"
#include "strategies/placement/assess.hpp"

namespace moesim::placement {
namespace {

Loads random_loads(int layers, int experts, double sigma, std::mt19937_64& rng) {
  Loads loads(layers, experts);
  for (int l = 0; l < layers; ++l) {
    const std::vector<double> layer = lognormal(experts, sigma, rng);
    std::copy(layer.begin(), layer.end(), loads.layer(l).begin());
  }
  return loads;
}

// Tokens that go on to a fixed successor of their expert with probability `affinity`, else anywhere.
Recorded planted(int layers, int experts, int tokens, double affinity, std::mt19937_64& rng) {
  std::vector<std::vector<std::vector<int>>> ids(static_cast<std::size_t>(layers));
  std::vector<int> at(static_cast<std::size_t>(tokens));
  for (int& e : at) e = static_cast<int>(rng() % static_cast<unsigned>(experts));
  for (auto& layer : ids) {
    std::vector<int> next(static_cast<std::size_t>(experts));
    std::iota(next.begin(), next.end(), 0);
    std::shuffle(next.begin(), next.end(), rng);
    for (int& e : at) {
      const bool follows = static_cast<double>(rng() % 1000) < 1000 * affinity;
      e = follows ? next[static_cast<std::size_t>(e)] : static_cast<int>(rng() % static_cast<unsigned>(experts));
      layer.push_back({e});
    }
  }
  return {experts, std::move(ids)};
}

std::string fault(const PlaceRequest& request) {
  try {
    (void)place(request);
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}
bool names(const std::string& what, std::string_view part) { return what.find(part) != std::string::npos; }

TEST_CASE("every method places every expert, in its slots, on distinct GPUs") {
  std::mt19937_64 rng(1);
  struct Case {
    int experts, gpus, nodes, replicas, groups;
  };
  for (const Case c : {Case{8, 4, 1, 0, 1}, {8, 8, 2, 8, 4}, {16, 4, 2, 4, 4}, {64, 16, 4, 16, 8}, {60, 4, 1, 4, 1}})
    for (const MethodInfo& m : methods()) {
      PlaceRequest r;
      r.method = m.method;
      r.loads = random_loads(3, c.experts, 1, rng);
      r.shape = {.gpus = c.gpus, .nodes = c.nodes, .slots_per_gpu = slots_for(c.experts, c.gpus, c.replicas)};
      r.groups = c.groups;
      r.moetuner.seconds = 1;
      const PlaceResult out = place(r);
      CAPTURE(m.name);
      REQUIRE(out.maps.size() == 3);
      REQUIRE(out.layers.size() == 3);
      for (std::size_t l = 0; l < 3; ++l) {
        CHECK_NOTHROW(validate(out.maps[l], c.experts));
        CHECK(out.maps[l].ranks() == c.gpus);
        if (m.method != Method::moetuner)
          for (int g = 0; g < c.gpus; ++g) CHECK(out.maps[l].slots_on(Rank(g)) == r.shape.slots_per_gpu);
        CHECK(out.layers[l].max_over_mean >= out.layers[l].bound * (1 - 1e-9));
        CHECK(out.layers[l].bound <= out.layers[l].bound_unreplicated * (1 + 1e-9));
      }
      CHECK(out.copies.own_gpu + out.copies.own_node + out.copies.other_nodes == doctest::Approx(1));
      CHECK(parse_method(m.name) == m.method);
      CHECK(to_string(m.method) == m.name);
    }
  CHECK_FALSE(parse_method("eplp").has_value());
}

TEST_CASE("contiguous and round robin are what engines do without a balancer") {
  PlaceRequest r;
  r.loads = Loads(1, 4);
  r.shape = {.gpus = 2, .nodes = 1, .slots_per_gpu = 3};
  r.method = Method::contiguous;
  CHECK(place(r).maps[0] == map_of({{0, 1, 2}, {3, 0, 1}}));
  r.shape.slots_per_gpu = 2;
  CHECK(place(r).maps[0] == contiguous_placement(4, 2));
  r.method = Method::round_robin;
  CHECK(place(r).maps[0] == round_robin_placement(4, 2));
  r.shape.slots_per_gpu = 4;
  CHECK(place(r).maps[0] == map_of({{0, 2, 1, 3}, {1, 3, 2, 0}}));
}

TEST_CASE("requests that make no sense: every fault at once, never a map") {
  PlaceRequest r;
  CHECK(names(fault(r), "there are no loads"));
  std::mt19937_64 rng(2);
  r.loads = random_loads(2, 8, 1, rng);
  r.shape = {.gpus = 4, .nodes = 1, .slots_per_gpu = 1};
  CHECK(names(fault(r), "4 slots (1 on each of 4 GPUs) for 8 experts"));
  CHECK(names(fault(r), "at least 2 a GPU"));
  r.shape = {.gpus = 4, .nodes = 3, .slots_per_gpu = 2};
  CHECK(names(fault(r), "4 GPUs on 3 nodes"));
  r.shape = {.gpus = 4, .nodes = 1, .slots_per_gpu = 9};
  CHECK(names(fault(r), "9 slots a GPU for 8 experts"));
  r.shape = {.gpus = 4, .nodes = 1, .slots_per_gpu = 2};
  r.groups = 3;
  CHECK(names(fault(r), "8 experts in 3 groups"));
  r.groups = 1;
  r.mode = Mode::stay;
  CHECK(names(fault(r), "needs the movement"));
  r.movement = Movement(1, Table(4, 4));
  CHECK(names(fault(r), "movement is not of 1 tables of 8 x 8"));
  r.mode = Mode::return_home;
  r.movement.clear();
  r.loads.layer(1)[3] = -1;
  CHECK(names(fault(r), "MoE layer 1 has a load of -1"));
  r.loads.layer(1)[3] = std::numeric_limits<double>::quiet_NaN();
  r.shape.inter = BytesPerSecond(0);
  CHECK(names(fault(r), "load of nan"));
  CHECK(names(fault(r), "bandwidths"));
  CHECK_THROWS_AS((void)slots_for(8, 3, 0), InputError);
  CHECK_THROWS_WITH_AS((void)slots_for(60, 8, 0), doctest::Contains("4 replicas do"), InputError);
  CHECK_THROWS_WITH_AS((void)slots_for(60, 8, 10), doctest::Contains("4 or 12 replicas do"), InputError);
  CHECK(slots_for(256, 32, 32) == 9);
}

TEST_CASE("too little memory: fewer replicas by name, or an error") {
  std::mt19937_64 rng(3);
  PlaceRequest r;
  r.loads = random_loads(10, 8, 1, rng);
  r.shape = {.gpus = 4, .nodes = 1, .slots_per_gpu = 4};
  r.expert_bytes = Bytes(100);
  r.memory_per_gpu = Bytes(10 * 3 * 100 + 99);  // ten layers of three
  const PlaceResult out = place(r);
  CHECK(out.fallback == "fewer_replicas");
  CHECK(out.shape.slots_per_gpu == 3);
  CHECK(out.maps[0].slots() == 12);
  r.memory_per_gpu = Bytes(10 * 2 * 100 - 1);
  CHECK(names(fault(r), "memory for 1 experts a layer; 8 experts on 4 GPUs need 2"));
  r.memory_per_gpu = Bytes(10 * 4 * 100);
  CHECK(place(r).fallback.empty());
}

TEST_CASE("a user sees when only replication helps") {
  PlaceRequest r;
  r.loads = Loads(1, 4);
  std::fill(r.loads.layer(0).begin(), r.loads.layer(0).end(), 1.0);
  r.loads.layer(0)[2] = 9;
  r.shape = {.gpus = 4, .nodes = 1, .slots_per_gpu = 1};
  const PlaceResult bare = place(r);
  CHECK(bare.max_over_mean() == doctest::Approx(3));  // 9 against the mean 3
  CHECK(bare.bound() == doctest::Approx(3));
  r.shape.slots_per_gpu = 2;
  const PlaceResult replicated = place(r);
  CHECK(replicated.bound_unreplicated() == doctest::Approx(3));
  CHECK(replicated.bound() < 1.2);
  CHECK(replicated.max_over_mean() < 1.2);
}

TEST_CASE("the next plan stays close to the current one") {
  std::mt19937_64 rng(4);
  PlaceRequest r;
  r.loads = random_loads(4, 32, 1, rng);
  r.shape = {.gpus = 8, .nodes = 2, .slots_per_gpu = 5};
  const PlaceResult first = place(r);
  r.current = first.maps;
  std::rotate(r.current[0].expert_of_slot.begin(), r.current[0].expert_of_slot.begin() + 5,
              r.current[0].expert_of_slot.begin() + 20);
  const PlaceResult again = place(r);  // the same plan, its first layer's GPUs renamed as they stand in `current`
  CHECK(moving(r.current, again.maps, r.shape, Bytes(1)).moved == 0);
}

TEST_CASE("stay: a perfect affinity is followed, and a planted one better than by moving clusters") {
  std::mt19937_64 rng(5);
  const ClusterShape shape{.gpus = 8, .nodes = 2, .slots_per_gpu = 4};
  const Window all{0, 4000};
  for (const double affinity : {1.0, 0.6}) {
    const Recorded routing = planted(6, 32, 4000, affinity, rng);
    PlaceRequest r;
    r.loads = measure_loads(routing, all);
    r.movement = measure_movement(routing, all, MovementCount::from_first);
    r.shape = shape;
    r.mode = Mode::stay;
    r.tolerance = 0.05;
    r.method = Method::local_search;
    const PlaceResult ours = place(r);
    r.method = Method::contiguous;
    const PlaceResult contiguous = place(r);
    r.method = Method::moetuner;
    r.moetuner = {.cost = ChainCost::total, .seconds = 5, .equal_sizes = true, .programs = false};
    const PlaceResult theirs = place(r);
    CHECK(ours.worst_max_over_mean() <= 1.05 * (1 + 1e-9) * std::max(1.0, ours.bound()));
    CHECK(theirs.movement_cost < contiguous.movement_cost);
    CHECK(ours.movement_cost < theirs.movement_cost);
    if (affinity == 1.0) CHECK(ours.movement_cost < 0.15 * contiguous.movement_cost);
    for (const ExpertPlacement& map : ours.maps) CHECK_NOTHROW(validate(map, 32));
  }
}

TEST_CASE("stay with company: experts of one token come together") {
  // Tokens use experts 2 i and 2 i + 1 together; contiguous placement of strided ids keeps them apart.
  std::vector<std::vector<std::vector<int>>> ids(2);
  for (auto& layer : ids)
    for (int t = 0; t < 400; ++t) layer.push_back({t % 4, t % 4 + 4});
  const Recorded routing(8, ids);
  const Window all{0, 400};
  PlaceRequest r;
  r.loads = measure_loads(routing, all);
  r.movement = measure_movement(routing, all, MovementCount::from_first);
  r.company = measure_company(routing, all);
  r.shape = {.gpus = 4, .nodes = 2, .slots_per_gpu = 2};
  r.mode = Mode::stay;
  const PlaceResult out = place(r);
  CHECK(out.movement_cost == 0);
  CHECK(out.max_over_mean() == doctest::Approx(1));
}

TEST_CASE("assess: plans on one window, judged on another") {
  std::mt19937_64 rng(6);
  // Every layer prefers the same few experts, which contiguous placement puts on GPU 0.
  std::vector<std::vector<std::vector<int>>> ids(3);
  std::discrete_distribution<int> draw({9, 7, 5, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1});
  for (auto& layer : ids)
    for (int t = 0; t < 6000; ++t) layer.push_back({draw(rng)});
  const Recorded routing(16, ids);
  AssessRequest request;
  request.place.shape = {.gpus = 4, .nodes = 1, .slots_per_gpu = 5};
  request.place.expert_bytes = Bytes(1000);
  request.tokens_per_step = 300;
  request.methods = {Method::contiguous, Method::eplb, Method::moetuner, Method::local_search};
  request.place.moetuner.seconds = 1;
  const Assessment a = assess(routing, request);
  REQUIRE(a.methods.size() == 4);
  CHECK(a.windows.test.first == 3000);
  CHECK(a.skew.experts == doctest::Approx(9 * 16 / 36.0).epsilon(0.1));
  CHECK(a.skew.gpus == doctest::Approx(24 * 4 / 36.0).epsilon(0.1));
  CHECK(a.methods[0].gain.mean == 0);
  CHECK(a.methods[0].replica_memory == Bytes(0));
  CHECK(a.methods[3].replica_memory == Bytes(1000 * 3 * 1));
  CHECK(a.methods[0].moving.moved == 0);
  CHECK(a.methods[3].moving.moved > 0);
  CHECK(a.methods[3].test.straggler.size() == 10);
  CHECK(a.methods[3].gain.low <= a.methods[3].gain.mean);
  CHECK(a.methods[3].gain.low > 0.5);  // from 2.7 to about 1.1
  CHECK(a.methods[3].train.mean_straggler() < a.methods[0].train.mean_straggler());
  CHECK(saving(std::vector<double>{2, 2}, std::vector<double>{1, 1}).mean == doctest::Approx(0.5));
  const Interval spread = saving(std::vector<double>{2, 2}, std::vector<double>{1, 1.2});
  CHECK(spread.mean == doctest::Approx(0.45));  // savings 0.5 and 0.4: sd 0.0707, standard error 0.05
  CHECK(spread.high - spread.mean == doctest::Approx(1.96 * 0.05));
}

}  // namespace
}  // namespace moesim::placement
