// Which GPUs of a group reach each other without a NIC.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "moesim/topology.hpp"

namespace moesim::hardware {

// Positions in `group`, by island: a node, or several in one NVLink domain. Islands in the order of their first ranks,
// the members of each in the group's order.
std::vector<std::vector<std::size_t>> islands(const Topology& topology, std::span<const Rank> group);

}  // namespace moesim::hardware
