#include "strategies/placement/local_search.hpp"

#include <algorithm>
#include <cassert>
#include <numeric>
#include <optional>
#include <queue>

#include "strategies/placement/balance.hpp"
#include "strategies/placement/packing.hpp"

namespace moesim::placement {

namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

struct Layer {
  std::span<const double> loads;
  const ClusterShape& shape;
  const SearchOptions& options;
  std::vector<int> by_load;     // experts by falling load
  std::vector<double> coldest;  // [m]: sum of the m coldest

  Layer(std::span<const double> l, const ClusterShape& s, const SearchOptions& o)
      : loads(l), shape(s), options(o), by_load(l.size()), coldest(l.size() + 1) {
    std::iota(by_load.begin(), by_load.end(), 0);
    std::stable_sort(by_load.begin(), by_load.end(), [&](int a, int b) { return loads[at(a)] > loads[at(b)]; });
    for (std::size_t m = 0; m < l.size(); ++m) coldest[m + 1] = coldest[m] + loads[at(by_load[l.size() - 1 - m])];
  }
  [[nodiscard]] int experts() const { return static_cast<int>(loads.size()); }
  [[nodiscard]] int node_slots() const { return shape.gpus_per_node() * shape.slots_per_gpu; }
  [[nodiscard]] double node_mean() const { return coldest.back() / shape.nodes; }
  [[nodiscard]] bool local() const { return options.dispatch == Dispatch::local_first; }
  [[nodiscard]] bool grouped() const {
    return options.groups > 1 && shape.nodes > 1 && options.groups % shape.nodes == 0 &&
           experts() % options.groups == 0;
  }
  // The next number of replicas above c whose shares are equal under local_first dispatch; any number is under even.
  [[nodiscard]] int next_count(int c) const {
    return !local() || c < shape.nodes ? c + 1 : (c / shape.nodes + 1) * shape.nodes;
  }
};

using Counts = std::vector<int>;  // [experts] replicas

// The fewest replicas with which a share, and the coldest company it can have, stay below `ceiling`. Nothing where that
// takes more slots than there are.
std::optional<Counts> required_counts(const Layer& layer, double ceiling) {
  Counts count(layer.loads.size(), 1);
  int left = layer.shape.slots() - layer.experts();
  for (const int e : layer.by_load) {
    const auto too_full = [&](int c) {
      const int company = std::min(layer.experts(), c * (layer.shape.slots_per_gpu - 1));
      return (layer.loads[at(e)] + layer.coldest[at(company)]) / c > ceiling;
    };
    int c = 1;
    while (too_full(c)) {
      c = layer.next_count(c);
      if (c > layer.shape.gpus || c - 1 > left) return std::nullopt;
    }
    if (c == 1) break;  // colder ones need no more
    left -= c - 1;
    count[at(e)] = c;
  }
  return count;
}

// One more replica for the largest share, again and again, while there are slots and `limit` allows it.
template <class Next>
void add_to_largest(const Layer& layer, Counts& count, int& left, int limit, Next&& next) {
  std::priority_queue<std::pair<double, int>> heap;  // share, -expert: ties go to the lower id
  for (const int e : layer.by_load) heap.emplace(layer.loads[at(e)] / count[at(e)], -e);
  while (left > 0 && !heap.empty()) {
    const int e = -heap.top().second;
    heap.pop();
    const int c = next(count[at(e)]);
    if (c > limit || c - count[at(e)] > left) continue;
    left -= c - count[at(e)];
    count[at(e)] = c;
    heap.emplace(layer.loads[at(e)] / c, -e);
  }
}

std::vector<Replica> replicas_on(const Layer& layer, const Counts& count, const std::vector<std::vector<int>>& nodes) {
  std::vector<Replica> out;
  for (int e = 0; e < layer.experts(); ++e)
    for (const int n : nodes[at(e)]) out.push_back({e, n, layer.loads[at(e)] / count[at(e)]});
  return out;
}

// ---- without groups -----------------------------------------------------------------------------------------------

// What balance leaves over goes where it keeps most tokens on their node, then to the largest shares.
void use_all_slots(const Layer& layer, Counts& count) {
  int left = layer.shape.slots() - std::accumulate(count.begin(), count.end(), 0);
  if (layer.local())
    for (const int e : layer.by_load) {
      const int more = std::clamp(layer.shape.nodes - count[at(e)], 0, left);
      count[at(e)] += more;
      left -= more;
    }
  add_to_largest(layer, count, left, layer.shape.gpus, [&](int c) { return layer.next_count(c); });
  add_to_largest(layer, count, left, layer.shape.gpus, [](int c) { return c + 1; });
  assert(left == 0);
}

// Replicas of one expert spread over the nodes, heaviest first to the least loaded node with room.
std::vector<Replica> spread_over_nodes(const Layer& layer, const Counts& count) {
  std::vector<int> order(layer.by_load);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return layer.loads[at(a)] / count[at(a)] > layer.loads[at(b)] / count[at(b)]; });
  std::stable_partition(order.begin(), order.end(), [&](int e) { return count[at(e)] > 1; });
  std::vector<int> room(at(layer.shape.nodes), layer.node_slots());
  std::vector<double> load(at(layer.shape.nodes));
  std::vector<std::vector<int>> nodes(layer.loads.size());
  for (const int e : order) {
    std::vector<int> here(at(layer.shape.nodes));
    for (int i = 0; i < count[at(e)]; ++i) {
      int best = -1;
      for (int n = 0; n < layer.shape.nodes; ++n) {
        if (room[at(n)] == 0 || here[at(n)] == layer.shape.gpus_per_node()) continue;
        if (best < 0 || std::pair(here[at(n)], load[at(n)]) < std::pair(here[at(best)], load[at(best)])) best = n;
      }
      assert(best >= 0);
      --room[at(best)];
      ++here[at(best)];
      load[at(best)] += layer.loads[at(e)] / count[at(e)];
      nodes[at(e)].push_back(best);
    }
  }
  return replicas_on(layer, count, nodes);
}

// ---- with groups --------------------------------------------------------------------------------------------------

// The node of every group: equal numbers of groups, loads as even as they get. Under local_first the hottest experts,
// as many as the spare slots can put on every node, weigh the same everywhere.
std::vector<int> home_nodes(const Layer& layer) {
  const int groups = layer.options.groups;
  const int size = layer.experts() / groups;
  std::vector<Replica> items;
  for (int g = 0; g < groups; ++g) items.push_back({g, 0, 0.0});
  const int everywhere =
      layer.local() ? (layer.shape.slots() - layer.experts()) / std::max(1, layer.shape.nodes - 1) : 0;
  for (std::size_t i = at(everywhere); i < layer.by_load.size(); ++i)
    items[at(layer.by_load[i] / size)].weight += layer.loads[at(layer.by_load[i])];
  Packing packing(groups, {.gpus = layer.shape.nodes, .nodes = 1, .slots_per_gpu = groups / layer.shape.nodes});
  packing.fill(items);
  packing.lower(0, NodeRule::free);
  const ExpertPlacement map = packing.placement();
  std::vector<int> home(layer.loads.size());
  for (int n = 0; n < layer.shape.nodes; ++n)
    for (int s = map.slot_begin[at(n)]; s < map.slot_begin[at(n) + 1]; ++s)
      for (int i = 0; i < size; ++i) home[at(map.expert_of_slot[at(s)].value() * size + i)] = n;
  return home;
}

// local_first: each expert at home, the required replicas on further nodes, then the hottest on every node with room.
std::vector<Replica> replicate_outward(const Layer& layer, const Counts& required, const std::vector<int>& home) {
  std::vector<int> room(at(layer.shape.nodes), layer.node_slots() - layer.experts() / layer.shape.nodes);
  std::vector<std::vector<int>> nodes(layer.loads.size());
  Counts count(layer.loads.size(), 1);
  for (int e = 0; e < layer.experts(); ++e) nodes[at(e)] = {home[at(e)]};
  const auto copies = [&](int e, int n) {
    return static_cast<int>(std::count(nodes[at(e)].begin(), nodes[at(e)].end(), n));
  };
  const auto add = [&](int e, int most_on_a_node) {
    int best = -1;
    for (int n = 0; n < layer.shape.nodes; ++n)
      if (room[at(n)] > 0 && copies(e, n) < most_on_a_node &&
          (best < 0 || std::pair(copies(e, n), -room[at(n)]) < std::pair(copies(e, best), -room[at(best)])))
        best = n;
    if (best < 0) return false;
    --room[at(best)];
    ++count[at(e)];
    nodes[at(e)].push_back(best);
    return true;
  };
  for (const int e : layer.by_load)
    while (count[at(e)] < required[at(e)] && add(e, layer.shape.gpus_per_node())) {
    }
  for (int most = 1; most <= layer.shape.gpus_per_node(); ++most)
    for (const int e : layer.by_load)
      while (add(e, most)) {
      }
  return replicas_on(layer, count, nodes);
}

// even: replicas stay at home, so that a token's experts stay on one node; largest shares first. Room that a node
// cannot fill with distinct replicas of its own goes to the largest shares of others.
std::vector<Replica> replicate_at_home(const Layer& layer, const std::vector<int>& home) {
  Counts count(layer.loads.size(), 1);
  std::vector<std::vector<int>> nodes(layer.loads.size());
  for (int e = 0; e < layer.experts(); ++e) nodes[at(e)] = {home[at(e)]};
  for (const bool own : {true, false})
    for (int n = 0; n < layer.shape.nodes; ++n) {
      int room = layer.node_slots();
      std::priority_queue<std::pair<double, int>> heap;  // share, -expert
      for (const int e : layer.by_load) {
        room -= static_cast<int>(std::count(nodes[at(e)].begin(), nodes[at(e)].end(), n));
        if (!own || home[at(e)] == n) heap.emplace(layer.loads[at(e)] / count[at(e)], -e);
      }
      while (room > 0 && !heap.empty()) {
        const int e = -heap.top().second;
        heap.pop();
        if (std::count(nodes[at(e)].begin(), nodes[at(e)].end(), n) == layer.shape.gpus_per_node()) continue;
        --room;
        nodes[at(e)].push_back(n);
        heap.emplace(layer.loads[at(e)] / ++count[at(e)], -e);
      }
    }
  return replicas_on(layer, count, nodes);
}

// Exchanges replicas between the fullest node and another until none exceeds `target`, each time the exchange that
// takes the least load away from its group per load moved. Replicas of an expert that is on every node do not move.
void balance_nodes(const Layer& layer, const std::vector<int>& home, double target, std::vector<Replica>& replicas) {
  const int nodes = layer.shape.nodes;
  std::vector<double> load(at(nodes));
  std::vector<int> on_node(layer.loads.size() * at(nodes));
  const auto copies = [&](int e, int n) -> int& { return on_node[at(e) * at(nodes) + at(n)]; };
  for (const Replica& r : replicas) {
    load[at(r.node)] += r.weight;
    ++copies(r.expert, r.node);
  }
  std::stable_sort(replicas.begin(), replicas.end(), [](auto& a, auto& b) { return a.weight > b.weight; });
  const int most = layer.local() ? 1 : layer.shape.gpus_per_node();
  const auto strayed = [&](const Replica& r, int to) {  // load that leaves (or, negative, rejoins) its group
    return (home[at(r.expert)] == r.node ? r.weight : 0) - (home[at(r.expert)] == to ? r.weight : 0);
  };
  for (std::size_t step = 0; step < replicas.size(); ++step) {
    const int a = static_cast<int>(std::max_element(load.begin(), load.end()) - load.begin());
    if (load[at(a)] <= target) return;
    Replica* give = nullptr;
    Replica* take = nullptr;
    double best = 0;
    for (int b = 0; b < nodes; ++b) {
      if (load[at(b)] >= layer.node_mean()) continue;
      const double useful = std::min(load[at(a)], load[at(b)] + load[at(a)] - layer.node_mean()) - load[at(b)];
      const auto cold = std::find_if(replicas.rbegin(), replicas.rend(),
                                     [&](const Replica& r) { return r.node == b && copies(r.expert, a) < most; });
      if (cold == replicas.rend()) continue;
      for (Replica& r : replicas) {
        const double shift = r.weight - cold->weight;
        if (shift <= 0) break;  // by falling weight
        if (r.node != a || copies(r.expert, b) >= most || r.expert == cold->expert) continue;
        if (load[at(b)] + shift >= load[at(a)]) continue;
        const double cost = strayed(r, b) + strayed(*cold, a) + 1e-3 * layer.node_mean() / nodes;
        const double gain = std::min(shift, useful) / std::max(cost, 1e-9 * layer.node_mean());
        if (gain > best) {
          best = gain;
          give = &r;
          take = &*cold;
        }
      }
    }
    if (give == nullptr) return;
    const int b = take->node;
    for (const auto& [r, to] : {std::pair(give, b), std::pair(take, a)}) {
      --copies(r->expert, r->node);
      ++copies(r->expert, to);
      load[at(r->node)] -= r->weight;
      load[at(to)] += r->weight;
      r->node = to;
    }
  }
}

std::optional<std::vector<Replica>> propose(const Layer& layer, double ceiling, double target) {
  if (!layer.grouped()) {
    auto count = required_counts(layer, ceiling);
    if (!count) return std::nullopt;
    use_all_slots(layer, *count);
    return spread_over_nodes(layer, *count);
  }
  const std::vector<int> home = home_nodes(layer);
  std::vector<Replica> replicas;
  if (layer.local()) {
    const auto count = required_counts(layer, ceiling);
    if (!count) return std::nullopt;
    replicas = replicate_outward(layer, *count, home);
  } else {
    replicas = replicate_at_home(layer, home);
  }
  balance_nodes(layer, home, target * layer.shape.gpus_per_node(), replicas);
  return replicas;
}

// Balance alone: EPLB's replica counts, whatever they do to the shares.
Counts balanced_counts(const Layer& layer) {
  Counts count(layer.loads.size(), 1);
  int left = layer.shape.slots() - layer.experts();
  add_to_largest(layer, count, left, layer.shape.gpus, [](int c) { return c + 1; });
  return count;
}

// The best map so far, by the fullest GPU under the dispatch asked for.
struct Best {
  ExpertPlacement map;
  double load = 0;

  // Whether `replicas`, packed, are better; they are kept then.
  bool offer(const Layer& layer, const std::vector<Replica>& replicas, double target, NodeRule rule) {
    Packing packing(layer.experts(), layer.shape);
    packing.fill(replicas);
    if (layer.grouped()) packing.lower(target, NodeRule::stay);
    packing.lower(target, rule);
    ExpertPlacement fresh = packing.placement();
    const std::vector<double> work = gpu_loads(layer.loads, fresh, layer.shape, layer.options.dispatch);
    const double fullest = *std::max_element(work.begin(), work.end());
    if (map.slots() > 0 && fullest >= load * (1 - 1e-12)) return false;
    map = std::move(fresh);
    load = fullest;
    return true;
  }
};

// One replica more for an expert (those of the fullest GPU first: the others make company for hot ones), one less for
// another, packed anew: as often as that helps and the work is small beside the search so far.
void recount(const Layer& layer, double target, Best& best) {
  int trials = std::min(200, 4000 / layer.shape.slots());
  for (bool better = true; better && best.load > target;) {
    better = false;
    Counts count(layer.loads.size());
    for (const LogicalExpert e : best.map.expert_of_slot) ++count[e.index()];
    const std::vector<double> work = gpu_loads(layer.loads, best.map, layer.shape, layer.options.dispatch);
    const auto fullest = at(static_cast<int>(std::max_element(work.begin(), work.end()) - work.begin()));
    std::vector<int> donors;
    for (const int e : layer.by_load)
      if (count[at(e)] > 1) donors.push_back(e);
    std::stable_sort(donors.begin(), donors.end(), [&](int a, int b) {
      return layer.loads[at(a)] / (count[at(a)] - 1) < layer.loads[at(b)] / (count[at(b)] - 1);
    });
    std::vector<bool> here(layer.loads.size());
    for (int s = best.map.slot_begin[fullest]; s < best.map.slot_begin[fullest + 1]; ++s)
      here[best.map.expert_of_slot[at(s)].index()] = true;
    std::vector<int> receivers(layer.by_load);
    std::stable_partition(receivers.begin(), receivers.end(), [&](int e) { return here[at(e)]; });
    for (const int e : receivers) {
      if (better) break;
      if (count[at(e)] == layer.shape.gpus) continue;
      for (const int donor : donors) {
        if (donor == e) continue;
        if (trials-- == 0) return;
        Counts changed = count;
        ++changed[at(e)];
        --changed[at(donor)];
        better = best.offer(layer, spread_over_nodes(layer, changed), target, NodeRule::free);
        if (better) break;
      }
    }
  }
}

}  // namespace

ExpertPlacement search_layer(std::span<const double> loads, const ClusterShape& shape, const SearchOptions& options) {
  assert(shape.slots() >= static_cast<int>(loads.size()) && shape.slots_per_gpu <= static_cast<int>(loads.size()));
  const Layer layer(loads, shape, options);
  const double target = lower_bound(loads, shape) * (1 + options.tolerance);
  Best best;
  // A lower ceiling on shares takes more slots for balance and leaves fewer for traffic: the first that works is best.
  for (const double ceiling : {1.0, 0.85, 0.7, 0.55, 0.4}) {
    const auto replicas = propose(layer, ceiling * target, target);
    if (!replicas) break;
    best.offer(layer, *replicas, target, layer.local() ? NodeRule::spread : NodeRule::free);
    if (best.load <= target) return best.map;
    if (!layer.local()) break;  // the ceiling changes nothing
  }
  best.offer(layer, spread_over_nodes(layer, balanced_counts(layer)), target, NodeRule::free);
  recount(layer, target, best);
  return best.map;
}

}  // namespace moesim::placement
