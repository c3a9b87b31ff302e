// What it takes to go from one map to another: which weights travel between which GPUs, and after how many steps a
// faster map has paid for its move.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "strategies/placement/problem.hpp"

namespace moesim::placement {

struct Moving {
  std::vector<std::int64_t> experts;  // [gpus * gpus], from source to destination, over all layers
  std::int64_t moved = 0;             // experts that some GPU has to fetch
  std::int64_t kept = 0;  // experts that stay on their GPU (another slot of it is a local copy, not counted)
  Bytes total;
  Bytes between_nodes;
  // Link-bound: every GPU sends and receives at once, at shape.intra inside its node and shape.inter to other nodes;
  // the busiest of these sets the time. No launch costs, no traffic of the model beside it: a floor.
  Picoseconds time;
};

// Each GPU fetches the experts that it lacks from a GPU of its node that held them, else from another node; among
// equals from the one that has sent least so far. Throws InputError where the maps are not of the same model and GPUs.
Moving moving(const LayerMaps& from, const LayerMaps& to, const ClusterShape& shape, Bytes expert_bytes);

// Renames the GPUs of every layer of `map`, and the nodes, so that the least weight travels from `reference`: in
// Mode::return_home a map is as good under any renaming of GPUs inside nodes and of whole nodes.
LayerMaps align(const LayerMaps& map, const LayerMaps& reference, const ClusterShape& shape);

// The first step after which move + steps * after is no more than steps * before; nothing where `after` is not faster.
std::optional<std::int64_t> break_even_steps(Picoseconds move, Picoseconds before, Picoseconds after);

}  // namespace moesim::placement
