#include "strategies/placement/moving.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "moesim/error.hpp"
#include "strategies/placement/assignment.hpp"

namespace moesim::placement {

namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

std::vector<std::vector<int>> experts_by_gpu(const ExpertPlacement& map) {
  std::vector<std::vector<int>> out(at(map.ranks()));
  for (int g = 0; g < map.ranks(); ++g)
    for (int s = map.slot_begin[at(g)]; s < map.slot_begin[at(g) + 1]; ++s)
      out[at(g)].push_back(map.expert_of_slot[at(s)].value());
  return out;
}

bool contains(const std::vector<int>& experts, int e) {
  return std::find(experts.begin(), experts.end(), e) != experts.end();
}

int highest_expert(const ExpertPlacement& map) {
  int highest = -1;
  for (const LogicalExpert e : map.expert_of_slot) highest = std::max(highest, e.value());
  return highest;
}

void check(const LayerMaps& from, const LayerMaps& to, const ClusterShape& shape) {
  if (from.size() != to.size())
    throw InputError({}, fmt::format("a map of {} MoE layers and one of {}", from.size(), to.size()),
                     "maps of one model have the same number of layers");
  for (std::size_t l = 0; l < from.size(); ++l) {
    if (from[l].ranks() != shape.gpus || to[l].ranks() != shape.gpus)
      throw InputError(
          {}, fmt::format("maps for {} and {} GPUs on a cluster of {}", from[l].ranks(), to[l].ranks(), shape.gpus));
    if (highest_expert(from[l]) != highest_expert(to[l]))
      throw InputError({},
                       fmt::format("MoE layer {}: a map of {} experts and one of {}", l, highest_expert(from[l]) + 1,
                                   highest_expert(to[l]) + 1),
                       "the maps are of different models");
  }
}

}  // namespace

Moving moving(const LayerMaps& from, const LayerMaps& to, const ClusterShape& shape, Bytes expert_bytes) {
  check(from, to, shape);
  Moving out;
  out.experts.resize(at(shape.gpus) * at(shape.gpus));
  std::vector<std::int64_t> sent(at(shape.gpus));
  for (std::size_t l = 0; l < from.size(); ++l) {
    const auto before = experts_by_gpu(from[l]);
    const auto after = experts_by_gpu(to[l]);
    std::vector<std::vector<int>> holders(at(highest_expert(from[l]) + 1));
    for (int g = 0; g < shape.gpus; ++g)
      for (const int e : before[at(g)]) holders[at(e)].push_back(g);
    for (int g = 0; g < shape.gpus; ++g)
      for (const int e : after[at(g)]) {
        if (contains(before[at(g)], e)) {
          ++out.kept;
          continue;
        }
        const auto rank = [&](int h) { return std::pair(shape.node_of(h) != shape.node_of(g), sent[at(h)]); };
        const int source = *std::min_element(holders[at(e)].begin(), holders[at(e)].end(),
                                             [&](int a, int b) { return rank(a) < rank(b); });
        ++sent[at(source)];
        ++out.experts[at(source) * at(shape.gpus) + at(g)];
        ++out.moved;
      }
  }
  out.total = expert_bytes * out.moved;

  // [gpu][near, far]: experts sent and received.
  std::vector<std::array<std::int64_t, 2>> out_of(at(shape.gpus));
  std::vector<std::array<std::int64_t, 2>> into(at(shape.gpus));
  for (int a = 0; a < shape.gpus; ++a)
    for (int b = 0; b < shape.gpus; ++b) {
      const std::size_t far = shape.node_of(a) != shape.node_of(b) ? 1 : 0;
      const std::int64_t n = out.experts[at(a) * at(shape.gpus) + at(b)];
      out_of[at(a)][far] += n;
      into[at(b)][far] += n;
      if (far == 1) out.between_nodes += expert_bytes * n;
    }
  for (int g = 0; g < shape.gpus; ++g) {
    out.time = std::max(out.time, expert_bytes * std::max(out_of[at(g)][0], into[at(g)][0]) / shape.intra);
    out.time = std::max(out.time, expert_bytes * std::max(out_of[at(g)][1], into[at(g)][1]) / shape.inter);
  }
  return out;
}

LayerMaps align(const LayerMaps& map, const LayerMaps& reference, const ClusterShape& shape) {
  check(reference, map, shape);
  const int per_node = shape.gpus_per_node();
  const double far = shape.intra / shape.inter;
  LayerMaps out;
  for (std::size_t l = 0; l < map.size(); ++l) {
    const auto old = experts_by_gpu(reference[l]);
    const auto fresh = experts_by_gpu(map[l]);
    const auto on_node = [&](int node, int e) {
      for (int g = node * per_node; g < (node + 1) * per_node; ++g)
        if (contains(old[at(g)], e)) return true;
      return false;
    };
    // inner(a, b): where the GPUs of the new node a go when it takes the place of node b.
    const auto inner = [&](int a, int b) {
      Matrix cost(per_node, per_node);
      for (int i = 0; i < per_node; ++i)
        for (const int e : fresh[at(a * per_node + i)])
          for (int j = 0; j < per_node; ++j)
            cost.at(i, j) += contains(old[at(b * per_node + j)], e) ? 0 : on_node(b, e) ? 1 : far;
      return cost;
    };
    Matrix nodes(shape.nodes, shape.nodes);
    for (int a = 0; a < shape.nodes; ++a)
      for (int b = 0; b < shape.nodes; ++b) {
        const Matrix cost = inner(a, b);
        const std::vector<int> place = least_total(cost);
        for (int i = 0; i < per_node; ++i) nodes.at(a, b) += cost.at(i, place[at(i)]);
      }
    const std::vector<int> node_place = least_total(nodes);
    std::vector<std::vector<int>> placed(at(shape.gpus));
    for (int a = 0; a < shape.nodes; ++a) {
      const std::vector<int> place = least_total(inner(a, node_place[at(a)]));
      for (int i = 0; i < per_node; ++i)
        placed[at(node_place[at(a)] * per_node + place[at(i)])] = fresh[at(a * per_node + i)];
    }
    ExpertPlacement renamed;
    for (const auto& experts : placed) {
      for (const int e : experts) renamed.expert_of_slot.emplace_back(e);
      renamed.slot_begin.push_back(renamed.slots());
    }
    out.push_back(std::move(renamed));
  }
  return out;
}

std::optional<std::int64_t> break_even_steps(Picoseconds move, Picoseconds before, Picoseconds after) {
  if (after >= before) return std::nullopt;
  const std::int64_t gain = (before - after).value();
  return (move.value() + gain - 1) / gain;
}

}  // namespace moesim::placement
