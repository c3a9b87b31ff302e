// Application bytes of a collective at one rank, as the head of Traffic in plan.hpp defines them.
#include <algorithm>
#include <stdexcept>

#include "moesim/plan.hpp"

namespace moesim {
namespace {

// The group of a rank and its position there; empty where the rank takes no part.
struct Membership {
  const std::vector<Rank>* group = nullptr;
  std::size_t position = 0;
};

Membership find(const Groups& groups, Rank rank) {
  for (const std::vector<Rank>& g : groups) {
    const auto at = std::find(g.begin(), g.end(), rank);
    if (at != g.end()) return {&g, static_cast<std::size_t>(at - g.begin())};
  }
  return {};
}

bool holds(const ExpertPlacement& p, Rank rank, LogicalExpert expert) {
  const auto begin = p.expert_of_slot.begin() + p.slot_begin[rank.index()];
  const auto end = p.expert_of_slot.begin() + p.slot_begin[rank.index() + 1];
  return std::find(begin, end, expert) != end;
}

// Chunks of `to` that a rank lacks in `from`, and those of others that it is the first holder of.
struct SparseRows {
  std::int64_t gained = 0;
  std::int64_t given = 0;
};

SparseRows sparse_rows(const ExpertPlacement& from, const ExpertPlacement& to, Rank rank) {
  SparseRows out;
  for (int r = 0; r < to.ranks(); ++r) {
    for (int s = to.slot_begin[static_cast<std::size_t>(r)]; s < to.slot_begin[static_cast<std::size_t>(r) + 1]; ++s) {
      const LogicalExpert e = to.expert_of_slot[static_cast<std::size_t>(s)];
      if (holds(from, Rank(r), e)) continue;
      if (Rank(r) == rank) ++out.gained;
      if (Rank(r) != rank && holds(from, rank, e)) {
        bool first = true;
        for (int q = 0; q < rank.value(); ++q) first = first && !holds(from, Rank(q), e);
        if (first) ++out.given;
      }
    }
  }
  return out;
}

// Where several members keep a chunk, the others of them send their part to the first and get the sum from it.
Traffic replica_rows(const ExpertPlacement& from, const ExpertPlacement& kept, Rank rank) {
  std::int64_t sent = 0;
  std::int64_t received = 0;
  const auto begin = kept.slot_begin[rank.index()];
  for (int s = begin; s < kept.slot_begin[rank.index() + 1]; ++s) {
    const LogicalExpert e = kept.expert_of_slot[static_cast<std::size_t>(s)];
    int first = 0;
    while (!holds(kept, Rank(first), e)) ++first;
    if (first != rank.value()) {
      sent += holds(from, rank, e) ? 1 : 0;
      ++received;
      continue;
    }
    for (int r = first + 1; r < kept.ranks(); ++r) {
      if (!holds(kept, Rank(r), e)) continue;
      ++sent;
      received += holds(from, Rank(r), e) ? 1 : 0;
    }
  }
  return {Bytes(sent), Bytes(received)};  // rows so far
}

}  // namespace

Traffic traffic(const Plan& plan, const Collective& c, Rank rank) {
  const Membership me = find(plan.groups[c.groups.index()], rank);
  if (me.group == nullptr) return {};
  const auto size = static_cast<std::int64_t>(me.group->size());
  const Rank member(me.position);  // as placements number the ranks of a group
  const auto bytes = [&](std::int64_t rows) { return storage(detail::checked_mul(rows, c.cols), c.dtype); };
  const auto rows_of = [&](Rank r) { return plan.table(c.counts).row_sum(r.value()); };
  std::int64_t others = 0;
  if (c.kind == Collective::Kind::all_gather_v || c.kind == Collective::Kind::reduce_scatter_v)
    for (const Rank r : *me.group)
      if (r != rank) others += rows_of(r);

  switch (c.kind) {
    case Collective::Kind::all_to_all_v:
    case Collective::Kind::send_recv: {
      const Table& t = plan.table(c.counts);
      std::int64_t sent = 0;
      std::int64_t received = 0;
      for (std::size_t j = 0; j < me.group->size(); ++j) {
        if (j == me.position) continue;
        sent += t.at(rank.value(), static_cast<int>(j));
        received += t.at((*me.group)[j].value(), static_cast<int>(me.position));
      }
      return {bytes(sent), bytes(received)};
    }
    case Collective::Kind::all_gather_v:
      return {bytes(rows_of(rank) * (size - 1)), bytes(others)};
    case Collective::Kind::reduce_scatter_v:
      return {bytes(others), size > 1 ? bytes(rows_of(rank)) : Bytes(0)};
    case Collective::Kind::all_reduce:
      return size > 1 ? Traffic{bytes(rows_of(rank)), bytes(rows_of(rank))} : Traffic{};
    case Collective::Kind::broadcast:
      if (static_cast<int>(me.position) == c.root) return {bytes(rows_of(rank) * (size - 1)), Bytes(0)};
      return {Bytes(0), bytes(rows_of(rank))};
    case Collective::Kind::reduce:
      if (static_cast<int>(me.position) == c.root) return {Bytes(0), size > 1 ? bytes(rows_of(rank)) : Bytes(0)};
      return {bytes(rows_of(rank)), Bytes(0)};
    case Collective::Kind::sparse_all_gather: {
      const SparseRows rows = sparse_rows(plan.placements[c.from.index()], plan.placements[c.to.index()], member);
      return {bytes(rows.given), bytes(rows.gained)};
    }
    case Collective::Kind::sparse_reduce_scatter: {
      // The reverse movement: holders that are not kept send their partial sums to the kept ones.
      const SparseRows rows = sparse_rows(plan.placements[c.to.index()], plan.placements[c.from.index()], member);
      const Traffic replicas = replica_rows(plan.placements[c.from.index()], plan.placements[c.to.index()], member);
      return {bytes(rows.gained + replicas.sent.value()), bytes(rows.given + replicas.received.value())};
    }
  }
  throw std::logic_error("unknown collective");
}

}  // namespace moesim
