#include <doctest/doctest.h>

#include <bit>
#include <random>

#include "models/cost/collective_model.hpp"
#include "models/cost/exchange_model.hpp"

using namespace moesim::cost;

namespace {

// 100 kB/us of NVLink, 10 of NIC, 1000 of memory.
constexpr Fabric fabric{1e5, 1e4, 1e6, false};

template <class P>
P priors(std::span<const Field<P>> fields) {
  return from_map(fields, {});
}

// Only the protocol Simple is of any use, and it costs round numbers.
CollectiveParameters simple() {
  CollectiveParameters p = priors(collective_fields());
  p.ring_us = 5;
  p.step_us = 1;
  p.large_us = 10;
  p.large_rate = 0.5;
  p.copy_rate = 0.25;
  p.small_rate = p.medium_rate = p.exchange_rate = 1e-9;
  p.exchange_us = 4;
  p.peer_us = 0.5;
  p.bulk_us = 6;
  p.inter_step_us = 8;
  p.inter_medium_us = p.inter_large_us = 3;
  p.nic_efficiency = 0.5;
  return p;
}

double us(CollectiveKind kind, int gpus, int nodes, double bytes) {
  return collective_us(simple(), fabric, {kind, gpus, nodes, bytes});
}

}  // namespace

TEST_CASE("rings: steps, wire volume and the own part") {
  // 8 GPUs, 8 MB: wire 7 MB at 50 kB/us = 140 us; own 1 MB at 250 kB/us = 4 us; 5 + 7 + 10 of latency.
  CHECK(us(CollectiveKind::all_gather, 8, 1, 8e6) == doctest::Approx(166));
  CHECK(us(CollectiveKind::reduce_scatter, 8, 1, 8e6) == doctest::Approx(166));
  // All-reduce makes both halves: 14 steps, 14 MB on the wire, and copies nothing.
  CHECK(us(CollectiveKind::all_reduce, 8, 1, 8e6) == doctest::Approx(5 + 14 + 10 + 280));
  // All-to-all: 7 peers, 7 MB, own part 1 MB.
  CHECK(us(CollectiveKind::all_to_all, 8, 1, 8e6) == doctest::Approx(4 + 3.5 + 6 + 140 + 4));
  CHECK(us(CollectiveKind::all_reduce, 1, 1, 8e6) == 0);
}

TEST_CASE("nodes: what a ring, a tree and an exchange put on a NIC") {
  // 2 nodes of 4, all-gather of 8 MB: one ring per NIC, 7/8 of 2 MB each at 5 kB/us = 350 us, longer than the wire's 7
  // MB at 50 kB/us = 140 us. Of the ring's 7 steps one is between nodes, and Simple costs 3 us more there.
  CHECK(us(CollectiveKind::all_gather, 8, 2, 8e6) == doctest::Approx(5 + 6 + 8 + 3 + 10 + 350 + 4));
  // All-to-all: half of the 8 MB leaves the node, 4 MB at 5 kB/us.
  CHECK(us(CollectiveKind::all_to_all, 8, 2, 8e6) == doctest::Approx(4 + 3.5 + 8 + 3 + 6 + 800));
  // All-reduce: a tree moves 2 MB per NIC (400 us), the rings 3.5 (700 us); its chains are 2 x 3 steps, its hops 2.
  CHECK(us(CollectiveKind::all_reduce, 8, 2, 8e6) == doctest::Approx(5 + 6 + 2 * 11 + 10 + 400).epsilon(0.01));
  // Over 4 nodes the inner nodes of two binary trees send twice as much, the rings 15/16 of it.
  CHECK(us(CollectiveKind::all_reduce, 16, 4, 8e6) < 5 + 6 + 4 * 11 + 10 + 800);
}

TEST_CASE("the fastest protocol is taken, softly") {
  CollectiveParameters p = simple();
  p.small_rate = 0.01;  // 1 kB/us without the 10 us of Simple
  const CollectiveShape tiny{CollectiveKind::all_gather, 2, 1, 200};
  // wire 100 B at 1 kB/us = 0.1 us, own 100 B at 250 kB/us: 5 + 1 + 0.1 + 0.0004; Simple takes 16.
  CHECK(collective_us(p, fabric, tiny) == doctest::Approx(6.1004).epsilon(0.001));
  CHECK(collective_us(p, fabric, tiny) <= 6.1004);
}

TEST_CASE("in the switch an all-reduce crosses each link once") {
  Fabric nvls = fabric;
  nvls.in_switch = true;
  CollectiveParameters p = simple();
  p.switch_us = 20;
  p.switch_rate = 0.8;
  // 80 MB at 80 kB/us = 1000 us and 20; the ring would take 14 * 10 MB / 50 kB/us = 2800 us.
  const CollectiveShape s{CollectiveKind::all_reduce, 8, 1, 80e6};
  CHECK(collective_us(p, nvls, s) == doctest::Approx(1020).epsilon(0.001));
  CHECK(collective_bound_us(nvls, s) == doctest::Approx(800));
  CHECK(collective_bound_us(fabric, s) == doctest::Approx(1400));
  // Two GPUs have nothing to gain from it: NCCL does not use it there.
  CHECK(collective_us(p, nvls, {CollectiveKind::all_reduce, 2, 1, 80e6}) ==
        collective_us(p, fabric, {CollectiveKind::all_reduce, 2, 1, 80e6}));
}

TEST_CASE("collectives: time grows with bytes and GPUs, and never beats the link") {
  const CollectiveParameters p = priors(collective_fields());
  std::mt19937 random(5);
  for (int i = 0; i < 300; ++i) {
    const CollectiveKind kind = all_collective_kinds[random() % 4];
    const int gpus = 2 << (random() % 3);
    const double bytes = static_cast<double>(1 + random() % 100'000'000);
    const double t = collective_us(p, fabric, {kind, gpus, 1, bytes});
    CHECK(t >= collective_bound_us(fabric, {kind, gpus, 1, bytes}));
    CHECK(collective_us(p, fabric, {kind, gpus, 1, bytes * 1.5}) >= t);
    CHECK(collective_us(p, fabric, {kind, 2 * gpus, 1, bytes * 2}) >= t);  // the same bytes per GPU
  }
}

TEST_CASE("names as nccl-tests writes them") {
  for (const CollectiveKind kind : all_collective_kinds) CHECK(parse_collective(to_string(kind)) == kind);
  CHECK(parse_collective("all_to_all") == CollectiveKind::all_to_all);
  CHECK(!parse_collective("gather"));
}

TEST_CASE("distinct groups: the closed form equals counting all choices") {
  // 12 experts in 4 groups of 3, choose k.
  for (int k = 1; k <= 6; ++k) {
    double sum = 0;
    double choices = 0;
    for (unsigned set = 0; set < (1U << 12); ++set) {
      if (std::popcount(set) != k) continue;
      ++choices;
      for (int g = 0; g < 4; ++g) sum += (set >> (3 * g) & 7U) != 0 ? 1 : 0;
    }
    CHECK(distinct_groups(4, 12, k) == doctest::Approx(sum / choices));
  }
  CHECK(distinct_groups(1, 256, 8) == doctest::Approx(1));
}

TEST_CASE("dispatch: copies over SMs, links and NICs") {
  ExchangeParameters p = priors(exchange_fields());
  p.latency_us = 20;
  p.row_us = 2;
  p.sm_rate = 1000;
  p.row_bytes = 0;
  p.token_rows = 0;
  p.sharpness = 10;
  ExchangeShape s;
  s.tokens = 100;
  s.hidden = 1000;
  s.bytes_per_element = 1;
  s.top_k = 1;
  s.experts = 8;
  s.sms = 10;
  // One expert per token: 100 copies of 1000 bytes on 10 SMs of 1000 B/us = 10 us; links are far from busy.
  CHECK(exchange_us(p, fabric, s) == doctest::Approx(20 + 2 + 10));
  // Two nodes: one node per token, so 100 staged copies more; half of the tokens cross the NIC.
  s.nodes = 2;
  s.experts = 16;
  CHECK(exchange_us(p, fabric, s) == doctest::Approx(20 + 2 + 20).epsilon(0.001));
  CHECK(exchange_bound_us(fabric, s) == doctest::Approx(100 * 1000 * 0.5 / 1e4));
  s.tokens = 0;
  CHECK(exchange_us(p, fabric, s) == 0);
}

TEST_CASE("low latency: every copy travels by itself") {
  LowLatencyParameters p = priors(low_latency_fields());
  p.sharpness = 10;
  p.net_us = 5;
  p.nic_efficiency = 0.5;
  ExchangeShape s;
  s.low_latency = true;
  s.tokens = 128;
  s.hidden = 4096;
  s.bytes_per_element = 2;
  s.top_k = 8;
  s.experts = 256;
  s.nodes = 2;
  // Half of 128 * 8 copies of 8192 bytes over a NIC of 5 kB/us: 838.9 us, far more than NVLink's and the SMs' part.
  const double fixed = p.latency_us + p.row_us * 8.192 + p.expert_us * 2.56 + 5;
  CHECK(exchange_us(p, fabric, s) == doctest::Approx(fixed + 128 * 8 * 8192 * 0.5 / 5e3).epsilon(0.001));
}
