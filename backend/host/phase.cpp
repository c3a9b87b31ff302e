#include "backend/host/phase.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "backend/executor.hpp"
#include "backend/host/kernels.hpp"

namespace moesim::backend {
namespace {

class Lowering {
 public:
  Lowering(const Plan& plan, const Op& op, const Collective& work, Rank rank, const Tensor& in, const Tensor& out)
      : plan_(plan), op_(op), w_(work), rank_(rank), in_(in), out_(out) {
    for (const std::vector<Rank>& g : plan.groups[work.groups.index()]) {
      const auto at = std::find(g.begin(), g.end(), rank);
      if (at == g.end()) continue;
      meeting_.group = g;
      meeting_.member = static_cast<std::size_t>(at - g.begin());
    }
    size_ = meeting_.group.size();
    me_ = meeting_.member;
  }

  Meeting run() {
    if (size_ == 0) return meeting_;
    switch (w_.kind) {
      case Collective::Kind::all_to_all_v:
      case Collective::Kind::send_recv:
        all_to_all();
        break;
      case Collective::Kind::all_gather_v:
        all_gather();
        break;
      case Collective::Kind::reduce_scatter_v:
        reduce_scatter();
        break;
      case Collective::Kind::all_reduce:
        all_reduce();
        break;
      case Collective::Kind::broadcast:
        broadcast();
        break;
      case Collective::Kind::reduce:
        reduce();
        break;
      case Collective::Kind::sparse_all_gather:
        sparse_all_gather();
        break;
      case Collective::Kind::sparse_reduce_scatter:
        sparse_reduce_scatter();
        break;
    }
    return std::move(meeting_);
  }

 private:
  Phase& phase() {
    meeting_.phases.emplace_back();
    meeting_.phases.back().offers.resize(size_);
    meeting_.phases.back().takes.resize(size_);
    return meeting_.phases.back();
  }
  [[nodiscard]] std::int64_t bytes(std::int64_t rows) const { return rows * w_.cols * in_.element_bytes(); }
  [[nodiscard]] std::int64_t rows_of(std::size_t member) const {
    return plan_.table(w_.counts).row_sum(meeting_.group[member].value());
  }
  [[nodiscard]] std::int64_t rows_to(std::size_t from, std::size_t to) const {
    return plan_.table(w_.counts).at(meeting_.group[from].value(), static_cast<int>(to));
  }
  // The sum over all members of their first piece.
  void sum_of_all(Phase& p, std::byte* out, std::int64_t size) const {
    Sum sum{out, size / in_.element_bytes(), w_.dtype, {}};
    for (std::size_t j = 0; j < size_; ++j) {
      p.takes[j] = {{nullptr, size}};
      sum.terms.emplace_back(j, 0);
    }
    p.sums.push_back(std::move(sum));
  }

  void all_to_all() {
    Phase& p = phase();
    std::byte* from = in_.data;
    std::byte* to = out_.data;
    for (std::size_t j = 0; j < size_; ++j) {
      const std::int64_t sent = bytes(rows_to(me_, j));
      const std::int64_t received = bytes(rows_to(j, me_));
      p.offers[j] = {{from, sent}};
      p.takes[j] = {{to, received}};
      from += sent;
      to += received;
    }
  }

  void all_gather() {
    Phase& p = phase();
    std::byte* to = out_.data;
    for (std::size_t j = 0; j < size_; ++j) {
      p.offers[j] = {{in_.data, bytes(rows_of(me_))}};
      p.takes[j] = {{to, bytes(rows_of(j))}};
      to += bytes(rows_of(j));
    }
  }

  void reduce_scatter() {
    Phase& p = phase();
    std::byte* from = in_.data;
    for (std::size_t j = 0; j < size_; ++j) {
      p.offers[j] = {{from, bytes(rows_of(j))}};
      from += bytes(rows_of(j));
    }
    sum_of_all(p, out_.data, bytes(rows_of(me_)));
  }

  // Member i sums the i-th part of the elements, then all gather the parts.
  void all_reduce() {
    const std::int64_t elements = rows_of(me_) * w_.cols;
    const auto part = [&](std::size_t i) {
      return elements * static_cast<std::int64_t>(i) / static_cast<std::int64_t>(size_) * in_.element_bytes();
    };
    Phase& scatter = phase();
    for (std::size_t j = 0; j < size_; ++j) scatter.offers[j] = {{in_.data + part(j), part(j + 1) - part(j)}};
    sum_of_all(scatter, out_.data + part(me_), part(me_ + 1) - part(me_));
    if (size_ == 1) return;
    Phase& gather = phase();
    for (std::size_t j = 0; j < size_; ++j) {
      if (j == me_) continue;
      gather.offers[j] = {{out_.data + part(me_), part(me_ + 1) - part(me_)}};
      gather.takes[j] = {{out_.data + part(j), part(j + 1) - part(j)}};
    }
  }

  void broadcast() {
    Phase& p = phase();
    const auto root = static_cast<std::size_t>(w_.root);
    if (me_ == root)
      for (std::size_t j = 0; j < size_; ++j) p.offers[j] = {{in_.data, bytes(rows_of(root))}};
    p.takes[root] = {{out_.data, bytes(rows_of(root))}};
  }

  void reduce() {
    Phase& p = phase();
    const auto root = static_cast<std::size_t>(w_.root);
    p.offers[root] = {{in_.data, bytes(rows_of(me_))}};
    if (me_ == root) sum_of_all(p, out_.data, bytes(rows_of(me_)));
  }

  // ---- sparse: a row is one expert's chunk ----

  [[nodiscard]] const ExpertPlacement& placement(PlacementId id) const { return plan_.placements[id.index()]; }
  // The member's slot of an expert, counted from its first.
  static std::optional<std::int64_t> slot(const ExpertPlacement& p, std::size_t member, LogicalExpert e) {
    for (int s = p.slot_begin[member]; s < p.slot_begin[member + 1]; ++s)
      if (p.expert_of_slot[static_cast<std::size_t>(s)] == e) return s - p.slot_begin[member];
    return std::nullopt;
  }
  [[noreturn]] void lacking(LogicalExpert e) const {
    throw Refused(fmt::format("op '{}': no rank holds expert {} before it", op_.name, e.value()));
  }
  // Who gives the expert to `member`: itself, else the first holder.
  [[nodiscard]] std::size_t giver(std::size_t member, LogicalExpert e) const {
    if (slot(placement(w_.from), member, e)) return member;
    for (std::size_t i = 0; i < size_; ++i)
      if (slot(placement(w_.from), i, e)) return i;
    lacking(e);
  }

  void sparse_all_gather() {
    Phase& p = phase();
    const ExpertPlacement& to = placement(w_.to);
    for (std::size_t j = 0; j < size_; ++j)
      for (int s = to.slot_begin[j]; s < to.slot_begin[j + 1]; ++s) {
        const LogicalExpert e = to.expert_of_slot[static_cast<std::size_t>(s)];
        const std::size_t from = giver(j, e);
        if (from == me_) p.offers[j].push_back({in_.data + bytes(*slot(placement(w_.from), me_, e)), bytes(1)});
        if (j == me_) p.takes[from].push_back({out_.data + bytes(s - to.slot_begin[j]), bytes(1)});
      }
  }

  void sparse_reduce_scatter() {
    Phase& p = phase();
    const ExpertPlacement& to = placement(w_.to);
    for (std::size_t j = 0; j < size_; ++j)
      for (int s = to.slot_begin[j]; s < to.slot_begin[j + 1]; ++s) {
        const LogicalExpert e = to.expert_of_slot[static_cast<std::size_t>(s)];
        Sum sum{out_.data + bytes(s - to.slot_begin[j]), w_.cols, w_.dtype, {}};
        for (std::size_t i = 0; i < size_; ++i) {
          const auto held = slot(placement(w_.from), i, e);
          if (!held) continue;
          if (i == me_) p.offers[j].push_back({in_.data + bytes(*held), bytes(1)});
          if (j == me_) {
            sum.terms.emplace_back(i, p.takes[i].size());
            p.takes[i].push_back({nullptr, bytes(1)});
          }
        }
        if (j == me_ && sum.terms.empty()) lacking(e);
        if (j == me_) p.sums.push_back(std::move(sum));
      }
  }

  const Plan& plan_;
  const Op& op_;
  const Collective& w_;
  Rank rank_;
  const Tensor& in_;
  const Tensor& out_;
  Meeting meeting_;
  std::size_t size_ = 0;
  std::size_t me_ = 0;
};

}  // namespace

Meeting meeting_of(const Plan& plan, const Op& op, const Collective& work, Rank rank, const Tensor& in,
                   const Tensor& out) {
  return Lowering(plan, op, work, rank, in, out).run();
}

void take(const Phase& phase, const std::function<const std::byte*(std::size_t, std::size_t)>& source) {
  for (std::size_t j = 0; j < phase.takes.size(); ++j)
    for (std::size_t i = 0; i < phase.takes[j].size(); ++i) {
      const Piece& piece = phase.takes[j][i];
      const std::byte* from = piece.data != nullptr ? source(j, i) : nullptr;
      if (piece.data != from && piece.bytes > 0) std::memcpy(piece.data, from, static_cast<std::size_t>(piece.bytes));
    }
  std::vector<const std::byte*> sources;
  for (const Sum& sum : phase.sums) {
    sources.clear();
    for (const auto& [member, piece] : sum.terms) sources.push_back(source(member, piece));
    add_up(sources, sum.elements, sum.dtype, sum.out);
  }
}

}  // namespace moesim::backend
