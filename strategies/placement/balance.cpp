#include "strategies/placement/balance.hpp"

#include <algorithm>
#include <cassert>
#include <numeric>

namespace moesim::placement {

namespace {

// Replicas of every expert on every node, and in all.
struct Replicas {
  Replicas(const ExpertPlacement& map, std::size_t experts, const ClusterShape& shape)
      : nodes(static_cast<std::size_t>(shape.nodes)), on_node(experts * nodes), total(experts) {
    for (int g = 0; g < map.ranks(); ++g)
      for (int s = map.slot_begin[Rank(g).index()]; s < map.slot_begin[Rank(g).index() + 1]; ++s) {
        const std::size_t e = map.expert_of_slot[PhysicalExpert(s).index()].index();
        ++on_node[e * nodes + Node(shape.node_of(g)).index()];
        ++total[e];
      }
  }
  [[nodiscard]] int nodes_with(std::size_t e) const {
    const auto first = on_node.begin() + static_cast<std::ptrdiff_t>(e * nodes);
    return static_cast<int>(nodes) - static_cast<int>(std::count(first, first + static_cast<std::ptrdiff_t>(nodes), 0));
  }

  std::size_t nodes;
  std::vector<int> on_node;  // [experts, nodes]
  std::vector<int> total;    // [experts]
};

}  // namespace

std::vector<double> gpu_loads(std::span<const double> loads, const ExpertPlacement& map, const ClusterShape& shape,
                              Dispatch dispatch) {
  assert(map.ranks() == shape.gpus);
  const Replicas replicas(map, loads.size(), shape);
  std::vector<double> away(loads.size());  // the share of an expert that any of its replicas takes, whatever its node
  for (std::size_t e = 0; e < loads.size(); ++e)
    if (replicas.total[e] > 0)
      away[e] = (dispatch == Dispatch::even ? 1.0 : 1.0 - static_cast<double>(replicas.nodes_with(e)) / shape.nodes) /
                replicas.total[e];
  std::vector<double> work(static_cast<std::size_t>(shape.gpus));
  for (int g = 0; g < shape.gpus; ++g)
    for (int s = map.slot_begin[Rank(g).index()]; s < map.slot_begin[Rank(g).index() + 1]; ++s) {
      const std::size_t e = map.expert_of_slot[PhysicalExpert(s).index()].index();
      const int beside = replicas.on_node[e * replicas.nodes + Node(shape.node_of(g)).index()];
      const double own = dispatch == Dispatch::even ? 0.0 : 1.0 / (static_cast<double>(shape.nodes) * beside);
      work[Rank(g).index()] += loads[e] * (own + away[e]);
    }
  return work;
}

double max_over_mean(std::span<const double> values) {
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  if (!(sum > 0)) return 1;
  return *std::max_element(values.begin(), values.end()) * static_cast<double>(values.size()) / sum;
}

CopyShares copy_shares(std::span<const double> loads, const ExpertPlacement& map, const ClusterShape& shape,
                       Dispatch dispatch) {
  const double sum = std::accumulate(loads.begin(), loads.end(), 0.0);
  if (!(sum > 0)) return {};
  double gpu = 1.0 / shape.gpus;
  double node = 1.0 / shape.nodes;
  if (dispatch == Dispatch::local_first) {
    const Replicas replicas(map, loads.size(), shape);
    gpu = node = 0;
    for (std::size_t e = 0; e < loads.size(); ++e) {
      gpu += loads[e] / sum * replicas.total[e] / shape.gpus;
      node += loads[e] / sum * replicas.nodes_with(e) / shape.nodes;
    }
  }
  return {gpu, node - gpu, 1 - node};
}

double lower_bound(std::span<const double> loads, const ClusterShape& shape) {
  std::vector<double> sorted(loads.begin(), loads.end());
  std::sort(sorted.begin(), sorted.end());
  std::vector<double> coldest(sorted.size() + 1);  // [m]: sum of the m coldest
  std::partial_sum(sorted.begin(), sorted.end(), coldest.begin() + 1);
  const int spare = shape.slots() - static_cast<int>(loads.size());
  const int most = std::min(shape.gpus, spare + 1);

  // The replicas that the experts need for no GPU to exceed t are more than there are spare slots.
  const auto impossible = [&](double t) {
    int extra = 0;
    for (auto load = sorted.rbegin(); load != sorted.rend(); ++load) {
      const auto needed = [&](int c) {
        const int m = std::clamp(c * shape.slots_per_gpu - spare - 1, 0, static_cast<int>(sorted.size()));
        return (*load + coldest[static_cast<std::size_t>(m)]) / c;
      };
      int c = 1;
      while (c <= most && needed(c) > t) ++c;
      if (c > most) return true;
      extra += c - 1;
      if (extra > spare) return true;
    }
    return false;
  };

  const double mean = coldest.back() / shape.gpus;
  double low = mean * (1 - 1e-12);  // the mean is a bound even where rounding says otherwise
  if (sorted.empty() || !impossible(mean)) return mean;
  double high = sorted.back() + coldest[std::min(sorted.size(), static_cast<std::size_t>(shape.slots_per_gpu))];
  for (int i = 0; i < 60 && high - low > 1e-12 * high; ++i) {
    const double middle = (low + high) / 2;
    (impossible(middle) ? low : high) = middle;
  }
  return std::max(mean, low);
}

double lower_bound_free_sizes(std::span<const double> loads, int gpus) {
  if (loads.empty()) return 0;
  return std::max(std::accumulate(loads.begin(), loads.end(), 0.0) / gpus,
                  *std::max_element(loads.begin(), loads.end()));
}

}  // namespace moesim::placement
