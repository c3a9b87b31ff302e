#include "strategies/placement/packing.hpp"

#include <algorithm>
#include <cassert>

namespace moesim::placement {

namespace {
constexpr auto heavier = [](const auto& a, const auto& b) { return a.weight > b.weight; };
}  // namespace

Packing::Packing(int experts, const ClusterShape& shape)
    : shape_(shape),
      items_(static_cast<std::size_t>(shape.gpus)),
      load_(static_cast<std::size_t>(shape.gpus)),
      on_node_(static_cast<std::size_t>(experts) * static_cast<std::size_t>(shape.nodes)),
      node_limit_(static_cast<std::size_t>(experts)) {
  for (auto& gpu : items_) gpu.reserve(static_cast<std::size_t>(shape.slots_per_gpu));
}

bool Packing::holds(int gpu, int expert) const {
  return std::any_of(items(gpu).begin(), items(gpu).end(), [&](const Item& i) { return i.expert == expert; });
}

void Packing::fill(std::span<const Replica> replicas) {
  for (const Replica& r : replicas) {
    ++on_node(r.expert, r.node);
    ++node_limit_[LogicalExpert(r.expert).index()];
  }
  for (int& limit : node_limit_) limit = (limit + shape_.nodes - 1) / shape_.nodes;
  std::vector<Replica> order(replicas.begin(), replicas.end());
  std::stable_sort(order.begin(), order.end(), heavier);
  std::stable_partition(order.begin(), order.end(), [&](const Replica& r) { return on_node(r.expert, r.node) > 1; });
  for (const Replica& r : order) place(r);
  for (auto& gpu : items_) std::stable_sort(gpu.begin(), gpu.end(), heavier);
}

void Packing::place(const Replica& replica) {
  const int first = replica.node * shape_.gpus_per_node();
  const auto lightest = [&](auto&& admits) {
    int best = -1;
    for (int g = first; g < first + shape_.gpus_per_node(); ++g)
      if (admits(g) && (best < 0 || load_[Rank(g).index()] < load_[Rank(best).index()])) best = g;
    return best;
  };
  const auto has_room = [&](int g) { return static_cast<int>(items(g).size()) < shape_.slots_per_gpu; };
  int gpu = lightest([&](int g) { return has_room(g) && !holds(g, replica.expert); });
  if (gpu < 0) {
    // Only GPUs that hold the expert have room: make room on another by moving one of its items there.
    const int open = lightest(has_room);
    gpu = lightest([&](int g) { return !holds(g, replica.expert); });
    assert(open >= 0 && gpu >= 0);
    const auto moved =
        std::find_if(items(gpu).begin(), items(gpu).end(), [&](const Item& i) { return !holds(open, i.expert); });
    assert(moved != items(gpu).end());
    items(open).push_back(*moved);
    load_[Rank(open).index()] += moved->weight;
    load_[Rank(gpu).index()] -= moved->weight;
    items(gpu).erase(moved);
  }
  items(gpu).push_back({replica.expert, replica.weight});
  load_[Rank(gpu).index()] += replica.weight;
}

bool Packing::may_change(int expert, int to_node, NodeRule rule) const {
  return rule == NodeRule::free ||
         (rule == NodeRule::spread && on_node_[index(expert, to_node)] < node_limit_[LogicalExpert(expert).index()]);
}

void Packing::best_swap_with(int a, int b, NodeRule rule, Swap& best) const {
  const double load_a = load_[Rank(a).index()];
  const double load_b = load_[Rank(b).index()];
  const double gap = load_a - load_b;
  const int node_a = shape_.node_of(a);
  const int node_b = shape_.node_of(b);
  const auto& from = items(a);
  const auto& to = items(b);
  // The pair's maximum after the swap is least where the difference of the weights is half the gap: for each item of a,
  // look at its two neighbours in b around weight - gap / 2. Both lists fall, so one pass over b serves all of a.
  std::size_t j = 0;
  for (std::size_t i = 0; i < from.size(); ++i) {
    const double wanted = from[i].weight - gap / 2;
    while (j < to.size() && to[j].weight > wanted) ++j;
    for (const std::size_t k : {j - 1, j}) {  // j - 1 wraps to a large index at j = 0
      if (k >= to.size()) continue;
      const double shift = from[i].weight - to[k].weight;
      const double after = std::max(load_a - shift, load_b + shift);
      if (shift <= 0 || after >= best.after || from[i].expert == to[k].expert) continue;
      if (holds(b, from[i].expert) || holds(a, to[k].expert)) continue;
      if (node_a != node_b && !(may_change(from[i].expert, node_b, rule) && may_change(to[k].expert, node_a, rule)))
        continue;
      best = {b, i, k, after};
    }
  }
}

void Packing::apply(int a, const Swap& swap) {
  Item& x = items(a)[swap.i];
  Item& y = items(swap.b)[swap.j];
  const double shift = x.weight - y.weight;
  const int node_a = shape_.node_of(a);
  const int node_b = shape_.node_of(swap.b);
  --on_node(x.expert, node_a);
  ++on_node(x.expert, node_b);
  --on_node(y.expert, node_b);
  ++on_node(y.expert, node_a);
  load_[Rank(a).index()] -= shift;
  load_[Rank(swap.b).index()] += shift;
  std::swap(x, y);
  std::stable_sort(items(a).begin(), items(a).end(), heavier);
  std::stable_sort(items(swap.b).begin(), items(swap.b).end(), heavier);
}

double Packing::lower(double target, NodeRule rule) {
  for (;;) {
    const auto fullest = std::max_element(load_.begin(), load_.end());
    const int a = static_cast<int>(fullest - load_.begin());
    if (*fullest <= target) return *fullest;
    // A swap must gain more than rounding, or the search would turn in circles.
    Swap best{.b = -1, .i = 0, .j = 0, .after = *fullest * (1 - 1e-9)};
    const int node = shape_.node_of(a);
    const int first = rule == NodeRule::stay ? node * shape_.gpus_per_node() : 0;
    const int last = rule == NodeRule::stay ? first + shape_.gpus_per_node() : shape_.gpus;
    for (int b = first; b < last; ++b)
      if (b != a && load_[Rank(b).index()] < *fullest) best_swap_with(a, b, rule, best);
    if (best.b < 0) return *fullest;
    apply(a, best);
  }
}

double Packing::max_load() const { return *std::max_element(load_.begin(), load_.end()); }

ExpertPlacement Packing::placement() const {
  ExpertPlacement out;
  for (const auto& gpu : items_) {
    for (const Item& item : gpu) out.expert_of_slot.emplace_back(item.expert);
    out.slot_begin.push_back(out.slots());
  }
  return out;
}

}  // namespace moesim::placement
