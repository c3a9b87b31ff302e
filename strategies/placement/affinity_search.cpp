#include "strategies/placement/affinity_search.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <numeric>

#include "strategies/placement/assignment.hpp"
#include "strategies/placement/balance.hpp"
#include "strategies/placement/chain.hpp"
#include "strategies/placement/eplb.hpp"
#include "strategies/placement/local_search.hpp"

namespace moesim::placement {

namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

struct Slot {
  int expert;
  int gpu;
  double share;   // of the expert's tokens
  double weight;  // its share of the expert's load
};
using Layer = std::vector<Slot>;

Layer slots_of(const ExpertPlacement& map, std::span<const double> loads) {
  std::vector<int> count(loads.size());
  for (const LogicalExpert e : map.expert_of_slot) ++count[e.index()];
  Layer out;
  for (int g = 0; g < map.ranks(); ++g)
    for (int s = map.slot_begin[at(g)]; s < map.slot_begin[at(g) + 1]; ++s) {
      const LogicalExpert e = map.expert_of_slot[at(s)];
      const double share = 1.0 / count[e.index()];
      out.push_back({e.value(), g, share, share * loads[e.index()]});
    }
  return out;
}

ExpertPlacement map_of(const Layer& layer, int gpus) {
  ExpertPlacement out;
  for (int g = 0; g < gpus; ++g) {
    for (const Slot& s : layer)
      if (s.gpu == g) out.expert_of_slot.emplace_back(s.expert);
    out.slot_begin.push_back(out.slots());
  }
  return out;
}

// Where the partners of each expert are, as tokens: mass(e, g) += count * share for every partner's replica on g.
// `outward`: counts from e to the partner; else from the partner to e.
void add_mass(Matrix& mass, const Table& counts, const Layer& partners, bool outward) {
  for (const Slot& p : partners)
    for (int e = 0; e < mass.rows(); ++e)
      mass.at(e, p.gpu) += p.share * (outward ? counts.at(e, p.expert) : counts.at(p.expert, e));
}

// Cost of a whole expert on each GPU, given the mass of its partners: way 1 to its node, `far` to the others.
void cost_row(const Matrix& mass, int e, const ClusterShape& shape, double far, Matrix& cost) {
  double total = 0;
  for (int g = 0; g < shape.gpus; ++g) total += mass.at(e, g);
  for (int n = 0; n < shape.nodes; ++n) {
    double on_node = 0;
    for (int g = n * shape.gpus_per_node(); g < (n + 1) * shape.gpus_per_node(); ++g) on_node += mass.at(e, g);
    for (int g = n * shape.gpus_per_node(); g < (n + 1) * shape.gpus_per_node(); ++g)
      cost.at(e, g) = far * (total - on_node) + (on_node - mass.at(e, g));
  }
}

class Search {
 public:
  Search(const Loads& loads, const Movement& movement, const Movement& company, const ClusterShape& shape,
         const AffinityOptions& options)
      : loads_(loads), movement_(movement), company_(company), shape_(shape), far_(shape.intra / shape.inter) {
    for (int l = 0; l < loads.layers(); ++l)
      target_.push_back(lower_bound(loads.layer(l), shape) * (1 + options.tolerance));
  }

  // Load of the fullest GPU over the target, as a share of it; 0 within rounding.
  [[nodiscard]] double above_target(const ExpertPlacement& map, int l) const {
    const std::vector<double> work = gpu_loads(loads_.layer(l), map, shape_, Dispatch::even);
    const double above = *std::max_element(work.begin(), work.end()) / std::max(target_[at(l)], 1e-300) - 1;
    return above > 1e-9 ? above : 0;
  }

  // Sweeps forth and back until the cost settles.
  void descend(std::vector<Layer>& layers, int sweeps) const {
    for (int s = 0; s < sweeps; ++s) {
      double gain = 0;
      double left = 0;
      for (int i = 0; i < loads_.layers(); ++i) {
        const int l = s % 2 == 0 ? i : loads_.layers() - 1 - i;
        improve(layers, l, layers.size(), gain, left);
      }
      if (gain <= 1e-3 * left) return;
    }
  }

  // Layer after layer, replicas where their tokens come from, hottest first; then exchanges with the layers so far.
  [[nodiscard]] std::vector<Layer> follow(std::vector<Layer> layers) const {
    double ignored = 0;
    for (std::size_t l = 1; l < layers.size(); ++l) {
      Matrix mass(loads_.experts(), shape_.gpus);
      if (!movement_.empty()) add_mass(mass, movement_[l - 1], layers[l - 1], false);
      Matrix cost(loads_.experts(), shape_.gpus);
      for (int e = 0; e < loads_.experts(); ++e) cost_row(mass, e, shape_, far_, cost);
      place(layers[l], cost, target_[l]);
      improve(layers, static_cast<int>(l), l + 1, ignored, ignored);
    }
    return layers;
  }

 private:
  [[nodiscard]] double way(int a, int b) const {
    return a == b ? 0 : shape_.node_of(a) == shape_.node_of(b) ? 1 : far_;
  }

  // Heaviest first to the cheapest GPU with a slot and room for the weight; where none has, to the one with most room.
  void place(Layer& layer, const Matrix& cost, double target) const {
    std::stable_sort(layer.begin(), layer.end(), [](const Slot& a, const Slot& b) { return a.weight > b.weight; });
    std::vector<double> load(at(shape_.gpus));
    std::vector<int> used(at(shape_.gpus));
    std::vector<bool> holds(at(shape_.gpus) * at(loads_.experts()));
    for (Slot& s : layer) {
      int best = -1;
      const auto rank = [&](int g) {
        const double excess = std::max(0.0, load[at(g)] + s.weight - target);
        const bool twice = holds[at(g) * at(loads_.experts()) + at(s.expert)];
        return std::tuple(twice, excess, cost.at(s.expert, g), load[at(g)]);
      };
      for (int g = 0; g < shape_.gpus; ++g)
        if (used[at(g)] < shape_.slots_per_gpu && (best < 0 || rank(g) < rank(best))) best = g;
      s.gpu = best;
      ++used[at(best)];
      load[at(best)] += s.weight;
      holds[at(best) * at(loads_.experts()) + at(s.expert)] = true;
    }
  }

  // Exchanges replicas of a layer while that lowers cost + penalty, its neighbours below `known` fixed. The penalty
  // makes load above the target and two replicas on one GPU worth more than any way.
  void improve(std::vector<Layer>& layers, int l, std::size_t known, double& gain, double& left) const;

  const Loads& loads_;
  const Movement& movement_;
  const Movement& company_;
  ClusterShape shape_;
  double far_;
  std::vector<double> target_;
};

void Search::improve(std::vector<Layer>& layers, int l, std::size_t known, double& gain, double& left) const {
  Layer& layer = layers[at(l)];
  const int experts = loads_.experts();
  Matrix outside(experts, shape_.gpus);
  if (!movement_.empty() && l > 0) add_mass(outside, movement_[at(l - 1)], layers[at(l - 1)], false);
  if (!movement_.empty() && at(l) + 1 < known) add_mass(outside, movement_[at(l)], layers[at(l) + 1], true);
  Matrix mass = outside;
  const bool inside = !company_.empty();
  if (inside) {
    add_mass(mass, company_[at(l)], layer, true);
    add_mass(mass, company_[at(l)], layer, false);
  }
  Matrix cost(experts, shape_.gpus);
  for (int e = 0; e < experts; ++e) cost_row(mass, e, shape_, far_, cost);
  for (const Slot& s : layer) left += s.share * cost.at(s.expert, s.gpu);

  std::vector<double> load(at(shape_.gpus));
  std::vector<int> copies(at(shape_.gpus) * at(experts));
  const auto copies_on = [&](int gpu, int expert) -> int& { return copies[at(gpu) * at(experts) + at(expert)]; };
  double total = 0;
  for (const Slot& s : layer) {
    load[at(s.gpu)] += s.weight;
    ++copies_on(s.gpu, s.expert);
    total += s.weight;
  }
  const double penalty = 4 * far_;  // a token copy above the target costs more than any of its ways
  const auto over = [&](double v) { return std::max(0.0, v - target_[at(l)]); };
  for (bool changed = true; changed;) {
    changed = false;
    for (std::size_t i = 0; i < layer.size(); ++i)
      for (std::size_t j = i + 1; j < layer.size(); ++j) {
        Slot& a = layer[i];
        Slot& b = layer[j];
        if (a.gpu == b.gpu || a.expert == b.expert) continue;
        const double d = a.weight - b.weight;
        double fall = a.share * (cost.at(a.expert, a.gpu) - cost.at(a.expert, b.gpu)) +
                      b.share * (cost.at(b.expert, b.gpu) - cost.at(b.expert, a.gpu));
        fall += penalty *
                (over(load[at(a.gpu)]) + over(load[at(b.gpu)]) - over(load[at(a.gpu)] - d) - over(load[at(b.gpu)] + d));
        if (fall <= 1e-9 * total) continue;
        if (copies_on(b.gpu, a.expert) > 0 || copies_on(a.gpu, b.expert) > 0) continue;
        if (inside)  // the way between the two stays what it was, but both rows counted it as gone
          fall -= 2 * a.share * b.share * way(a.gpu, b.gpu) *
                  (company_[at(l)].at(a.expert, b.expert) + company_[at(l)].at(b.expert, a.expert));
        if (fall <= 1e-9 * total) continue;
        gain += fall;
        changed = true;
        --copies_on(a.gpu, a.expert);
        --copies_on(b.gpu, b.expert);
        load[at(a.gpu)] -= d;
        load[at(b.gpu)] += d;
        if (inside) {
          for (int e = 0; e < experts; ++e) {
            const auto with = [&](int f) { return company_[at(l)].at(e, f) + company_[at(l)].at(f, e); };
            const double shift = a.share * with(a.expert) - b.share * with(b.expert);
            if (shift == 0) continue;
            mass.at(e, a.gpu) -= shift;
            mass.at(e, b.gpu) += shift;
            cost_row(mass, e, shape_, far_, cost);
          }
        }
        std::swap(a.gpu, b.gpu);
        ++copies_on(a.gpu, a.expert);
        ++copies_on(b.gpu, b.expert);
      }
  }
}

// Whole GPUs of balanced layers, moved as MoETuner moves clusters.
LayerMaps connect_gpus(const LayerMaps& maps, const Movement& movement, const ClusterShape& shape) {
  Chain chain{{}, {}, shape, ChainCost::total};
  Positions in_order;
  for (std::size_t l = 0; l < maps.size(); ++l) {
    chain.size.emplace_back(at(shape.gpus), shape.slots_per_gpu);
    in_order.emplace_back(at(shape.gpus));
    std::iota(in_order.back().begin(), in_order.back().end(), 0);
    if (l == 0 || movement.empty()) continue;
    const std::vector<double> ones(at(movement[l - 1].rows()), 1.0);
    Matrix flow(shape.gpus, shape.gpus);
    const Layer here = slots_of(maps[l - 1], ones);
    const Layer next = slots_of(maps[l], ones);
    for (const Slot& a : here)
      for (const Slot& b : next) flow.at(a.gpu, b.gpu) += a.share * b.share * movement[l - 1].at(a.expert, b.expert);
    chain.flow.push_back(std::move(flow));
  }
  if (chain.flow.empty()) return maps;
  const std::optional<Positions> exact = shortest_path(chain);
  const Positions gpu_of = exact ? *exact : coordinate_descent(chain, in_order);
  LayerMaps out;
  for (std::size_t l = 0; l < maps.size(); ++l) {
    Layer layer = slots_of(maps[l], std::vector<double>(at(chain.shape.slots()), 0.0));
    for (Slot& s : layer) s.gpu = gpu_of[l][at(s.gpu)];
    out.push_back(map_of(layer, shape.gpus));
  }
  return out;
}

}  // namespace

double movement_cost(const LayerMaps& maps, const Movement& movement, const Movement& company,
                     const ClusterShape& shape) {
  double sum = 0;
  const double far = shape.intra / shape.inter;
  const auto between = [&](const Table& counts, const Layer& from, const Layer& to) {
    for (const Slot& a : from)
      for (const Slot& b : to)
        sum += a.share * b.share * counts.at(a.expert, b.expert) *
               (a.gpu == b.gpu                                 ? 0
                : shape.node_of(a.gpu) == shape.node_of(b.gpu) ? 1
                                                               : far);
  };
  std::vector<Layer> layers;
  for (const ExpertPlacement& map : maps) {
    int experts = 0;
    for (const LogicalExpert e : map.expert_of_slot) experts = std::max(experts, e.value() + 1);
    layers.push_back(slots_of(map, std::vector<double>(at(experts), 1.0)));
  }
  for (std::size_t l = 0; l < movement.size(); ++l) between(movement[l], layers[l], layers[l + 1]);
  for (std::size_t l = 0; l < company.size(); ++l) between(company[l], layers[l], layers[l]);
  return sum;
}

LayerMaps affinity_search(const Loads& loads, const Movement& movement, const Movement& company,
                          const ClusterShape& shape, const AffinityOptions& options) {
  LayerMaps balanced;
  for (int l = 0; l < loads.layers(); ++l)
    balanced.push_back(
        search_layer(loads.layer(l), shape, {.dispatch = Dispatch::even, .groups = 1, .tolerance = options.tolerance}));
  const Search search(loads, movement, company, shape, options);
  const auto layers_of = [&](const LayerMaps& maps) {
    std::vector<Layer> layers;
    for (int l = 0; l < loads.layers(); ++l) layers.push_back(slots_of(maps[at(l)], loads.layer(l)));
    return layers;
  };
  LayerMaps best;
  std::pair best_rank{std::numeric_limits<double>::infinity(), 0.0};  // worst layer's load above its target, cost
  // Layers that follow each other go astray where the first ones are loose: a tight start serves loose targets too.
  constexpr double tight = 0.03;
  std::vector<std::vector<Layer>> starts{layers_of(connect_gpus(balanced, movement, shape)),
                                         search.follow(layers_of(balanced))};
  if (options.tolerance > tight)
    starts.push_back(Search(loads, movement, company, shape, {.tolerance = tight}).follow(layers_of(balanced)));
  for (std::vector<Layer>& layers : starts) {
    search.descend(layers, options.sweeps);
    LayerMaps maps;
    double above = 0;
    for (int l = 0; l < loads.layers(); ++l) {
      maps.push_back(map_of(layers[at(l)], shape.gpus));
      distinct_replicas(maps.back(), loads.layer(l), shape);
      above = std::max(above, search.above_target(maps.back(), l));
    }
    const std::pair rank{above, movement_cost(maps, movement, company, shape)};
    if (rank >= best_rank) continue;
    best = std::move(maps);
    best_rank = rank;
  }
  return best;
}

}  // namespace moesim::placement
