#include "backend/collective_view.hpp"

#include <fmt/format.h>

#include <cassert>

#include "backend/executor.hpp"

namespace moesim::backend {

CollectiveView::CollectiveView(const Plan& plan, const Op& op, const CollectiveCall& call, Rank rank)
    : plan_(plan), op_(op), w_(call.work), in_(call.in), out_(call.out) {
  const Membership me = membership(plan.groups[w_.groups.index()], rank);
  assert(me.group != nullptr);
  group_ = me.group;
  size_ = me.group->size();
  me_ = me.member;
}

std::int64_t CollectiveView::part_begin(std::int64_t all, std::size_t i) const {
  // NOLINTNEXTLINE(clang-analyzer-core.DivideZero): a member's group is not empty
  return all * static_cast<std::int64_t>(i) / static_cast<std::int64_t>(size_);
}

std::int64_t CollectiveView::rows_of(std::size_t member) const {
  return plan_.table(w_.counts).row_sum(rank_of(member).value());
}
std::int64_t CollectiveView::rows_to(std::size_t from, std::size_t to) const {
  return plan_.table(w_.counts).at(rank_of(from).value(), static_cast<int>(to));
}

std::vector<CollectiveView::Slot> CollectiveView::slots(PlacementId id) const {
  const ExpertPlacement& p = plan_.placements[id.index()];
  std::vector<Slot> out;
  for (std::size_t j = 0; j < size_; ++j)
    for (int s = p.slot_begin[j]; s < p.slot_begin[j + 1]; ++s)
      out.push_back({j, s - p.slot_begin[j], p.expert_of_slot[static_cast<std::size_t>(s)]});
  return out;
}

std::optional<std::int64_t> CollectiveView::slot(PlacementId id, std::size_t member, LogicalExpert e) const {
  const ExpertPlacement& p = plan_.placements[id.index()];
  for (int s = p.slot_begin[member]; s < p.slot_begin[member + 1]; ++s)
    if (p.expert_of_slot[static_cast<std::size_t>(s)] == e) return s - p.slot_begin[member];
  return std::nullopt;
}

std::size_t CollectiveView::giver(std::size_t member, LogicalExpert e) const {
  return slot(w_.from, member, e) ? member : first_holder(e);
}

std::size_t CollectiveView::first_holder(LogicalExpert e) const {
  for (std::size_t i = 0; i < size_; ++i)
    if (slot(w_.from, i, e)) return i;
  lacking(e);
}

void CollectiveView::lacking(LogicalExpert e) const {
  throw Refused(fmt::format("op '{}': no rank holds expert {} before it", op_.name, e.value()));
}

}  // namespace moesim::backend
