#include "strategies/placement/evaluate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "moesim/error.hpp"
#include "strategies/placement/balance.hpp"

namespace moesim::placement {

namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

// Chooses replicas of one layer, taking turns among equals.
class Replicas {
 public:
  Replicas(const ExpertPlacement& map, int experts, const ClusterShape& shape, Dispatch dispatch)
      : shape_(shape), dispatch_(dispatch), everywhere_(at(experts)), on_node_(at(experts * shape.nodes)) {
    for (int g = 0; g < map.ranks(); ++g)
      for (int s = map.slot_begin[at(g)]; s < map.slot_begin[at(g) + 1]; ++s) {
        const int e = map.expert_of_slot[at(s)].value();
        everywhere_[at(e)].gpus.push_back(g);
        on_node_[at(e * shape.nodes + shape.node_of(g))].gpus.push_back(g);
      }
  }
  int choose(int expert, int from) {
    if (dispatch_ == Dispatch::local_first) {
      Turns& near = on_node_[at(expert * shape_.nodes + shape_.node_of(from))];
      if (std::find(near.gpus.begin(), near.gpus.end(), from) != near.gpus.end()) return from;
      if (!near.gpus.empty()) return near.next();
    }
    return everywhere_[at(expert)].next();
  }

 private:
  struct Turns {
    std::vector<int> gpus;
    std::size_t turn = 0;
    int next() { return gpus[turn++ % gpus.size()]; }
  };
  ClusterShape shape_;
  Dispatch dispatch_;
  std::vector<Turns> everywhere_;  // [experts]
  std::vector<Turns> on_node_;     // [experts, nodes]
};

// Counts the transfers between one GPU and the GPUs of a token's experts.
void count(int from, std::span<const int> to, const ClusterShape& shape, std::vector<std::int64_t>& seen,
           std::int64_t stamp, LayerTraffic& traffic) {
  const int node = shape.node_of(from);
  for (const int gpu : to) {
    const int other = shape.node_of(gpu);
    std::int64_t& last = seen[at(other == node ? gpu : shape.gpus + other)];
    const bool first = last != stamp;
    last = stamp;
    if (gpu == from) {
      ++traffic.copies.own_gpu;
      if (first) ++traffic.merged.own_gpu;
    } else if (other == node) {
      ++traffic.copies.own_node;
      if (first) ++traffic.merged.own_node;
    } else {
      ++traffic.copies.other_nodes;
      if (first) ++traffic.merged.other_nodes;
    }
  }
}

void check(const Routing& routing, Window window, const LayerMaps& maps, const ClusterShape& shape) {
  if (window.count < 1 || window.first < 0 || window.first + window.count > routing.tokens())
    throw InputError({}, fmt::format("tokens {} to {} of a routing trace that has {}", window.first,
                                     window.first + window.count - 1, routing.tokens()));
  if (static_cast<int>(maps.size()) != routing.moe_layers())
    throw InputError({}, fmt::format("a map of {} MoE layers for a routing of {}", maps.size(), routing.moe_layers()),
                     "the map is of another model");
  for (std::size_t l = 0; l < maps.size(); ++l) {
    if (maps[l].ranks() != shape.gpus)
      throw InputError({}, fmt::format("a map for {} GPUs on a cluster of {}", maps[l].ranks(), shape.gpus));
    try {
      validate(maps[l], routing.experts());
    } catch (const std::invalid_argument& fault) {
      throw InputError({}, fmt::format("MoE layer {} of the map: {}", l, fault.what()), "the map is of another model");
    }
  }
}

}  // namespace

double Evaluation::mean_straggler() const {
  return straggler.empty()
             ? 1
             : std::accumulate(straggler.begin(), straggler.end(), 0.0) / static_cast<double>(straggler.size());
}
LayerTraffic Evaluation::dispatch() const {
  LayerTraffic sum;
  for (const LayerEvaluation& l : layers) sum += l.dispatch;
  return sum;
}
LayerTraffic Evaluation::combine() const {
  LayerTraffic sum;
  for (const LayerEvaluation& l : layers) sum += l.combine;
  return sum;
}

Evaluation evaluate(const Routing& routing, Window window, const LayerMaps& maps, const ClusterShape& shape,
                    const EvaluationOptions& options) {
  check(routing, window, maps, shape);
  const int k = routing.top_k();
  const std::int64_t step =
      options.tokens_per_step > 0 ? std::min(options.tokens_per_step, window.count) : window.count;
  const auto steps = static_cast<std::size_t>((window.count + step - 1) / step);
  Evaluation out{options, window, {}, {}};

  // Where each token is. At the start of a step of n tokens, GPU g owns n / G of them, the first n mod G GPUs one more.
  std::vector<int> home(static_cast<std::size_t>(window.count));
  for (std::int64_t t = 0; t < window.count; ++t) {
    const std::int64_t n = std::min(step, window.count - t / step * step);
    const std::int64_t i = t % step;
    const std::int64_t large = (n / shape.gpus + 1) * (n % shape.gpus);  // tokens of the GPUs that own one more
    home[static_cast<std::size_t>(t)] =
        static_cast<int>(i < large ? i / (n / shape.gpus + 1)
                                   : n % shape.gpus + (i - large) / std::max<std::int64_t>(1, n / shape.gpus));
  }
  std::vector<int> where = home;

  std::vector<double> fullest(steps);
  std::vector<ExpertIndex> experts;
  std::vector<int> gpus(at(k));
  std::vector<std::int64_t> seen(at(shape.gpus + shape.nodes));
  std::vector<std::int64_t> step_copies(at(shape.gpus));
  constexpr std::int64_t block = 1024;
  for (int l = 0; l < routing.moe_layers(); ++l) {
    LayerEvaluation layer{std::vector<std::int64_t>(at(shape.gpus)), 1, {}, {}, Table(shape.gpus, shape.gpus)};
    Replicas replicas(maps[at(l)], routing.experts(), shape, options.dispatch);
    std::fill(seen.begin(), seen.end(), -1);
    std::int64_t stamp = 0;
    for (std::int64_t t = 0; t < window.count; ++t) {
      if (t % block == 0) {
        experts.resize(static_cast<std::size_t>(std::min(block, window.count - t)) * at(k));
        routing.assign(l, window.first + t, experts);
      }
      if (t % step == 0) std::fill(step_copies.begin(), step_copies.end(), 0);
      const int from = where[static_cast<std::size_t>(t)];
      for (int i = 0; i < k; ++i) {
        const int e = experts[static_cast<std::size_t>(t % block * k + i)];
        if (e >= routing.experts())
          throw InputError({}, fmt::format("token {} of MoE layer {} uses expert {}; the model's experts are numbered "
                                           "0 to {}",
                                           window.first + t, l, e, routing.experts() - 1));
        gpus[at(i)] = replicas.choose(e, from);
        ++step_copies[at(gpus[at(i)])];
        ++layer.pairs.at(from, gpus[at(i)]);
      }
      count(from, gpus, shape, seen, stamp++, layer.dispatch);
      if (options.mode == Mode::stay) {
        where[static_cast<std::size_t>(t)] = gpus.front();
        count(gpus.front(), gpus, shape, seen, stamp++, layer.combine);
      }
      if ((t + 1) % step == 0 || t + 1 == window.count) {
        fullest[static_cast<std::size_t>(t / step)] +=
            static_cast<double>(*std::max_element(step_copies.begin(), step_copies.end()));
        for (int g = 0; g < shape.gpus; ++g) layer.gpu_copies[at(g)] += step_copies[at(g)];
      }
    }
    if (options.mode == Mode::return_home) layer.combine = layer.dispatch;
    layer.max_over_mean = max_over_mean(std::vector<double>(layer.gpu_copies.begin(), layer.gpu_copies.end()));
    out.layers.push_back(std::move(layer));
  }
  for (std::size_t s = 0; s < steps; ++s) {
    const std::int64_t tokens = std::min(step, window.count - static_cast<std::int64_t>(s) * step);
    const double mean = static_cast<double>(tokens) * k * routing.moe_layers() / shape.gpus;
    out.straggler.push_back(fullest[s] / mean);
  }
  return out;
}

}  // namespace moesim::placement
