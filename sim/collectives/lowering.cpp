// Which algorithm carries which collective.
#include "sim/collectives/lowering.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "moesim/error.hpp"
#include "sim/collectives/group.hpp"

namespace moesim::sim {

Picoseconds least_time(const std::vector<Stage>& stages, const Topology& topology) {
  Picoseconds total;
  std::vector<double> bytes(topology.links().size());
  for (const Stage& stage : stages) {
    std::ranges::fill(bytes, 0);
    double seconds = 0;
    for (const Flow& f : stage.flows) {
      if (f.cap.value() > 0) seconds = std::max(seconds, static_cast<double>(f.bytes.value()) / f.cap.value());
      for (const LinkId l : topology.route(f.from, f.to)) bytes[l.index()] += static_cast<double>(f.bytes.value());
    }
    for (std::size_t l = 0; l < bytes.size(); ++l)
      seconds = std::max(seconds, bytes[l] / topology.links()[l].capacity.value());
    total += stage.latency + Picoseconds(static_cast<std::int64_t>(seconds * 1e12));
  }
  return total;
}

namespace {

using Algorithm = Collective::Algorithm;

[[noreturn]] void unsupported(const Collective& c, const char* known) {
  throw InputError({}, fmt::format("{} has no such algorithm", to_string(c.kind)),
                   fmt::format("one of: automatic, {}", known));
}

// NCCL picks by its tuning tables; here it is the form that the same cost terms say is fastest alone.
std::vector<Stage> fastest_all_reduce(const Group& group) {
  const Topology& topology = *group.cluster().topology;
  std::vector<Stage> best = all_reduce_ring(group);
  Picoseconds least = least_time(best, topology);
  const auto consider = [&](std::vector<Stage> other) {
    if (const Picoseconds t = least_time(other, topology); t < least) {
      least = t;
      best = std::move(other);
    }
  };
  consider(all_reduce_tree(group));
  if (group.costs().in_switch > 0) consider(all_reduce_in_switch(group));
  return best;
}

std::vector<Stage> all_reduce(const Group& group) {
  switch (group.collective().algorithm) {
    case Algorithm::automatic:
      return fastest_all_reduce(group);
    case Algorithm::ring:
      return all_reduce_ring(group);
    case Algorithm::tree:
      return all_reduce_tree(group);
    case Algorithm::in_switch:
      return all_reduce_in_switch(group);
    case Algorithm::direct:
    case Algorithm::hierarchical:
    case Algorithm::per_root:
      break;
  }
  unsupported(group.collective(), "ring, tree, in_switch");
}

std::vector<Stage> all_to_all(const Group& group) {
  switch (group.collective().algorithm) {
    case Algorithm::automatic:
      return group.collective().island_rows.valid() ? all_to_all_hierarchical(group) : all_to_all_direct(group);
    case Algorithm::direct:
      return all_to_all_direct(group);
    case Algorithm::hierarchical:
      return all_to_all_hierarchical(group);
    case Algorithm::ring:
    case Algorithm::tree:
    case Algorithm::in_switch:
    case Algorithm::per_root:
      break;
  }
  unsupported(group.collective(), "direct, hierarchical");
}

using Form = std::vector<Stage> (*)(const Group&);

// Ring unless something else is asked for; forms that do not exist are nullptr.
std::vector<Stage> ring_or(const Group& group, Form ring, Form direct, Form per_root) {
  switch (group.collective().algorithm) {
    case Algorithm::automatic:
    case Algorithm::ring:
      return ring(group);
    case Algorithm::direct:
      if (direct != nullptr) return direct(group);
      break;
    case Algorithm::per_root:
      if (per_root != nullptr) return per_root(group);
      break;
    case Algorithm::hierarchical:
    case Algorithm::tree:
    case Algorithm::in_switch:
      break;
  }
  unsupported(group.collective(), direct != nullptr ? "ring, direct, per_root" : "ring");
}

std::vector<Stage> only(const Group& group, Form form) {
  const Algorithm a = group.collective().algorithm;
  if (a != Algorithm::automatic && a != Algorithm::direct) unsupported(group.collective(), "direct");
  return form(group);
}

}  // namespace

std::vector<Stage> lower(const Plan& plan, const Collective& collective, std::size_t index, const Cluster& cluster) {
  using Kind = Collective::Kind;
  const Group group(plan, collective, index, cluster);
  if (group.size() < 2) return {};
  if (std::vector<Stage> known = measured(group); !known.empty()) return known;
  switch (collective.kind) {
    case Kind::all_to_all_v:
      return all_to_all(group);
    case Kind::send_recv:
      return only(group, all_to_all_direct);
    case Kind::all_gather_v:
      return ring_or(group, all_gather_ring, all_gather_direct, all_gather_per_root);
    case Kind::reduce_scatter_v:
      return ring_or(group, reduce_scatter_ring, reduce_scatter_direct, reduce_scatter_per_root);
    case Kind::all_reduce:
      return all_reduce(group);
    case Kind::broadcast:
      return ring_or(group, broadcast_ring, nullptr, nullptr);
    case Kind::reduce:
      return ring_or(group, reduce_ring, nullptr, nullptr);
    case Kind::sparse_all_gather:
      return only(group, sparse_all_gather);
    case Kind::sparse_reduce_scatter:
      return only(group, sparse_reduce_scatter);
  }
  throw std::logic_error("unknown collective");
}

}  // namespace moesim::sim
