// Weighted replicas in the slots of GPUs: longest processing time first, and swaps that lower the fullest GPU.
#pragma once

#include <span>
#include <vector>

#include "strategies/placement/problem.hpp"

namespace moesim::placement {

// One replica with its share of the expert's load, bound for a node.
struct Replica {
  int expert = 0;
  int node = 0;
  double weight = 0;
};

// Which replicas may change nodes in a swap.
enum class NodeRule : std::uint8_t {
  stay,    // none: swaps inside a node only
  spread,  // an expert of c replicas keeps at most ceil(c / nodes) on a node, so that shares stay equal (balance.hpp)
  free,    // all
};

class Packing {
 public:
  Packing(int experts, const ClusterShape& shape);

  // Puts each replica on a GPU of its node: by falling weight to the least loaded GPU that has a free slot and does not
  // hold the expert. Experts with several replicas on the node go first, because they need distinct GPUs. At most
  // gpus_per_node * slots_per_gpu replicas a node, at most gpus_per_node of one expert.
  void fill(std::span<const Replica> replicas);

  // Swaps a replica of the fullest GPU with a lighter one elsewhere, taking the swap that lowers the larger of the two
  // loads most, until no GPU exceeds `target` or no swap helps. Returns the maximum.
  double lower(double target, NodeRule rule);

  [[nodiscard]] double max_load() const;
  [[nodiscard]] ExpertPlacement placement() const;

 private:
  struct Item {
    int expert;
    double weight;
  };
  // Exchange item i of gpu a with item j of gpu b.
  struct Swap {
    int b = -1;
    std::size_t i = 0;
    std::size_t j = 0;
    double after;  // the larger of the two loads
  };
  [[nodiscard]] bool holds(int gpu, int expert) const;
  [[nodiscard]] bool may_change(int expert, int to_node, NodeRule rule) const;
  void place(const Replica& replica);
  void best_swap_with(int a, int b, NodeRule rule, Swap& best) const;
  void apply(int a, const Swap& swap);
  int& on_node(int expert, int node) { return on_node_[index(expert, node)]; }
  [[nodiscard]] std::size_t index(int expert, int node) const {
    return static_cast<std::size_t>(expert) * static_cast<std::size_t>(shape_.nodes) + static_cast<std::size_t>(node);
  }
  std::vector<Item>& items(int gpu) { return items_[static_cast<std::size_t>(gpu)]; }
  [[nodiscard]] const std::vector<Item>& items(int gpu) const { return items_[static_cast<std::size_t>(gpu)]; }

  ClusterShape shape_;
  std::vector<std::vector<Item>> items_;  // [gpus], by falling weight
  std::vector<double> load_;              // [gpus]
  std::vector<int> on_node_;              // [experts, nodes] replicas
  std::vector<int> node_limit_;           // [experts] ceil(replicas / nodes)
};

}  // namespace moesim::placement
