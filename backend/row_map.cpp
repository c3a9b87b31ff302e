#include "backend/row_map.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "backend/numbers.hpp"

namespace moesim::backend {
namespace {

bool at_copies(RowOrder o) { return o == RowOrder::by_slot || o == RowOrder::by_source; }

struct Place {
  const std::vector<Rank>* group = nullptr;
  std::size_t member = 0;
};

Place place_of(const Groups& groups, Rank rank) {
  for (const std::vector<Rank>& g : groups) {
    const auto at = std::find(g.begin(), g.end(), rank);
    if (at != g.end()) return {&g, static_cast<std::size_t>(at - g.begin())};
  }
  return {};
}

// Rows of one order, as cells that lie one after the other: a cell is a pair (member, slot), or for unique rows a
// member.
class Cells {
 public:
  Cells(std::size_t outer, std::size_t inner) : inner_(inner), begin_(outer * inner + 1) {}
  std::int64_t& size(std::size_t o, std::size_t i) { return begin_[o * inner_ + i + 1]; }
  void lay_out() {
    for (std::size_t c = 1; c < begin_.size(); ++c) begin_[c] += begin_[c - 1];
  }
  [[nodiscard]] std::int64_t begin(std::size_t o, std::size_t i) const { return begin_[o * inner_ + i]; }
  [[nodiscard]] std::int64_t rows() const { return begin_.back(); }

 private:
  std::size_t inner_;
  std::vector<std::int64_t> begin_;
};

}  // namespace

const std::vector<ExpertIndex>& RowMaps::choices(int moe_layer, int owner) {
  std::vector<ExpertIndex>& out = choices_[{moe_layer, owner}];
  const auto o = static_cast<std::size_t>(owner);
  const std::int64_t tokens = plan_.tokens.count(o);
  if (out.empty() && tokens > 0) {
    const Routing& routing = inputs_.routing;
    if (moe_layer >= routing.moe_layers() || plan_.tokens.total() > routing.tokens())
      throw Refused(fmt::format("the routing has {} MoE layers and {} tokens, the plan {} tokens and a layer {}",
                                routing.moe_layers(), routing.tokens(), plan_.tokens.total(), moe_layer));
    out.resize(static_cast<std::size_t>(tokens * routing.top_k()));
    routing.assign(moe_layer, plan_.tokens.begin[o], out);
  }
  return out;
}

std::vector<RowMaps::Copy> RowMaps::copies(const Op& op, const Permute& work, Rank rank, int member) {
  const int owner = plan_.owner_of_rank[rank.index()];
  const std::vector<ExpertIndex>& chosen = choices(work.moe_layer, owner);
  const auto routed = plan_.table(work.routed).row(rank.value());
  const auto k = static_cast<std::size_t>(inputs_.routing.top_k());

  // The copies of an expert fill its slots one after the other; slots are numbered in placement order.
  std::vector<std::vector<int>> slots_of(static_cast<std::size_t>(inputs_.routing.experts()));
  if (work.placement.valid()) {
    const ExpertPlacement& p = plan_.placements[work.placement.index()];
    for (int s = 0; s < p.slots(); ++s) {
      const LogicalExpert e = p.expert_of_slot[static_cast<std::size_t>(s)];
      if (e.index() < slots_of.size()) slots_of[e.index()].push_back(s);
    }
  } else {
    for (std::size_t e = 0; e < slots_of.size() && e < routed.size(); ++e) slots_of[e] = {static_cast<int>(e)};
  }
  std::vector<std::size_t> replica(slots_of.size());
  std::vector<std::int64_t> sent(routed.size());
  std::vector<float> gates(k);
  const Plan::Share share = plan_.share(rank, work.shares);
  const std::size_t begin = static_cast<std::size_t>(share.first) * k;
  const std::size_t end = static_cast<std::size_t>(share.last) * k;
  std::vector<Copy> out;
  out.reserve(end - begin);
  for (std::size_t i = begin; i < end; ++i) {
    const auto token = static_cast<std::int64_t>(i / k);
    if (i % k == 0)
      gate_weights(inputs_.seed, work.moe_layer, plan_.tokens.begin[static_cast<std::size_t>(owner)] + token, gates);
    const auto e = static_cast<std::size_t>(chosen[i]);
    std::size_t& at = replica[e];
    const auto full = [&](int s) { return sent[static_cast<std::size_t>(s)] == routed[static_cast<std::size_t>(s)]; };
    while (at < slots_of[e].size() && full(slots_of[e][at])) ++at;
    if (at == slots_of[e].size())
      throw Refused(
          fmt::format("op '{}': the routing sends more copies of rank {} to expert {} than the plan; it is "
                      "not the routing that the plan was made with",
                      op.name, rank.value(), e));
    const int slot = slots_of[e][at];
    const std::int64_t index = sent[static_cast<std::size_t>(slot)]++;
    if (work.capacity == 0 || index < work.capacity)
      out.push_back({member, slot, token, index, gates[i % k], static_cast<std::int32_t>(i + (i / k + 1) * k)});
  }
  for (std::size_t s = 0; s < routed.size(); ++s)
    if (sent[s] != routed[s])
      throw Refused(
          fmt::format("op '{}': the routing sends {} copies of rank {} to slot {}, the plan {}; it is not the "
                      "routing that the plan was made with",
                      op.name, sent[s], rank.value(), s, routed[s]));
  return out;
}

RowMap RowMaps::of(const Op& op, const Permute& work, Rank rank) {
  const Place me = place_of(plan_.groups[work.groups.index()], rank);
  if (me.group == nullptr)
    throw Refused(fmt::format("op '{}': rank {} is in none of its groups", op.name, rank.value()));
  const auto at_owner = [](RowOrder o) { return o == RowOrder::token || o == RowOrder::unique_by_rank; };
  const bool sending = at_owner(work.from) || at_owner(work.to);

  const std::size_t members = me.group->size();
  const auto slots = static_cast<std::size_t>(plan_.table(work.routed).cols());
  std::size_t first_slot = 0;
  std::size_t last_slot = slots;
  std::vector<std::size_t> member_of_slot(slots);
  if (work.placement.valid()) {
    const ExpertPlacement& p = plan_.placements[work.placement.index()];
    for (std::size_t j = 0; j < members; ++j)
      for (int s = p.slot_begin[j]; s < p.slot_begin[j + 1]; ++s) member_of_slot[static_cast<std::size_t>(s)] = j;
    if (!sending) {
      first_slot = static_cast<std::size_t>(p.slot_begin[me.member]);
      last_slot = static_cast<std::size_t>(p.slot_begin[me.member + 1]);
    }
  }

  // The copies that this rank sees here: its own tokens', or all members' for its own slots.
  std::vector<Copy> seen;
  for (std::size_t i = 0; i < members; ++i) {
    if (sending && i != me.member) continue;
    for (const Copy& c : copies(op, work, (*me.group)[i], static_cast<int>(i)))
      if (static_cast<std::size_t>(c.slot) >= first_slot && static_cast<std::size_t>(c.slot) < last_slot)
        seen.push_back(c);
  }

  // Row of every copy in an order of copies.
  const auto rows_of_copies = [&](RowOrder order, std::int64_t& rows) {
    const bool slot_first = order == RowOrder::by_slot;
    Cells cells(slot_first ? slots : members, slot_first ? members : slots);
    const auto cell = [&](std::size_t m, std::size_t s) { return slot_first ? std::pair(s, m) : std::pair(m, s); };
    if (work.capacity > 0) {
      for (std::size_t m = 0; m < members; ++m)
        for (std::size_t s = first_slot; s < last_slot; ++s)
          if (!sending || m == me.member) cells.size(cell(m, s).first, cell(m, s).second) = work.capacity;
    } else {
      for (const Copy& c : seen) {
        const auto [o, i] = cell(static_cast<std::size_t>(c.member), static_cast<std::size_t>(c.slot));
        ++cells.size(o, i);
      }
    }
    cells.lay_out();
    rows = cells.rows();
    std::vector<std::int64_t> out(seen.size());
    for (std::size_t n = 0; n < seen.size(); ++n) {
      const auto [o, i] = cell(static_cast<std::size_t>(seen[n].member), static_cast<std::size_t>(seen[n].slot));
      out[n] = cells.begin(o, i) + seen[n].index;
    }
    return out;
  };

  // Row of every copy's token in an order of tokens, where a row may serve several copies.
  const auto rows_of_tokens = [&](RowOrder order, std::int64_t& rows) {
    std::vector<std::int64_t> tokens(members);
    for (std::size_t i = 0; i < members; ++i)
      tokens[i] = plan_.tokens.count(static_cast<std::size_t>(plan_.owner_of_rank[(*me.group)[i].index()]));
    // A cell is the owner's tokens (`token`), those for each member (unique_by_rank), or those from each member.
    const auto cell = [&](const Copy& c) -> std::size_t {
      if (order == RowOrder::token) return 0;
      return order == RowOrder::unique_by_rank ? member_of_slot[static_cast<std::size_t>(c.slot)]
                                               : static_cast<std::size_t>(c.member);
    };
    const bool all = order == RowOrder::token || (order == RowOrder::unique_by_source && !work.placement.valid());
    std::vector<std::vector<std::int64_t>> row(members);
    for (std::size_t i = 0; i < members; ++i) {
      const std::size_t source = order == RowOrder::unique_by_source ? i : me.member;
      if (order == RowOrder::token && i > 0) break;
      row[i].assign(static_cast<std::size_t>(tokens[source]), all ? 0 : -1);
    }
    for (const Copy& c : seen) row[cell(c)][static_cast<std::size_t>(c.token)] = 0;
    std::int64_t next = 0;
    for (std::vector<std::int64_t>& r : row)
      for (std::int64_t& at : r)
        if (at == 0) at = next++;
    rows = next;
    std::vector<std::int64_t> out(seen.size());
    for (std::size_t n = 0; n < seen.size(); ++n) out[n] = row[cell(seen[n])][static_cast<std::size_t>(seen[n].token)];
    return out;
  };

  const auto rows_of = [&](RowOrder order, std::int64_t& rows) {
    return at_copies(order) ? rows_of_copies(order, rows) : rows_of_tokens(order, rows);
  };
  std::int64_t rows_in = 0;
  std::int64_t rows_out = 0;
  const std::vector<std::int64_t> from = rows_of(work.from, rows_in);
  const std::vector<std::int64_t> to = rows_of(work.to, rows_out);
  if (rows_in != plan_.rows(work.rows_in, rank) || rows_out != plan_.rows(work.rows_out, rank))
    throw Refused(fmt::format(
        "op '{}': the routing gives {} rows in and {} out on rank {}, the plan {} and {}; it is "
        "not the routing that the plan was made with",
        op.name, rows_in, rows_out, rank.value(), plan_.rows(work.rows_in, rank), plan_.rows(work.rows_out, rank)));

  // Between two orders of tokens a pair of rows counts once however many copies share it; copies are summed by weight.
  struct Term {
    std::int64_t to;
    std::int64_t from;
    float weight;
    std::int32_t gate;
  };
  const bool weighted = at_copies(work.adjoint ? work.to : work.from) && !at_copies(work.adjoint ? work.from : work.to);
  std::vector<Term> terms;
  terms.reserve(seen.size());
  for (std::size_t n = 0; n < seen.size(); ++n) terms.push_back({to[n], from[n], seen[n].gate, seen[n].element});
  std::sort(terms.begin(), terms.end(),
            [](const Term& a, const Term& b) { return std::pair(a.to, a.from) < std::pair(b.to, b.from); });
  if (!at_copies(work.from) && !at_copies(work.to))
    terms.erase(std::unique(terms.begin(), terms.end(),
                            [](const Term& a, const Term& b) { return a.to == b.to && a.from == b.from; }),
                terms.end());
  RowMap map;
  map.begin.assign(static_cast<std::size_t>(rows_out) + 1, 0);
  for (const Term& t : terms) {
    ++map.begin[static_cast<std::size_t>(t.to) + 1];
    map.from.push_back(static_cast<std::int32_t>(t.from));
    if (!weighted) continue;
    map.weight.push_back(t.weight);
    map.gate.push_back(t.gate);
  }
  for (std::size_t i = 1; i < map.begin.size(); ++i) map.begin[i] += map.begin[i - 1];
  return map;
}

std::vector<std::int32_t> RowMaps::counts(const Permute& work, Rank rank, std::int64_t cols, bool per_member) const {
  const auto routed = plan_.table(work.routed).row(rank.value());
  std::vector<std::int32_t> out;
  const auto row = [&](std::size_t first, std::size_t last) {
    for (std::size_t c = 0; c < static_cast<std::size_t>(cols); ++c)
      out.push_back(first + c < last ? routed[first + c] : 0);
  };
  if (!per_member || !work.placement.valid()) {
    row(0, routed.size());
    return out;
  }
  const ExpertPlacement& p = plan_.placements[work.placement.index()];
  for (std::size_t j = 0; j + 1 < p.slot_begin.size(); ++j)
    row(static_cast<std::size_t>(p.slot_begin[j]), static_cast<std::size_t>(p.slot_begin[j + 1]));
  return out;
}

}  // namespace moesim::backend
