// A collective from one member's seat: who is in its group, and how much each has (docs/plan_format.md). Executors
// derive from it and say how each kind moves its bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "backend/bind.hpp"

namespace moesim::backend {

class CollectiveView {
 public:
  // The rank must be a member of one of the collective's groups.
  CollectiveView(const Plan& plan, const Op& op, const CollectiveCall& call, Rank rank);

 protected:
  [[nodiscard]] Rank rank_of(std::size_t member) const { return (*group_)[member]; }
  [[nodiscard]] std::size_t root() const { return static_cast<std::size_t>(w_.root); }
  [[nodiscard]] std::int64_t elements(std::int64_t rows) const { return rows * w_.cols; }
  [[nodiscard]] std::int64_t bytes(std::int64_t rows) const { return elements(rows) * (bits(w_.dtype) / 8); }
  // Where the i-th of `all` elements' parts begins, one part a member.
  [[nodiscard]] std::int64_t part_begin(std::int64_t all, std::size_t i) const;
  // Of the member; of all_to_all_v and send_recv: what `from` has for `to`.
  [[nodiscard]] std::int64_t rows_of(std::size_t member) const;
  [[nodiscard]] std::int64_t rows_to(std::size_t from, std::size_t to) const;

  // ---- sparse collectives: a row is one expert's chunk ----

  // A slot of a member, counted from its first, and the expert in it.
  struct Slot {
    std::size_t member;
    std::int64_t row;
    LogicalExpert expert;
  };
  [[nodiscard]] std::vector<Slot> slots(PlacementId id) const;  // member by member
  [[nodiscard]] std::optional<std::int64_t> slot(PlacementId id, std::size_t member, LogicalExpert e) const;
  // Throws Refused where nobody in `from` holds it.
  [[nodiscard]] std::size_t first_holder(LogicalExpert e) const;
  // Who gives the expert to `member`: itself, else the first holder in `from`. Throws Refused where there is none.
  [[nodiscard]] std::size_t giver(std::size_t member, LogicalExpert e) const;
  [[noreturn]] void lacking(LogicalExpert e) const;

  const Plan& plan_;
  const Op& op_;
  const Collective& w_;
  const Tensor& in_;
  const Tensor& out_;
  const std::vector<Rank>* group_;
  std::size_t size_;
  std::size_t me_;
};

// Calls the member function of the collective's kind.
template <class Lowering>
void by_kind(const Collective& work, Lowering& to) {
  switch (work.kind) {
    case Collective::Kind::all_to_all_v:
    case Collective::Kind::send_recv:
      return to.all_to_all();
    case Collective::Kind::all_gather_v:
      return to.all_gather();
    case Collective::Kind::reduce_scatter_v:
      return to.reduce_scatter();
    case Collective::Kind::all_reduce:
      return to.all_reduce();
    case Collective::Kind::broadcast:
      return to.broadcast();
    case Collective::Kind::reduce:
      return to.reduce();
    case Collective::Kind::sparse_all_gather:
      return to.sparse_all_gather();
    case Collective::Kind::sparse_reduce_scatter:
      return to.sparse_reduce_scatter();
  }
}

}  // namespace moesim::backend
