// all_reduce of S bytes on n members, m islands of g members. busbw = algbw 2 (n - 1) / n (nccl-tests) for all forms.
//
// Ring: a reduce-scatter and an all-gather of chunks of S / n, so every link carries 2 (n - 1) / n S.
//   t = launch + 2 (n - 1 - m) intra + 2 m inter + 2 (n - 1) / n S / B
//
// Tree: inside an island a chain, between islands two binary trees, each for half of the data, such that a member is an
// inner node of one and a leaf of the other (Sanders, Speck, Traff: Two-tree algorithms for full bandwidth broadcast,
// reduction and scan, Parallel Computing 35 (2009)); reduced upward, broadcast downward, piece by piece. One such pair
// per member of an island (its rail), so all NICs work. Every link of a chain carries S in either direction, an island
// sends and receives up to 2 S.
//   t = launch + 2 (g - 1) intra + 2 ceil(log2 m) inter + max over links of bytes / bandwidth
// NCCL's tree is this one: "Massively scale your deep learning training with NCCL 2.4", NVIDIA developer blog (2019).
//
// In-switch (NVLink SHARP, NVLS): each GPU loads the sum of its n-th part through the switch, which reads all others'
// (S out of every GPU, S / n into it), and stores it to all through the switch (S / n out, S in):
//   t = launch + 2 in_switch_message + S (1 + 1 / n) / (e B),   e = CollectiveCosts::in_switch
// Several islands: in-switch inside, the trees above between the members that hold the same part.
#include <algorithm>
#include <bit>

#include "sim/collectives/group.hpp"

namespace moesim::sim {

namespace {

std::int64_t depth(std::size_t n) { return n <= 1 ? 0 : static_cast<std::int64_t>(std::bit_width(n - 1)); }

// In-order binary tree over 0 .. n-1 with root 0: odd numbers are leaves. Flipping the lowest set bit b and setting the
// next goes up; where that is past the end, flipping alone does.
std::size_t parent(std::size_t i, std::size_t n) {
  const std::size_t bit = i & (~i + 1);
  const std::size_t up = (i ^ bit) | (bit << 1);
  return up < n ? up : i ^ bit;
}

// The two trees over `places`: the second is the first mirrored (n even) or shifted by one (n odd).
void add_two_trees(FlowList& flows, const std::vector<std::size_t>& places, Bytes bytes) {
  const std::size_t n = places.size();
  const Bytes half = bytes / 2;
  for (std::size_t i = 1; i < n; ++i) {
    const std::size_t up = parent(i, n);
    flows.add(places[i], places[up], half);
    flows.add(places[up], places[i], half);
    const auto other = [&](std::size_t k) { return n % 2 == 0 ? n - 1 - k : (k + 1) % n; };
    flows.add(places[other(i)], places[other(up)], bytes - half);
    flows.add(places[other(up)], places[other(i)], bytes - half);
  }
}

// The members at one index of their islands; islands that are smaller use another of theirs.
std::vector<std::size_t> rail(const Group& group, std::size_t index) {
  std::vector<std::size_t> out;
  for (const auto& island : group.islands()) out.push_back(island[index % island.size()]);
  return out;
}

std::size_t widest(const Group& group) {
  std::size_t out = 0;
  for (const auto& island : group.islands()) out = std::max(out, island.size());
  return out;
}

Bytes share(Bytes bytes, std::size_t parts, std::size_t i) {
  const auto n = static_cast<std::int64_t>(parts), k = static_cast<std::int64_t>(i);
  const std::int64_t whole = bytes.value() / n, rest = bytes.value() % n;
  return Bytes(whole + (k < rest ? 1 : 0));
}

}  // namespace

std::vector<Stage> all_reduce_ring(const Group& group) {
  const auto n = static_cast<std::int64_t>(group.size());
  const Bytes bytes = group.contribution(0);
  FlowList flows(group);
  const std::vector<Ring> all = rings(group);
  for (std::size_t r = 0; r < all.size(); ++r) {
    const Bytes mine = part(bytes, all, r);
    // ceil(2 (n - 1) / n bytes)
    const Bytes carried((2 * (n - 1) * mine.value() + n - 1) / n);
    const std::vector<std::size_t>& ring = all[r].places;
    for (std::size_t k = 0; k < ring.size(); ++k) flows.add(ring[k], ring[(k + 1) % ring.size()], carried);
  }
  const auto islands = static_cast<std::int64_t>(group.islands().size());
  const std::int64_t inter = islands == 1 ? 0 : std::min(islands, n - 1);
  return {std::move(flows).stage(group.steps(2 * (n - 1 - inter), 2 * inter), 1)};
}

std::vector<Stage> all_reduce_tree(const Group& group) {
  const Bytes bytes = group.contribution(0);
  const std::size_t rails = widest(group);
  FlowList flows(group);
  for (std::size_t r = 0; r < rails; ++r) {
    const Bytes mine = share(bytes, rails, r);
    add_two_trees(flows, rail(group, r), mine);
    for (const auto& island : group.islands())
      for (std::size_t k = 0; k + 1 < island.size(); ++k) {
        const std::size_t a = island[(r + k) % island.size()], b = island[(r + k + 1) % island.size()];
        flows.add(a, b, mine);
        flows.add(b, a, mine);
      }
  }
  const auto chain = static_cast<std::int64_t>(rails) - 1;
  return {std::move(flows).stage(group.steps(2 * chain, 2 * depth(group.islands().size())), 1)};
}

// On a switch, S (1 + 1 / n) through every GPU's link in both directions is what a ring of that many bytes loads.
std::vector<Stage> all_reduce_in_switch(const Group& group) {
  const Bytes bytes = group.contribution(0);
  const Topology& topology = *group.cluster().topology;
  const double efficiency = group.costs().in_switch > 0 ? group.costs().in_switch : 1.0;
  FlowList flows(group);
  for (const auto& island : group.islands()) {
    if (island.size() < 2) continue;
    const auto n = static_cast<std::int64_t>(island.size());
    const Bytes carried(bytes.value() + (bytes.value() + n - 1) / n);
    for (std::size_t k = 0; k < island.size(); ++k) {
      const std::size_t next = island[(k + 1) % island.size()];
      const LinkId out = topology.route(group.rank(island[k]), group.rank(next)).front();
      flows.add(island[k], next, carried, topology.links()[out.index()].capacity * efficiency);
    }
  }
  const std::size_t rails = widest(group);
  if (group.islands().size() > 1)
    for (std::size_t r = 0; r < rails; ++r) add_two_trees(flows, rail(group, r), share(bytes, rails, r));
  const Picoseconds inside = group.costs().in_switch_message * (rails > 1 ? 2 : 0);
  return {std::move(flows).stage(inside + group.steps(0, 2 * depth(group.islands().size())), 1)};
}

}  // namespace moesim::sim
