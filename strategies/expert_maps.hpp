// Which expert sits where, layer by layer, under the strategies that exchange tokens: in order, by a solver
// (strategies/placement), or as a map file says; and which replica of an expert a token copy takes.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "strategies/placement/problem.hpp"
#include "strategies/strategy.hpp"

namespace moesim::strategies {

struct ExpertMaps {
  placement::LayerMaps layers;  // [MoE layers]; members of a group as ranks
  placement::Dispatch dispatch = placement::Dispatch::even;
  std::vector<int> node_of_member;            // of a group
  std::map<std::string, std::string> origin;  // how the maps were made, for the plan's options
};

std::vector<OptionSpec> expert_map_option_specs();

// Maps for groups that place alike. Solvers see the loads of `in.history`, or without one those of the routing itself.
// Time limits do not enter: the same input gives the same maps. Throws Infeasible where no map fits the options, and
// InputError for what is wrong in a map file.
ExpertMaps expert_maps(const Input& in, const Groups& groups);

// Which copies go where: a row of counts per rank for the slots of its group, from a row per rank or per token owner. A
// source's copies of an expert go evenly
// to the replicas that its dispatch allows (all; or its own, else its node's, else all), in token order; the remainder
// rotates with the source so that no replica is preferred.
Table route_to_slots(const Table& counts, const Plan& plan, const Groups& groups, const ExpertPlacement& map,
                     const ExpertMaps& maps);

// The same in one group of all ranks, from a row of counts per rank.
Table route_to_slots(const Table& counts, const ExpertPlacement& map, const ExpertMaps& maps);

// Tokens that each rank sends to each bin, once each however many of its experts are there. bin_of_member: the members
// themselves, or what they share (a node). `sources` are the tokens of each rank or of each token owner; `routed` is
// route_to_slots().
Table tokens_to_bins(const Routing& routing, int moe_layer, const TokenRanges& sources, const Plan& plan,
                     const Groups& groups, const ExpertPlacement& map, const Table& routed,
                     const std::vector<int>& bin_of_member);

}  // namespace moesim::strategies
