#include "backend/cuda/collective.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

namespace moesim::backend::gpu {
namespace {

using Message = Exchange::Message;
using Kind = Message::Kind;

class Lowering {
 public:
  Lowering(const NcclContext& at, const CollectiveCall& call, std::vector<Command>& out)
      : at_(at), w_(call.work), in_(call.in), out_(call.out), commands_(out), size_(at.group.size()), me_(at.member) {}

  void run() {
    exchange_.communicator = at_.communicator;
    if (size_ == 1 && w_.counts.valid()) return copy(out_.data, in_.data, rows_of(0));
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
        message({Kind::all_reduce, -1, in_.data, out_.data, elements(rows_of(me_)), w_.dtype});
        break;
      case Collective::Kind::broadcast:
        message({Kind::broadcast, w_.root, in_.data, out_.data, elements(rows_of(root())), w_.dtype});
        break;
      case Collective::Kind::reduce:
        message({Kind::reduce, w_.root, in_.data, out_.data, elements(rows_of(me_)), w_.dtype});
        break;
      case Collective::Kind::sparse_all_gather:
        sparse_all_gather();
        break;
      case Collective::Kind::sparse_reduce_scatter:
        sparse_reduce_scatter();
        break;
    }
    issue();
  }

 private:
  [[nodiscard]] std::size_t root() const { return static_cast<std::size_t>(w_.root); }
  [[nodiscard]] std::int64_t elements(std::int64_t rows) const { return rows * w_.cols; }
  [[nodiscard]] std::int64_t bytes(std::int64_t rows) const { return elements(rows) * (bits(w_.dtype) / 8); }
  [[nodiscard]] std::int64_t rows_of(std::size_t member) const {
    return at_.plan.table(w_.counts).row_sum(at_.group[member].value());
  }
  [[nodiscard]] std::int64_t rows_to(std::size_t from, std::size_t to) const {
    return at_.plan.table(w_.counts).at(at_.group[from].value(), static_cast<int>(to));
  }
  [[nodiscard]] bool even() const {
    for (std::size_t j = 1; j < size_; ++j)
      if (rows_of(j) != rows_of(0)) return false;
    return true;
  }

  // Calls without elements are left out: all members know the counts.
  void message(const Message& m) {
    if (m.elements > 0) exchange_.messages.push_back(m);
  }
  void copy(std::byte* to, const std::byte* from, std::int64_t rows) {
    if (rows > 0 && to != from) commands_.emplace_back(CopyBytes{to, from, bytes(rows)});
  }
  // What has come together is one group of calls.
  void issue() {
    if (exchange_.messages.empty()) return;
    commands_.emplace_back(exchange_);
    exchange_.messages.clear();
  }

  void all_to_all() {
    const std::byte* from = in_.data;
    std::byte* to = out_.data;
    for (std::size_t j = 0; j < size_; ++j) {
      const auto peer = static_cast<int>(j);
      if (j == me_) {
        copy(to, from, rows_to(me_, me_));
      } else {
        message({Kind::send, peer, from, nullptr, elements(rows_to(me_, j)), w_.dtype});
        message({Kind::receive, peer, nullptr, to, elements(rows_to(j, me_)), w_.dtype});
      }
      from += bytes(rows_to(me_, j));
      to += bytes(rows_to(j, me_));
    }
  }

  void all_gather() {
    const bool in_turn = w_.algorithm == Collective::Algorithm::per_root;
    if (even() && !in_turn)
      return message({Kind::all_gather, -1, in_.data, out_.data, elements(rows_of(me_)), w_.dtype});
    std::byte* to = out_.data;
    for (std::size_t j = 0; j < size_; ++j) {
      const auto peer = static_cast<int>(j);
      if (in_turn) {
        message({Kind::broadcast, peer, j == me_ ? in_.data : nullptr, to, elements(rows_of(j)), w_.dtype});
        issue();
      } else if (j == me_) {
        copy(to, in_.data, rows_of(me_));
      } else {
        message({Kind::send, peer, in_.data, nullptr, elements(rows_of(me_)), w_.dtype});
        message({Kind::receive, peer, nullptr, to, elements(rows_of(j)), w_.dtype});
      }
      to += bytes(rows_of(j));
    }
  }

  void reduce_scatter() {
    const bool in_turn = w_.algorithm == Collective::Algorithm::per_root;
    if (even() && !in_turn)
      return message({Kind::reduce_scatter, -1, in_.data, out_.data, elements(rows_of(me_)), w_.dtype});
    const std::byte* from = in_.data;
    for (std::size_t j = 0; j < size_; ++j) {
      std::byte* to = j == me_ ? out_.data : nullptr;
      message({Kind::reduce, static_cast<int>(j), from, to, elements(rows_of(j)), w_.dtype});
      if (in_turn) issue();
      from += bytes(rows_of(j));
    }
  }

  // ---- sparse: a row is one expert's chunk ----

  [[nodiscard]] const ExpertPlacement& placement(PlacementId id) const { return at_.plan.placements[id.index()]; }
  static std::optional<std::int64_t> slot(const ExpertPlacement& p, std::size_t member, LogicalExpert e) {
    for (int s = p.slot_begin[member]; s < p.slot_begin[member + 1]; ++s)
      if (p.expert_of_slot[static_cast<std::size_t>(s)] == e) return s - p.slot_begin[member];
    return std::nullopt;
  }
  [[noreturn]] void lacking(LogicalExpert e) const {
    throw Refused(fmt::format("op '{}': no rank holds expert {} before it", at_.op.name, e.value()));
  }

  // fn(member j, its slot counted from its first, expert)
  template <class Fn>
  void for_slots_of(const ExpertPlacement& p, const Fn& fn) const {
    for (std::size_t j = 0; j < size_; ++j)
      for (int s = p.slot_begin[j]; s < p.slot_begin[j + 1]; ++s)
        fn(j, s - p.slot_begin[j], p.expert_of_slot[static_cast<std::size_t>(s)]);
  }

  void sparse_all_gather() {
    for_slots_of(placement(w_.to), [&](std::size_t j, std::int64_t s, LogicalExpert e) {
      std::size_t from = j;
      if (!slot(placement(w_.from), j, e)) {
        from = 0;
        while (from < size_ && !slot(placement(w_.from), from, e)) ++from;
        if (from == size_) lacking(e);
      }
      const std::byte* mine = from == me_ ? in_.data + bytes(*slot(placement(w_.from), me_, e)) : nullptr;
      if (from == me_ && j == me_)
        copy(out_.data + bytes(s), mine, 1);
      else if (from == me_)
        message({Kind::send, static_cast<int>(j), mine, nullptr, w_.cols, w_.dtype});
      else if (j == me_)
        message({Kind::receive, static_cast<int>(from), nullptr, out_.data + bytes(s), w_.cols, w_.dtype});
    });
  }

  // Partial chunks travel to the slot's holder, which adds them in member order, rounding once.
  void sparse_reduce_scatter() {
    std::vector<Sum> sums;
    for_slots_of(placement(w_.to), [&](std::size_t j, std::int64_t s, LogicalExpert e) {
      Sum sum;
      sum.elements = w_.cols;
      sum.dtype = w_.dtype;
      sum.y = out_.data + bytes(s);
      for (std::size_t i = 0; i < size_; ++i) {
        const auto held = slot(placement(w_.from), i, e);
        if (!held) continue;
        if (i == me_ && j != me_)
          message({Kind::send, static_cast<int>(j), in_.data + bytes(*held), nullptr, w_.cols, w_.dtype});
        if (j != me_) continue;
        std::byte* partial = in_.data + bytes(*held);
        if (i != me_) {
          partial = at_.staging(bytes(1));
          message({Kind::receive, static_cast<int>(i), nullptr, partial, w_.cols, w_.dtype});
        }
        if (sum.terms.size() == Sum::most)
          throw Refused(fmt::format("op '{}': more than {} ranks hold expert {}", at_.op.name, Sum::most, e.value()));
        sum.terms.push_back({partial, w_.dtype});
      }
      if (j != me_) return;
      if (sum.terms.empty()) lacking(e);
      sums.push_back(sum);
    });
    issue();
    for (const Sum& sum : sums) commands_.emplace_back(sum);
  }

  const NcclContext& at_;
  const Collective& w_;
  const Tensor& in_;
  const Tensor& out_;
  std::vector<Command>& commands_;
  std::size_t size_;
  std::size_t me_;
  Exchange exchange_;
};

}  // namespace

void lower_to_nccl(const NcclContext& at, const CollectiveCall& call, std::vector<Command>& out) {
  Lowering(at, call, out).run();
}

}  // namespace moesim::backend::gpu
