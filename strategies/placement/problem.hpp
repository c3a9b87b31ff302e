// What a placement solver is given: how much each expert works, how tokens move between layers, and the cluster's
// shape. Layers are MoE layers, counted over MoE layers only. GPUs are node-major: node n holds [n * g, (n + 1) * g).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "moesim/machine.hpp"
#include "moesim/placement.hpp"
#include "moesim/routing.hpp"
#include "moesim/table.hpp"
#include "moesim/units.hpp"

namespace moesim::placement {

// Where a token is between two MoE layers.
enum class Mode : std::uint8_t {
  return_home,  // every layer sends a token to its experts and back: traffic depends on the token's home rank only
  stay,         // the token waits at the GPU of its first (highest-gate) expert: what MoETuner's second program counts
};

// Which replica of an expert a token copy takes.
enum class Dispatch : std::uint8_t {
  even,         // evenly over all replicas (EPLB's assumption; vLLM)
  local_first,  // its own GPU, else its own node, else any; evenly among equals (Hecate; SGLang "static")
};

std::string_view to_string(Mode mode);
std::string_view to_string(Dispatch dispatch);

// `nodes` divides `gpus`; bandwidths are of one GPU, one direction.
struct ClusterShape {
  int gpus = 1;
  int nodes = 1;
  int slots_per_gpu = 0;
  BytesPerSecond intra{450e9};
  BytesPerSecond inter{50e9};

  [[nodiscard]] int gpus_per_node() const { return gpus / nodes; }
  [[nodiscard]] int node_of(int gpu) const { return gpu / gpus_per_node(); }
  [[nodiscard]] int slots() const { return gpus * slots_per_gpu; }
};

// The GPUs `members` of a cluster, without slots. They are on several nodes where these hold equal numbers of them, in
// order; else they count as one node. Bandwidths are what links achieve, a NIC's shared by the GPUs that use it (the
// defaults in a cluster without wires).
ClusterShape shape_of(const Cluster& cluster, std::span<const Rank> members);

// Token copies per expert, [layers, experts]. Real numbers, so that a law's weights will do.
class Loads {
 public:
  Loads() = default;
  Loads(int layers, int experts);
  [[nodiscard]] int layers() const { return layers_; }
  [[nodiscard]] int experts() const { return experts_; }
  [[nodiscard]] std::span<double> layer(int l);
  [[nodiscard]] std::span<const double> layer(int l) const;

 private:
  int layers_ = 0;
  int experts_ = 0;
  std::vector<double> cells_;
};

// [layers - 1] tables [experts, experts]: tokens that go from expert e1 of layer l to expert e2 of layer l + 1.
using Movement = std::vector<Table>;

// One placement per MoE layer.
using LayerMaps = std::vector<ExpertPlacement>;

// Tokens [first, first + count) of a trace. Plans are made on one window and judged on another.
struct Window {
  std::int64_t first = 0;
  std::int64_t count = 0;
};
// The first `train_share` of the tokens (at least one, at most all but one), and the rest.
struct Split {
  Window train;
  Window test;
};
Split split(const Routing& routing, double train_share);

// Both throw InputError when the window is empty or outside the routing, or the routing names an expert it lacks.
Loads measure_loads(const Routing& routing, Window window);

// What counts as a movement e1 -> e2 of a token with top_k experts at both layers.
enum class MovementCount : std::uint8_t {
  from_first,  // from the first expert only, where Mode::stay leaves the token: top_k movements a token
  all_pairs,   // from each to each: top_k^2
};
Movement measure_movement(const Routing& routing, Window window, MovementCount count);

// [layers] tables [experts, experts]: tokens whose first expert is e1 and which also use e2. Under Mode::stay the
// result of e2 goes to the GPU of e1.
Movement measure_company(const Routing& routing, Window window);

}  // namespace moesim::placement
