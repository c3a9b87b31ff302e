#include "strategies/placement/eplb.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "moesim/error.hpp"

namespace moesim::placement {

namespace {

using Packs = std::vector<std::vector<std::size_t>>;  // items of each pack, in the order they were put in

Packs balanced_packing(const std::vector<float>& weight, std::size_t packs) {
  Packs out(packs);
  const std::size_t room = weight.size() / packs;
  if (room == 1) {
    for (std::size_t i = 0; i < packs; ++i) out[i] = {i};
    return out;
  }
  std::vector<std::size_t> order(weight.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return weight[a] > weight[b]; });
  std::vector<float> load(packs);
  for (const std::size_t item : order) {
    std::size_t lightest = packs;
    for (std::size_t p = 0; p < packs; ++p)
      if (out[p].size() < room && (lightest == packs || load[p] < load[lightest])) lightest = p;
    out[lightest].push_back(item);
    load[lightest] += weight[item];
  }
  return out;
}

// The expert of every replica: one each in order, then one more for the largest share, `slots` in all.
std::vector<std::size_t> replicate(const std::vector<float>& weight, std::size_t slots, std::vector<float>& count) {
  count.assign(weight.size(), 1.0F);
  std::vector<std::size_t> expert(weight.size());
  std::iota(expert.begin(), expert.end(), std::size_t{0});
  while (expert.size() < slots) {
    std::size_t largest = 0;
    for (std::size_t e = 1; e < weight.size(); ++e)
      if (weight[e] / count[e] > weight[largest] / count[largest]) largest = e;
    expert.push_back(largest);
    count[largest] += 1;
  }
  return expert;
}

}  // namespace

EplbPolicy eplb_policy(int groups, int nodes) {
  return groups % nodes == 0 ? EplbPolicy::hierarchical : EplbPolicy::global;
}

ExpertPlacement eplb(std::span<const double> loads, const ClusterShape& shape, int groups) {
  const bool hierarchical = eplb_policy(groups, shape.nodes) == EplbPolicy::hierarchical;
  const int experts = static_cast<int>(loads.size());
  if (hierarchical && experts % groups != 0)
    throw InputError({},
                     fmt::format("eplb: {} experts in {} groups: groups of equal size are needed", experts, groups));
  if (shape.gpus % shape.nodes != 0)
    throw InputError({}, fmt::format("eplb: {} GPUs on {} nodes: equal numbers are needed", shape.gpus, shape.nodes));
  if (shape.slots() < experts)
    throw InputError({}, fmt::format("eplb: {} slots for {} experts", shape.slots(), experts));

  const auto nodes = static_cast<std::size_t>(hierarchical ? shape.nodes : 1);
  const auto group_count = static_cast<std::size_t>(hierarchical ? groups : 1);
  const std::size_t group_size = loads.size() / group_count;
  const auto gpus = static_cast<std::size_t>(shape.gpus) / nodes;
  const auto slots = static_cast<std::size_t>(shape.slots()) / nodes;

  std::vector<float> group_weight(group_count);
  for (std::size_t e = 0; e < loads.size(); ++e) group_weight[e / group_size] += static_cast<float>(loads[e]);

  ExpertPlacement map;
  for (const auto& node_groups : balanced_packing(group_weight, nodes)) {
    std::vector<std::size_t> local;  // the node's experts, by their number on the node
    for (const std::size_t g : node_groups)
      for (std::size_t i = 0; i < group_size; ++i) local.push_back(g * group_size + i);
    std::vector<float> weight;
    for (const std::size_t e : local) weight.push_back(static_cast<float>(loads[e]));
    std::vector<float> count;
    const std::vector<std::size_t> replica = replicate(weight, slots, count);
    std::vector<float> share;
    for (const std::size_t r : replica) share.push_back(weight[r] / count[r]);
    for (const auto& gpu : balanced_packing(share, gpus)) {
      for (const std::size_t r : gpu) map.expert_of_slot.emplace_back(local[replica[r]]);
      map.slot_begin.push_back(map.slots());
    }
  }
  return map;
}

namespace {

bool holds(const ExpertPlacement& map, int gpu, LogicalExpert expert) {
  const auto first = map.expert_of_slot.begin();
  return std::find(first + map.slot_begin[Rank(gpu).index()], first + map.slot_begin[Rank(gpu).index() + 1], expert) !=
         first + map.slot_begin[Rank(gpu).index() + 1];
}

}  // namespace

int distinct_replicas(ExpertPlacement& map, std::span<const double> loads, const ClusterShape& shape) {
  std::vector<int> count(loads.size());
  for (const LogicalExpert e : map.expert_of_slot) ++count[e.index()];
  const auto share = [&](LogicalExpert e) { return loads[e.index()] / count[e.index()]; };
  int exchanges = 0;
  for (int g = 0; g < map.ranks(); ++g)
    for (int s = map.slot_begin[Rank(g).index()]; s < map.slot_begin[Rank(g).index() + 1]; ++s) {
      LogicalExpert& here = map.expert_of_slot[PhysicalExpert(s).index()];
      const auto first = map.expert_of_slot.begin();
      if (std::find(first + map.slot_begin[Rank(g).index()], first + s, here) == first + s) continue;
      ++exchanges;
      // The nearest and closest in weight where both GPUs then hold distinct experts.
      LogicalExpert* best = nullptr;
      std::pair best_rank{false, 0.0};
      for (int h = 0; h < map.ranks(); ++h) {
        if (h == g || holds(map, h, here)) continue;
        for (int t = map.slot_begin[Rank(h).index()]; t < map.slot_begin[Rank(h).index() + 1]; ++t) {
          LogicalExpert& there = map.expert_of_slot[PhysicalExpert(t).index()];
          if (holds(map, g, there)) continue;
          const std::pair rank{shape.node_of(g) != shape.node_of(h), std::abs(share(there) - share(here))};
          if (best != nullptr && rank >= best_rank) continue;
          best = &there;
          best_rank = rank;
        }
      }
      if (best != nullptr) {
        std::swap(here, *best);
        continue;
      }
      LogicalExpert other;  // no GPU lacks this expert, or none has anything to give: another replica instead
      for (std::size_t e = 0; e < loads.size(); ++e)
        if (!holds(map, g, LogicalExpert(e)) && (!other.valid() || share(LogicalExpert(e)) > share(other)))
          other = LogicalExpert(e);
      if (!other.valid()) continue;  // the GPU has more slots than there are experts
      --count[here.index()];
      ++count[other.index()];
      here = other;
    }
  return exchanges;
}

}  // namespace moesim::placement
