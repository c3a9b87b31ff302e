// A plan that is small enough to check on paper: two ranks with 3 and 2 tokens, four experts, top-1.
//
//   rank 0 sends 1, 0, 2, 0 copies to the experts, rank 1 sends 1, 1, 0, 0; expert e is on rank e / 2
//   so rank 0 keeps 1 and sends 2; rank 1 keeps 0 and sends 2
#pragma once

#include "moesim/plan.hpp"

namespace moesim::test {

inline constexpr std::int64_t paper_hidden = 8;
Plan paper_plan();

// Experts 0, 1, ... in order, `each` on every member.
ExpertPlacement in_order(int members, int each);

}  // namespace moesim::test
