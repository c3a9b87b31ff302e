// The expert computation of one rank as serving engines run it: select, sort, two grouped GEMMs with the activation
// between them, and the weighted sum; no communication. docs/cost_models.md, "Expert kernels".
#pragma once

#include <span>

#include "models/cost/tile_model.hpp"

namespace moesim::cost {

struct ExpertParameters {
  TileParameters tiles;  // launch_us is that of the whole sequence of kernels
  double elementwise;    // bytes moved by the kernels around the GEMMs, in compulsory bytes
  double routing_us;     // per 10,000 token copies of the whole expert-parallel group
  double expert_us;      // per 100 experts of the rank
  double misaligned;     // factor on the GEMMs where the intermediate width is no multiple of 16
};

struct ExpertWork {
  RowTiles rows;      // of the rank's experts
  double tokens = 0;  // of the whole expert-parallel group
  double top_k = 1;
  double experts = 0;            // of the rank
  double hidden = 0, inter = 0;  // inter: of this rank (tensor parallelism divides it)
  bool gated = true;             // three matrices instead of two
  double weight_bytes = 2;       // per element; inputs of the GEMMs have the same
};

double expert_us(const ExpertParameters& p, TilePolicy policy, const Device& device, const ExpertWork& work);
double expert_bound_us(const Device& device, const ExpertWork& work);

// The fields beyond those of the tiles.
std::span<const Field<ExpertParameters>> expert_fields();
// What an expert kernel has in place of the tile model's priors: a sequence of kernels, not one.
std::span<const Field<TileParameters>> expert_tile_fields();

}  // namespace moesim::cost
