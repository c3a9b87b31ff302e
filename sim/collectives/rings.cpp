// Collectives on rings: all_gather_v, reduce_scatter_v, broadcast, reduce. Blocks b_i (bytes that member i contributes,
// or keeps) move in small pieces from neighbour to neighbour, so every link is busy all the time and carries
//   all_gather      link j -> j+1: every block but that of j+1, whose owner it would return to:   sum_i b_i - b_{j+1}
//   reduce_scatter  link j -> j+1: partial sums of every block but that of j, which starts after j: sum_i b_i - b_j
//   broadcast       every link but that into the root: b
//   reduce          every link but that out of the root: b
// A piece passes n - 1 links one after the other; of a ring through m > 1 islands m are between islands, all on the way
// of the slowest piece unless every hop is:
//   t = launch + (n - 1 - m) intra + m inter + max over links of bytes / bandwidth
// Even blocks, S = sum b_i: (n - 1)/n S / B, hence the busbw factors of nccl-tests (doc/PERFORMANCE.md): (n - 1)/n for
// all_gather and reduce_scatter, 1 for broadcast and reduce.
// Source: Patarasuk & Yuan, Bandwidth optimal all-reduce algorithms for clusters of workstations, JPDC 69 (2009).
//
// Per root, all_gather and reduce_scatter are n broadcasts or reduces in turn: t = sum over roots of (launch + ... + b
// / B), n/(n - 1) times the bytes of the ring on every link.
//
// Direct forms of the first two: every pair one flow, as uneven exchanges written with grouped send/recv do.
#include <algorithm>

#include "sim/collectives/group.hpp"

namespace moesim::sim {

namespace {

Picoseconds around(const Group& group) {
  const auto n = static_cast<std::int64_t>(group.size());
  const auto islands = static_cast<std::int64_t>(group.islands().size());
  if (n <= 1) return {};
  const std::int64_t inter = islands == 1 ? 0 : std::min(islands, n - 1);
  return group.steps(n - 1 - inter, inter);
}

// bytes(r, from, to): what ring r carries on its link between two places.
template <class F>
std::vector<Stage> on_rings(const Group& group, F bytes) {
  FlowList flows(group);
  const std::vector<Ring> all = rings(group);
  for (std::size_t r = 0; r < all.size(); ++r) {
    const std::vector<std::size_t>& ring = all[r].places;
    for (std::size_t k = 0; k < ring.size(); ++k) {
      const std::size_t next = ring[(k + 1) % ring.size()];
      flows.add(ring[k], next, bytes(all, r, ring[k], next));
    }
  }
  return {std::move(flows).stage(around(group), 1)};
}

// Every block but one member's.
template <class F>
std::vector<Stage> all_but(const Group& group, F whose) {
  std::vector<Bytes> block;
  block.reserve(group.size());
  for (std::size_t i = 0; i < group.size(); ++i) block.push_back(group.contribution(i));
  return on_rings(group, [&](const std::vector<Ring>& all, std::size_t r, std::size_t from, std::size_t to) {
    Bytes sum;
    for (std::size_t i = 0; i < block.size(); ++i)
      if (i != whose(from, to)) sum += part(block[i], all, r);
    return sum;
  });
}

template <class F>
std::vector<Stage> every_pair(const Group& group, F owner) {
  FlowList flows(group);
  for (std::size_t i = 0; i < group.size(); ++i)
    for (std::size_t j = 0; j < group.size(); ++j) flows.add(i, j, group.contribution(owner(i, j)));
  return {std::move(flows).stage(group.islands().size() > 1 ? group.steps(0, 1) : group.steps(1, 0))};
}

std::vector<Stage> broadcast_from(const Group& group, std::size_t root) {
  const Bytes bytes = group.contribution(root);
  return on_rings(group, [&](const std::vector<Ring>& all, std::size_t r, std::size_t, std::size_t to) {
    return to == root ? Bytes() : part(bytes, all, r);
  });
}
std::vector<Stage> reduce_to(const Group& group, std::size_t root) {
  const Bytes bytes = group.contribution(root);
  return on_rings(group, [&](const std::vector<Ring>& all, std::size_t r, std::size_t from, std::size_t) {
    return from == root ? Bytes() : part(bytes, all, r);
  });
}

// One after the other; each after the first is a launch of its own.
std::vector<Stage> for_every_root(const Group& group, std::vector<Stage> (*one)(const Group&, std::size_t)) {
  std::vector<Stage> out;
  for (std::size_t root = 0; root < group.size(); ++root)
    for (Stage& stage : one(group, root)) {
      if (root > 0) stage.latency += group.costs().launch;
      out.push_back(std::move(stage));
    }
  return out;
}

}  // namespace

std::vector<Stage> all_gather_ring(const Group& group) {
  return all_but(group, [](std::size_t, std::size_t to) { return to; });
}
std::vector<Stage> reduce_scatter_ring(const Group& group) {
  return all_but(group, [](std::size_t from, std::size_t) { return from; });
}
std::vector<Stage> all_gather_direct(const Group& group) {
  return every_pair(group, [](std::size_t from, std::size_t) { return from; });
}
std::vector<Stage> reduce_scatter_direct(const Group& group) {
  return every_pair(group, [](std::size_t, std::size_t to) { return to; });
}

std::vector<Stage> broadcast_ring(const Group& group) {
  return broadcast_from(group, static_cast<std::size_t>(group.collective().root));
}
std::vector<Stage> reduce_ring(const Group& group) {
  return reduce_to(group, static_cast<std::size_t>(group.collective().root));
}
std::vector<Stage> all_gather_per_root(const Group& group) { return for_every_root(group, broadcast_from); }
std::vector<Stage> reduce_scatter_per_root(const Group& group) { return for_every_root(group, reduce_to); }

}  // namespace moesim::sim
