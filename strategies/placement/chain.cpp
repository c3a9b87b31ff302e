#include "strategies/placement/chain.hpp"

#include <algorithm>
#include <cassert>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

namespace moesim::placement {

namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

// Cost of one token row between two GPUs, in units of 1 / intra.
double distance(const ClusterShape& shape, int a, int b) {
  if (a == b) return 0;
  return shape.node_of(a) == shape.node_of(b) ? 1 : shape.intra / shape.inter;
}

}  // namespace

double step_cost(const Chain& chain, std::size_t l, const std::vector<int>& here, const std::vector<int>& next) {
  const Matrix& flow = chain.flow[l];
  double total = 0;
  double worst = 0;
  for (int a = 0; a < flow.rows(); ++a)
    for (int b = 0; b < flow.cols(); ++b) {
      const double c = flow.at(a, b) * distance(chain.shape, here[at(a)], next[at(b)]);
      total += c;
      worst = std::max(worst, c);
    }
  return chain.cost == ChainCost::total ? total : worst;
}

namespace {

double around(const Chain& chain, const Positions& gpu_of, int layer) {
  double sum = 0;
  if (layer > 0) sum += step_cost(chain, at(layer - 1), gpu_of[at(layer - 1)], gpu_of[at(layer)]);
  if (layer + 1 < chain.layers()) sum += step_cost(chain, at(layer), gpu_of[at(layer)], gpu_of[at(layer + 1)]);
  return sum;
}

// ---- the exact path -----------------------------------------------------------------------------------------------

using Block = std::vector<int>;     // clusters of one node, rising
using Grouping = std::vector<int>;  // a partition of the clusters into blocks, as block numbers

constexpr std::size_t most_groupings = 300;

struct Groupings {
  std::vector<Block> blocks;
  std::vector<Grouping> all;
  std::map<Block, int> number;
};

// All partitions of `left` into blocks of `size`; stops past most_groupings.
void extend(const std::vector<int>& left, int size, Grouping& sofar, Groupings& out) {
  if (out.all.size() > most_groupings) return;
  if (left.empty()) {
    out.all.push_back(sofar);
    return;
  }
  // The first cluster left opens the block, so each partition comes once; `mask` picks its company.
  std::vector<bool> mask(left.size() - 1);
  std::fill_n(mask.begin(), size - 1, true);
  do {
    Block block{left.front()};
    std::vector<int> rest;
    for (std::size_t i = 1; i < left.size(); ++i) (mask[i - 1] ? block : rest).push_back(left[i]);
    const auto [entry, fresh] = out.number.try_emplace(block, static_cast<int>(out.blocks.size()));
    if (fresh) out.blocks.push_back(block);
    sofar.push_back(entry->second);
    extend(rest, size, sofar, out);
    sofar.pop_back();
  } while (std::prev_permutation(mask.begin(), mask.end()) && out.all.size() <= most_groupings);
}

// How two blocks of consecutive layers meet when they share a node, and what they cost when they do not.
struct Meeting {
  double together = 0;
  double apart = 0;
  std::vector<int> partner;  // of each member of the first block, an index into the second
};

Meeting meet(const Chain& chain, const Matrix& all_flow, const Block& a, const Block& b) {
  const int n = static_cast<int>(a.size());
  const double far = chain.shape.intra / chain.shape.inter;
  Matrix flow(n, n);
  Matrix negative(n, n);
  double largest = 0;
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) {
      flow.at(i, j) = all_flow.at(a[at(i)], b[at(j)]);
      negative.at(i, j) = -flow.at(i, j);
      largest = std::max(largest, flow.at(i, j));
    }
  Meeting m;
  if (chain.cost == ChainCost::worst_pair) {
    m.partner = least_unchosen(flow, &m.together);
    m.apart = largest * far;
    return m;
  }
  m.partner = least_total(negative);
  m.together = flow.sum();
  for (int i = 0; i < n; ++i) m.together -= flow.at(i, m.partner[at(i)]);
  m.apart = flow.sum() * far;
  return m;
}

// All pairs of blocks of one transition.
class Meetings {
 public:
  Meetings(const Chain& chain, std::size_t l, const std::vector<Block>& blocks) : blocks_(blocks.size()) {
    for (const Block& a : blocks)
      for (const Block& b : blocks) all_.push_back(meet(chain, chain.flow[l], a, b));
  }
  [[nodiscard]] const Meeting& of(int a, int b) const { return all_[at(a) * blocks_ + at(b)]; }

 private:
  std::size_t blocks_;
  std::vector<Meeting> all_;
};

struct Step {
  double cost = 0;
  std::vector<int> node_partner;  // of each block of the first grouping, an index into the second
};

// The best way for two groupings to meet: every block of the first shares a node with one of the second.
Step best_step(ChainCost kind, const Meetings& meetings, const Grouping& a, const Grouping& b) {
  const int n = static_cast<int>(a.size());
  Step out;
  if (kind == ChainCost::total) {
    Matrix change(n, n);
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) {
        const Meeting& m = meetings.of(a[at(i)], b[at(j)]);
        change.at(i, j) = m.together - m.apart;
        out.cost += m.apart;
      }
    out.node_partner = least_total(change);
    for (int i = 0; i < n; ++i) out.cost += change.at(i, out.node_partner[at(i)]);
    return out;
  }
  // Bottleneck: all n! ways; there are at most four nodes wherever there are few groupings.
  std::vector<int> order(at(n));
  std::iota(order.begin(), order.end(), 0);
  out.cost = std::numeric_limits<double>::infinity();
  do {
    double worst = 0;
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) {
        const Meeting& m = meetings.of(a[at(i)], b[at(j)]);
        worst = std::max(worst, order[at(i)] == j ? m.together : m.apart);
      }
    if (worst < out.cost) out = {worst, order};
  } while (std::next_permutation(order.begin(), order.end()));
  return out;
}

// One GPU a node: all pairs are alike, which is one node with another unit of cost.
Chain as_one_node(const Chain& chain) {
  Chain out = chain;
  out.shape.nodes = 1;
  return out;
}

}  // namespace

double chain_cost(const Chain& chain, const Positions& gpu_of) {
  double sum = 0;
  for (std::size_t l = 0; l < chain.flow.size(); ++l) sum += step_cost(chain, l, gpu_of[l], gpu_of[l + 1]);
  return sum;
}

std::optional<Positions> shortest_path(const Chain& chain) {
  if (chain.shape.nodes > 1 && chain.shape.gpus_per_node() == 1) return shortest_path(as_one_node(chain));
  const int gpus = chain.shape.gpus;
  const int per_node = chain.shape.gpus_per_node();
  Groupings found;
  std::vector<int> clusters(at(gpus));
  std::iota(clusters.begin(), clusters.end(), 0);
  Grouping sofar;
  extend(clusters, per_node, sofar, found);
  if (found.all.size() > most_groupings) return std::nullopt;
  const std::vector<Grouping>& groupings = found.all;

  const std::size_t states = groupings.size();
  std::vector<double> cost(states);
  std::vector<std::vector<std::size_t>> came_from;  // [layers - 1][state]
  for (std::size_t l = 0; l < chain.flow.size(); ++l) {
    const Meetings meetings(chain, l, found.blocks);
    std::vector<double> next(states, std::numeric_limits<double>::infinity());
    std::vector<std::size_t> from(states);
    for (std::size_t s = 0; s < states; ++s)
      for (std::size_t t = 0; t < states; ++t) {
        const double c = cost[s] + best_step(chain.cost, meetings, groupings[s], groupings[t]).cost;
        if (c < next[t]) {
          next[t] = c;
          from[t] = s;
        }
      }
    cost = std::move(next);
    came_from.push_back(std::move(from));
  }

  std::vector<std::size_t> path{static_cast<std::size_t>(std::min_element(cost.begin(), cost.end()) - cost.begin())};
  for (std::size_t l = came_from.size(); l-- > 0;) path.push_back(came_from[l][path.back()]);
  std::reverse(path.begin(), path.end());

  // Walk the path and hand out GPUs: a block's node is its partner's, a cluster's GPU its partner's.
  Positions gpu_of(at(chain.layers()), std::vector<int>(at(gpus)));
  int gpu = 0;
  for (const int block : groupings[path.front()])
    for (const int cluster : found.blocks[at(block)]) gpu_of[0][at(cluster)] = gpu++;
  for (std::size_t l = 0; l < chain.flow.size(); ++l) {
    const Meetings meetings(chain, l, found.blocks);
    const Grouping& here = groupings[path[l]];
    const Grouping& next = groupings[path[l + 1]];
    const Step step = best_step(chain.cost, meetings, here, next);
    for (std::size_t n = 0; n < here.size(); ++n) {
      const int partner = next[at(step.node_partner[n])];
      const Block& from = found.blocks[at(here[n])];
      const Block& to = found.blocks[at(partner)];
      const Meeting& meeting = meetings.of(here[n], partner);
      for (std::size_t i = 0; i < from.size(); ++i)
        gpu_of[l + 1][at(to[at(meeting.partner[i])])] = gpu_of[l][at(from[i])];
    }
  }
  return gpu_of;
}

// ---- descent ------------------------------------------------------------------------------------------------------

namespace {

// The cost of putting each cluster of a layer on each GPU, its neighbours fixed (ChainCost::total).
Matrix placing_cost(const Chain& chain, const Positions& gpu_of, int layer) {
  const int n = chain.shape.gpus;
  Matrix cost(n, n);
  for (int c = 0; c < n; ++c)
    for (int g = 0; g < n; ++g) {
      double sum = 0;
      if (layer > 0)
        for (int b = 0; b < n; ++b)
          sum += chain.flow[at(layer - 1)].at(b, c) * distance(chain.shape, gpu_of[at(layer - 1)][at(b)], g);
      if (layer + 1 < chain.layers())
        for (int a = 0; a < n; ++a)
          sum += chain.flow[at(layer)].at(c, a) * distance(chain.shape, g, gpu_of[at(layer + 1)][at(a)]);
      cost.at(c, g) = sum;
    }
  return cost;
}

// Exchanges pairs of clusters of a layer while that lowers the cost around it. Returns whether it did.
bool swap_pairs(const Chain& chain, Positions& gpu_of, int layer) {
  double cost = around(chain, gpu_of, layer);
  bool changed = false;
  auto& places = gpu_of[at(layer)];
  for (std::size_t a = 0; a < places.size(); ++a)
    for (std::size_t b = a + 1; b < places.size(); ++b) {
      std::swap(places[a], places[b]);
      const double now = around(chain, gpu_of, layer);
      if (now < cost * (1 - 1e-12)) {
        cost = now;
        changed = true;
      } else {
        std::swap(places[a], places[b]);
      }
    }
  return changed;
}

}  // namespace

Positions coordinate_descent(const Chain& chain, Positions gpu_of) {
  for (bool changed = true; changed;) {
    changed = false;
    for (int l = 0; l < chain.layers(); ++l) {
      if (chain.cost == ChainCost::worst_pair) {
        changed |= swap_pairs(chain, gpu_of, l);
        continue;
      }
      const double before = around(chain, gpu_of, l);
      std::vector<int> better = least_total(placing_cost(chain, gpu_of, l));
      std::swap(gpu_of[at(l)], better);
      if (around(chain, gpu_of, l) < before * (1 - 1e-12))
        changed = true;
      else
        std::swap(gpu_of[at(l)], better);
    }
  }
  return gpu_of;
}

}  // namespace moesim::placement
