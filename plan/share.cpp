#include <algorithm>
#include <cassert>

#include "moesim/plan.hpp"

namespace moesim {

Plan::Share Plan::share(Rank rank, int shares) const {
  assert(shares >= 1);
  if (shares == 1) return {0, tokens.count(static_cast<std::size_t>(owner_of_rank[rank.index()]))};
  const int owner = owner_of_rank[rank.index()];
  const auto position = std::count(owner_of_rank.begin(), owner_of_rank.begin() + rank.value(), owner);
  const std::int64_t n = tokens.count(static_cast<std::size_t>(owner));
  return {n * position / shares, n * (position + 1) / shares};
}

}  // namespace moesim
