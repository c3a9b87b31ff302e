#include "backend/host/phase.hpp"

#include <cstring>

#include "backend/collective_view.hpp"
#include "backend/host/kernels.hpp"

namespace moesim::backend {
namespace {

class Lowering : public CollectiveView {
 public:
  Lowering(const Plan& plan, const Op& op, const CollectiveCall& call, Rank rank)
      : CollectiveView(plan, op, call, rank) {
    meeting_.group = *group_;
    meeting_.member = me_;
  }
  Meeting run() {
    by_kind(w_, *this);
    return std::move(meeting_);
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
    sum_of_all(p, out_.data, elements(rows_of(me_)));
  }

  // Member i sums the i-th part of the elements, then all gather the parts.
  void all_reduce() {
    const std::int64_t all = elements(rows_of(me_));
    const auto begin = [&](std::size_t i) { return part_begin(all, i); };
    const auto part = [&](const Tensor& of, std::size_t i) -> Piece {
      return {of.data + begin(i) * of.element_bytes(), (begin(i + 1) - begin(i)) * of.element_bytes()};
    };
    Phase& scatter = phase();
    for (std::size_t j = 0; j < size_; ++j) scatter.offers[j] = {part(in_, j)};
    sum_of_all(scatter, part(out_, me_).data, begin(me_ + 1) - begin(me_));
    if (size_ == 1) return;
    Phase& gather = phase();
    for (std::size_t j = 0; j < size_; ++j) {
      if (j == me_) continue;
      gather.offers[j] = {part(out_, me_)};
      gather.takes[j] = {part(out_, j)};
    }
  }

  void broadcast() {
    Phase& p = phase();
    if (me_ == root())
      for (std::size_t j = 0; j < size_; ++j) p.offers[j] = {{in_.data, bytes(rows_of(root()))}};
    p.takes[root()] = {{out_.data, bytes(rows_of(root()))}};
  }

  void reduce() {
    Phase& p = phase();
    p.offers[root()] = {{in_.data, bytes(rows_of(me_))}};
    if (me_ == root()) sum_of_all(p, out_.data, elements(rows_of(me_)));
  }

  void sparse_all_gather() {
    Phase& p = phase();
    for (const Slot& to : slots(w_.to)) {
      const std::size_t from = giver(to.member, to.expert);
      if (from == me_) p.offers[to.member].push_back({in_.data + bytes(*slot(w_.from, me_, to.expert)), bytes(1)});
      if (to.member == me_) p.takes[from].push_back({out_.data + bytes(to.row), bytes(1)});
    }
  }

  void sparse_reduce_scatter() {
    Phase& p = phase();
    for (const Slot& to : slots(w_.to)) {
      Sum sum{out_.data + bytes(to.row), w_.cols, w_.dtype, {}};
      for (std::size_t i = 0; i < size_; ++i) {
        const auto held = slot(w_.from, i, to.expert);
        if (!held) continue;
        if (i == me_) p.offers[to.member].push_back({in_.data + bytes(*held), bytes(1)});
        if (to.member != me_) continue;
        sum.terms.emplace_back(i, p.takes[i].size());
        p.takes[i].push_back({nullptr, bytes(1)});
      }
      if (to.member != me_) continue;
      if (sum.terms.empty()) lacking(to.expert);
      p.sums.push_back(std::move(sum));
    }
  }

 private:
  Phase& phase() {
    meeting_.phases.emplace_back();
    meeting_.phases.back().offers.resize(size_);
    meeting_.phases.back().takes.resize(size_);
    return meeting_.phases.back();
  }
  // The sum over all members of their first piece.
  void sum_of_all(Phase& p, std::byte* out, std::int64_t count) const {
    Sum sum{out, count, w_.dtype, {}};
    for (std::size_t j = 0; j < size_; ++j) {
      p.takes[j] = {{nullptr, count * in_.element_bytes()}};
      sum.terms.emplace_back(j, 0);
    }
    p.sums.push_back(std::move(sum));
  }

  Meeting meeting_;
};

}  // namespace

Meeting meeting_of(const Plan& plan, const Op& op, const CollectiveCall& call, Rank rank) {
  return Lowering(plan, op, call, rank).run();
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
