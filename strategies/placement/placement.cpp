#include "moesim/placement.hpp"

#include <fmt/format.h>

#include <stdexcept>

namespace moesim {

namespace {

void require_shape(int experts, int ranks) {
  if (experts < 0) throw std::invalid_argument(fmt::format("a placement of {} experts", experts));
  if (ranks < 1) throw std::invalid_argument(fmt::format("a placement on {} ranks", ranks));
}

}  // namespace

ExpertPlacement contiguous_placement(int experts, int ranks) {
  require_shape(experts, ranks);
  ExpertPlacement out;
  for (int e = 0; e < experts; ++e) out.expert_of_slot.emplace_back(e);
  for (int r = 0; r < ranks; ++r)
    out.slot_begin.push_back(out.slot_begin.back() + experts / ranks + (r < experts % ranks ? 1 : 0));
  return out;
}

ExpertPlacement round_robin_placement(int experts, int ranks) {
  require_shape(experts, ranks);
  ExpertPlacement out;
  for (int r = 0; r < ranks; ++r) {
    for (int e = r; e < experts; e += ranks) out.expert_of_slot.emplace_back(e);
    out.slot_begin.push_back(out.slots());
  }
  return out;
}

void validate(const ExpertPlacement& placement, int experts) {
  const auto& begin = placement.slot_begin;
  if (begin.size() < 2 || begin.front() != 0 || begin.back() != placement.slots())
    throw std::invalid_argument(fmt::format("slot_begin does not run from 0 to the {} slots", placement.slots()));
  for (int r = 0; r < placement.ranks(); ++r)
    if (placement.slots_on(Rank(r)) < 0)
      throw std::invalid_argument(fmt::format("slot_begin falls from rank {} to rank {}", r, r + 1));

  std::vector<int> last_rank(static_cast<std::size_t>(experts), -1);  // the last rank seen to hold each expert
  for (int r = 0; r < placement.ranks(); ++r) {
    for (int s = begin[Rank(r).index()]; s < begin[Rank(r).index() + 1]; ++s) {
      const LogicalExpert expert = placement.expert_of_slot[PhysicalExpert(s).index()];
      if (!expert.valid() || expert.value() >= experts)
        throw std::invalid_argument(
            fmt::format("slot {} holds expert {}; experts are numbered 0 to {}", s, expert.value(), experts - 1));
      if (last_rank[expert.index()] == r)
        throw std::invalid_argument(fmt::format("rank {} holds expert {} twice", r, expert.value()));
      last_rank[expert.index()] = r;
    }
  }
  for (int e = 0; e < experts; ++e)
    if (last_rank[LogicalExpert(e).index()] < 0) throw std::invalid_argument(fmt::format("expert {} has no slot", e));
}

}  // namespace moesim
