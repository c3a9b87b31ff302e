// What a map does with the tokens of a routing: how evenly the GPUs work, and what crosses GPUs and nodes. Exact counts
// of a window of tokens, replica choices included; the window may be another one than the map was made for.
#pragma once

#include <cstdint>
#include <vector>

#include "strategies/placement/problem.hpp"

namespace moesim::placement {

// Transfers by how far they go.
struct Hops {
  std::int64_t own_gpu = 0;
  std::int64_t own_node = 0;  // to or from another GPU of the node
  std::int64_t other_nodes = 0;
  [[nodiscard]] std::int64_t total() const { return own_gpu + own_node + other_nodes; }
  Hops& operator+=(const Hops& o) {
    own_gpu += o.own_gpu;
    own_node += o.own_node;
    other_nodes += o.other_nodes;
    return *this;
  }
  friend bool operator==(const Hops&, const Hops&) = default;
};

// Transfers of token rows at one layer, one direction.
struct LayerTraffic {
  Hops copies;  // one per token and expert
  Hops merged;  // copies that share their way count once: one per token and GPU of the own node, one per token and node
                // elsewhere (DeepEP: one message a node, then distribution inside it)
  LayerTraffic& operator+=(const LayerTraffic& o) {
    copies += o.copies;
    merged += o.merged;
    return *this;
  }
};

struct LayerEvaluation {
  std::vector<std::int64_t> gpu_copies;  // [gpus] token copies that each GPU computes
  double max_over_mean = 1;
  LayerTraffic dispatch;
  LayerTraffic combine;
  Table pairs;  // [gpus, gpus] copies dispatched from one GPU to another
};

struct EvaluationOptions {
  Mode mode = Mode::return_home;
  Dispatch dispatch = Dispatch::local_first;
  // Tokens of one step of the engine: homes are dealt anew within each step, GPUs owning equal contiguous ranges of it,
  // and a step waits for its fullest GPU. 0 = the whole window is one step.
  std::int64_t tokens_per_step = 0;
};

struct Evaluation {
  EvaluationOptions options;
  Window window;
  std::vector<LayerEvaluation> layers;
  // [steps] sum over layers of the fullest GPU's copies / sum of the means: what balance costs a step.
  std::vector<double> straggler;
  [[nodiscard]] double mean_straggler() const;
  [[nodiscard]] LayerTraffic dispatch() const;  // over all layers
  [[nodiscard]] LayerTraffic combine() const;
};

// Mode::return_home: a token goes from its home to its experts and back, at every layer: combine equals dispatch.
// Mode::stay: it goes from where it is (layer 0: home) to its experts, and the results go to the GPU of its first
// expert. Throws InputError where map and routing do not fit each other: layers, experts, GPUs.
Evaluation evaluate(const Routing& routing, Window window, const LayerMaps& maps, const ClusterShape& shape,
                    const EvaluationOptions& options);

}  // namespace moesim::placement
