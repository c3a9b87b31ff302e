// Synthetic routing: a law of popularity, sampled token by token.
//
// Marginals: a token of layer l uses expert e with probability top_k * probabilities(spec, l)[e], however sampled.
//   random    tokens are independent; a stream keyed on (seed, layer, token) picks without replacement, such that
//             inclusion follows the law (drawing one by one would give popular experts less than their share)
//   expected  no noise: over all tokens an expert's count is the law's, rounded; over any range, within a few
// The order of a token's experts means nothing: a law has no gate weights.
//
// Affinity a in [0, 1]: with probability a a token's experts at layer l + 1 are the images of its experts at layer l
// under a fixed permutation of that pair of layers, otherwise it chooses afresh. The permutation maps the i-th most
// popular expert to the i-th most popular (groups to groups first, so that the limit on groups holds; equals at
// random). So marginals stay exact where layers have the same shares by rank (uniform, zipf, moeshard, without groups);
// for drawn laws and for groups of unlike content layer l sees a mixture, (1 - a) a^d of it from d layers before. With
// `expected` sampling, which tokens follow is random, so counts are then the law's on average only.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "models/load/inclusion.hpp"
#include "models/load/law.hpp"
#include "moesim/placement.hpp"
#include "moesim/routing.hpp"

namespace moesim::load {

enum class Sampling : std::uint8_t { random, expected };

struct SyntheticSpec {
  RoutingShape shape;
  Law law;
  Order order = Order::natural;
  Sampling sampling = Sampling::random;
  double affinity = 0.0;
  std::uint64_t seed = 0;
  std::int64_t law_tokens = 0;  // tokens that a law which depends on them (power_law) is of; 0 = shape.tokens
};

// Every fault of the spec (sizes, law, parameters), with empty places.
std::vector<Diagnostic> faults(const SyntheticSpec& spec);

// Throws InputError with faults(spec).
std::unique_ptr<Routing> make_synthetic(const SyntheticSpec& spec);

// [experts]: the share of a layer's token copies that each expert receives, sum 1, none above 1 / top_k: the law where
// that is possible, else the nearest to it (inclusion.hpp). Throws InputError with faults(spec).
std::vector<double> probabilities(const SyntheticSpec& spec, int moe_layer);

// max over ranks of the load / mean over ranks, where an expert's share is split evenly between its replicas.
double straggler_factor(const ExpertPlacement& placement, std::span<const double> probabilities);

constexpr std::string_view to_string(Sampling s) { return s == Sampling::random ? "random" : "expected"; }
constexpr std::string_view to_string(Order o) {
  return o == Order::natural ? "natural" : o == Order::first ? "first" : "shuffled";
}

}  // namespace moesim::load
