// Which rank holds which expert. Slots (physical experts) are numbered rank by rank, so a rank's slots are contiguous.
// The same logical expert may fill several slots on different ranks (replicas).
#pragma once

#include <cstdint>
#include <vector>

#include "moesim/ids.hpp"

namespace moesim {

struct ExpertPlacement {
  std::vector<LogicalExpert> expert_of_slot;  // [slots]
  std::vector<int> slot_begin{0};             // [ranks + 1]: rank r holds slots [slot_begin[r], slot_begin[r + 1])

  [[nodiscard]] int ranks() const { return static_cast<int>(slot_begin.size()) - 1; }
  [[nodiscard]] int slots() const { return static_cast<int>(expert_of_slot.size()); }
  [[nodiscard]] int slots_on(Rank rank) const { return slot_begin[rank.index() + 1] - slot_begin[rank.index()]; }
  friend bool operator==(const ExpertPlacement&, const ExpertPlacement&) = default;
};

// Experts 0..E-1 dealt to ranks in order, earlier ranks holding one more when E does not divide.
ExpertPlacement contiguous_placement(int experts, int ranks);
// Expert e on rank e mod ranks.
ExpertPlacement round_robin_placement(int experts, int ranks);
// Throws std::invalid_argument naming the first fault: an expert without a slot, an id out of range, two replicas of
// one expert on one rank, slot_begin not monotone.
void validate(const ExpertPlacement& placement, int experts);

}  // namespace moesim
