#include "backend/cuda/collective.hpp"

#include <fmt/format.h>

#include "backend/collective_view.hpp"
#include "backend/executor.hpp"

namespace moesim::backend::gpu {
namespace {

using Message = Exchange::Message;
using Kind = Message::Kind;

class Lowering : public CollectiveView {
 public:
  Lowering(const NcclContext& at, const CollectiveCall& call, std::vector<Command>& out)
      : CollectiveView(at.plan, at.op, call, at.rank), at_(at), commands_(out) {}

  void run() {
    exchange_.communicator = at_.communicator;
    if (size_ == 1 && w_.counts.valid()) return copy(out_.data, in_.data, rows_of(0));
    by_kind(w_, *this);
    issue();
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

  void all_reduce() { message({Kind::all_reduce, -1, in_.data, out_.data, elements(rows_of(me_)), w_.dtype}); }
  void broadcast() { message({Kind::broadcast, w_.root, in_.data, out_.data, elements(rows_of(root())), w_.dtype}); }
  void reduce() { message({Kind::reduce, w_.root, in_.data, out_.data, elements(rows_of(me_)), w_.dtype}); }

  void sparse_all_gather() {
    for (const Slot& to : slots(w_.to)) {
      const std::size_t from = giver(to.member, to.expert);
      const std::byte* mine = from == me_ ? in_.data + bytes(*slot(w_.from, me_, to.expert)) : nullptr;
      if (from == me_ && to.member == me_)
        copy(out_.data + bytes(to.row), mine, 1);
      else if (from == me_)
        message({Kind::send, static_cast<int>(to.member), mine, nullptr, w_.cols, w_.dtype});
      else if (to.member == me_)
        message({Kind::receive, static_cast<int>(from), nullptr, out_.data + bytes(to.row), w_.cols, w_.dtype});
    }
  }

  // Partial chunks travel to the slot's holder, which adds them in member order, rounding once.
  void sparse_reduce_scatter() {
    std::vector<Sum> sums;
    for (const Slot& to : slots(w_.to)) {
      Sum sum{{}, w_.cols, w_.dtype, out_.data + bytes(to.row)};
      for (std::size_t i = 0; i < size_; ++i) {
        const auto held = slot(w_.from, i, to.expert);
        if (!held) continue;
        if (i == me_ && to.member != me_)
          message({Kind::send, static_cast<int>(to.member), in_.data + bytes(*held), nullptr, w_.cols, w_.dtype});
        if (to.member == me_) add_partial(sum, i == me_ ? in_.data + bytes(*held) : nullptr, i, to.expert);
      }
      if (to.member != me_) continue;
      if (sum.terms.empty()) lacking(to.expert);
      sums.push_back(std::move(sum));
    }
    issue();
    for (Sum& sum : sums) commands_.emplace_back(std::move(sum));
  }

  // ---- of a training step ----

  void sum(const SumCall& c) {
    exchange_.communicator = at_.communicator;
    if (w_.kind == Collective::Kind::sparse_reduce_scatter) return keep_equal(c.buffers.front());
    for (const Tensor& t : c.buffers)
      if (size_ > 1) message({Kind::all_reduce, -1, t.data, t.data, t.rows * t.cols, w_.dtype});
    issue();
  }

  void move(const MoveCall& c) {
    exchange_.communicator = at_.communicator;
    for (const Slot& to : slots(w_.to)) {
      if (slot(w_.from, to.member, to.expert)) continue;  // stays
      const std::size_t from = giver(to.member, to.expert);
      for (const MoveCall::Part& part : c.parts) {
        const std::int64_t size = part.matrix_rows * part.after.cols;
        const DType dtype = part.after.dtype;
        if (from == me_)
          message({Kind::send, static_cast<int>(to.member),
                   part.before.at(*slot(w_.from, me_, to.expert) * part.matrix_rows), nullptr, size, dtype});
        if (to.member == me_)
          message(
              {Kind::receive, static_cast<int>(from), nullptr, part.after.at(to.row * part.matrix_rows), size, dtype});
      }
    }
    issue();
  }

 private:
  // The first holder of an expert sums its replicas' gradients, in member order, and gives them the sum.
  void keep_equal(const Tensor& t) {
    std::vector<Sum> sums;
    const std::vector<Slot> all = slots(w_.from);
    for (const Slot& at : all) {
      if (first_holder(at.expert) != at.member) continue;
      std::byte* here = at.member == me_ ? t.data + bytes(at.row) : nullptr;
      Sum sum{{}, w_.cols, w_.dtype, here};
      for (std::size_t i = 0; i < size_; ++i) {
        const auto held = slot(w_.from, i, at.expert);
        if (!held) continue;
        if (i == me_ && i != at.member)
          message({Kind::send, static_cast<int>(at.member), t.data + bytes(*held), nullptr, w_.cols, w_.dtype});
        if (at.member == me_) add_partial(sum, i == me_ ? here : nullptr, i, at.expert);
      }
      if (sum.terms.size() > 1) sums.push_back(std::move(sum));
    }
    issue();
    for (Sum& sum : sums) commands_.emplace_back(std::move(sum));
    for (const Slot& at : all) {
      const std::size_t from = first_holder(at.expert);
      if (from == at.member) continue;
      if (from == me_)
        message({Kind::send, static_cast<int>(at.member), t.data + bytes(*slot(w_.from, me_, at.expert)), nullptr,
                 w_.cols, w_.dtype});
      if (at.member == me_)
        message({Kind::receive, static_cast<int>(from), nullptr, t.data + bytes(at.row), w_.cols, w_.dtype});
    }
    issue();
  }

  // What member i has of the expert becomes a term; nullptr: it arrives.
  void add_partial(Sum& sum, std::byte* partial, std::size_t i, LogicalExpert expert) {
    if (partial == nullptr) {
      partial = at_.staging(bytes(1));
      message({Kind::receive, static_cast<int>(i), nullptr, partial, w_.cols, w_.dtype});
    }
    if (sum.terms.size() == Sum::most)
      throw Refused(fmt::format("op '{}': more than {} ranks hold expert {}", op_.name, Sum::most, expert.value()));
    sum.terms.push_back({partial, w_.dtype});
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

  const NcclContext& at_;
  std::vector<Command>& commands_;
  Exchange exchange_;
};

}  // namespace

void lower_to_nccl(const NcclContext& at, const CollectiveCall& call, std::vector<Command>& out) {
  Lowering(at, call, out).run();
}
void lower_to_nccl(const NcclContext& at, const SumCall& call, std::vector<Command>& out) {
  const CollectiveCall seat{call.work, {}, {}, {}};
  Lowering(at, seat, out).sum(call);
}
void lower_to_nccl(const NcclContext& at, const MoveCall& call, std::vector<Command>& out) {
  const CollectiveCall seat{call.work, {}, {}, {}};
  Lowering(at, seat, out).move(call);
}

}  // namespace moesim::backend::gpu
