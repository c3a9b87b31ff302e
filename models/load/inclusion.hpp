// From a law (shares of the token copies) to what one token does: with which probability it uses each group and expert.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "models/load/shape.hpp"

namespace moesim::load {

// The shape without groups that restrict nothing, and with at most top_k groups per token.
RoutingShape simplified(RoutingShape shape);

// A token uses group g with probability group[g], and, given that, expert e of the group with probability
// expert[e]: it uses e with probability pi_e = group[g] * expert[e].
//   sum_g group[g] = groups_per_token,   sum_{e in g} expert[e] = q = top_k / groups_per_token for every g
// Without groups, group = {1} and expert = pi.
//
// Group-limited routing (DeepSeek-V3, arXiv 2412.19437 section 2.1.2) takes the groups with the largest sums of their
// top top_k / groups_per_token affinities, then the top_k experts inside them. A law has no affinities to go by. Here a
// token draws its groups by their share, then q experts from each: never fewer. With independent affinities (32 experts
// in each of 8 groups, 4 groups and 8 experts per token) the real rule leaves 0.9 % of the chosen groups unused, and
// takes q = 2 from 48 % of them, 1 or 3 from 47 %.
struct Inclusion {
  std::vector<double> group;   // [expert_groups]
  std::vector<double> expert;  // [experts]
  [[nodiscard]] double of(std::size_t e) const { return group[e / (expert.size() / group.size())] * expert[e]; }
};

// The inclusion probabilities nearest to pi_e = top_k * share_e: a token uses an expert at most once, so what exceeds 1
// is scaled onto the others in proportion (first between groups, then inside each). shares sum to 1. Needs top_k to be
// a multiple of groups_per_token, at least q experts per group, and shares above 0.
Inclusion inclusion_of(std::span<const double> shares, const RoutingShape& shape);

// min(1, c * weight) with c such that the sum is `total` (<= number of positive weights).
std::vector<double> capped(std::span<const double> weights, double total);

}  // namespace moesim::load
