#include "backend/cuda/collective.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "backend/collective_view.hpp"
#include "backend/executor.hpp"

namespace moesim::backend::gpu {
namespace {

using Message = Exchange::Message;
using Kind = Message::Kind;

class Lowering : public CollectiveView {
 public:
  Lowering(const NcclContext& at, const CollectiveCall& call, std::vector<Command>& out)
      : CollectiveView(at.plan, at.op, call, at.rank), at_(at), commands_(out) {
    // Whether or not this member has anything to say: all name communicators in the same order.
    if (size_ > 1) all_ = at.communicator(*group_);
  }

  void run() {
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

  // From a chunk's first holder to those that lack it: a broadcast where they are several.
  void sparse_all_gather() {
    for (const Chunk& c : chunks()) {
      const std::byte* mine = held(c.from, in_);
      std::byte* kept = held(c.to, out_);
      if (mine != nullptr && kept != nullptr) copy(kept, mine, 1);
      if (c.from.empty() && !c.to.empty()) lacking(c.expert);
      spread(c, lack(c), mine, kept);
    }
    issue();
  }

  // The sum of a chunk's partial copies to the first that keeps it, and from there to the others that do.
  void sparse_reduce_scatter() {
    std::vector<Sum> sums;
    const std::vector<Chunk> all = chunks();
    for (const Chunk& c : all) {
      if (c.to.empty()) continue;
      if (c.from.empty()) lacking(c.expert);
      gather_sum(c, c.to.front().member, held(c.from, in_), held({c.to.front()}, out_), sums);
    }
    issue();
    for (Sum& sum : sums) commands_.emplace_back(std::move(sum));
    for (const Chunk& c : all) {
      if (c.to.size() < 2) continue;
      std::byte* kept = held(c.to, out_);
      spread({c.expert, {c.to.front()}, c.to}, {c.to.begin() + 1, c.to.end()}, kept, kept);
    }
    issue();
  }

  // ---- of a training step ----

  void sum(const SumCall& c) {
    if (w_.kind == Collective::Kind::sparse_reduce_scatter) return keep_equal(c.buffers.front());
    for (const Tensor& t : c.buffers)
      if (size_ > 1) message({Kind::all_reduce, -1, t.data, t.data, t.rows * t.cols, w_.dtype});
    issue();
  }

  void move(const MoveCall& c) {
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
  // An expert, and the slots of those that hold it in `from` and in `to`, in member order.
  struct Chunk {
    LogicalExpert expert;
    std::vector<Slot> from, to;
  };
  [[nodiscard]] std::vector<Chunk> chunks() const {
    std::map<LogicalExpert, Chunk> by_expert;
    const auto add = [&](PlacementId id, std::vector<Slot> Chunk::* side) {
      for (const Slot& s : slots(id)) {
        std::vector<Slot>& known = (by_expert[s.expert].*side);
        if (!known.empty() && known.back().member == s.member)
          throw Refused(fmt::format("op '{}': a rank holds expert {} twice", op_.name, s.expert.value()));
        known.push_back(s);
      }
    };
    add(w_.from, &Chunk::from);
    add(w_.to, &Chunk::to);
    std::vector<Chunk> out;
    for (auto& [expert, chunk] : by_expert) {
      chunk.expert = expert;
      out.push_back(std::move(chunk));
    }
    return out;
  }
  [[nodiscard]] static std::vector<Slot> lack(const Chunk& c) {
    std::vector<Slot> out;
    for (const Slot& s : c.to)
      if (std::ranges::none_of(c.from, [&](const Slot& f) { return f.member == s.member; })) out.push_back(s);
    return out;
  }
  // Where this member has the chunk; nullptr where it has not.
  [[nodiscard]] std::byte* held(const std::vector<Slot>& side, const Tensor& in) const {
    for (const Slot& s : side)
      if (s.member == me_) return in.data + bytes(s.row);
    return nullptr;
  }

  // One chunk from its first holder to `others`, to where each keeps it.
  void spread(const Chunk& c, const std::vector<Slot>& others, const std::byte* mine, std::byte* kept) {
    if (others.empty()) return;
    const std::size_t root = c.from.front().member;
    const bool among = std::ranges::any_of(others, [&](const Slot& s) { return s.member == me_; });
    if (me_ != root && !among) return;
    if (others.size() == 1) {
      if (me_ == root)
        message({Kind::send, static_cast<int>(others.front().member), mine, nullptr, w_.cols, w_.dtype});
      else
        message({Kind::receive, static_cast<int>(root), nullptr, kept, w_.cols, w_.dtype});
      return;
    }
    const Subset all = subset(root, others);
    // The root's own copy stays where it is.
    std::byte* to = me_ == root ? const_cast<std::byte*>(mine) : kept;
    message({Kind::broadcast, all.root, me_ == root ? mine : nullptr, to, w_.cols, w_.dtype}, all.communicator);
  }

  // The partial chunks of all holders, added up at `root`, which may hold none.
  void gather_sum(const Chunk& c, std::size_t root, std::byte* partial, std::byte* total, std::vector<Sum>& sums) {
    const bool holds = std::ranges::any_of(c.from, [&](const Slot& s) { return s.member == root; });
    if (holds && c.from.size() > 2) {
      if (partial == nullptr) return;
      const Subset all = subset(root, c.from);
      return message({Kind::reduce, all.root, partial, me_ == root ? total : nullptr, w_.cols, w_.dtype},
                     all.communicator);
    }
    if (me_ != root) {
      if (partial != nullptr) message({Kind::send, static_cast<int>(root), partial, nullptr, w_.cols, w_.dtype});
      return;
    }
    Sum sum{{}, w_.cols, w_.dtype, total};
    for (const Slot& s : c.from) {
      std::byte* term = s.member == me_ ? partial : at_.staging(bytes(1));
      if (s.member != me_) message({Kind::receive, static_cast<int>(s.member), nullptr, term, w_.cols, w_.dtype});
      if (sum.terms.size() == Sum::most)
        throw Refused(fmt::format("op '{}': more than {} ranks hold expert {}", op_.name, Sum::most, c.expert.value()));
      sum.terms.push_back({term, w_.dtype});
    }
    if (sum.terms.size() > 1 || total != partial) sums.push_back(std::move(sum));
  }

  // Replicas' gradients become their sum at each of them.
  void keep_equal(const Tensor& t) {
    std::vector<Sum> sums;
    const std::vector<Chunk> all = chunks();
    for (const Chunk& c : all) {
      std::byte* mine = held(c.from, t);
      if (c.from.size() < 2 || mine == nullptr) continue;
      if (c.from.size() == 2) {
        const bool first = c.from.front().member == me_;
        const std::size_t other = c.from[first ? 1 : 0].member;
        std::byte* arrived = at_.staging(bytes(1));
        message({Kind::send, static_cast<int>(other), mine, nullptr, w_.cols, w_.dtype});
        message({Kind::receive, static_cast<int>(other), nullptr, arrived, w_.cols, w_.dtype});
        std::vector<Sum::Term> terms{{mine, w_.dtype}, {arrived, w_.dtype}};
        if (!first) std::swap(terms[0], terms[1]);  // in the same order at both
        sums.push_back({std::move(terms), w_.cols, w_.dtype, mine});
        continue;
      }
      const Subset holders = subset(me_, c.from);
      message({Kind::all_reduce, -1, mine, mine, w_.cols, w_.dtype}, holders.communicator);
    }
    issue();
    for (Sum& sum : sums) commands_.emplace_back(std::move(sum));
  }

  // A communicator of some members, in their order, and the position of one of them in it.
  struct Subset {
    int communicator;
    int root;
  };
  [[nodiscard]] Subset subset(std::size_t root, const std::vector<Slot>& others) const {
    std::vector<std::size_t> members{root};
    for (const Slot& s : others)
      if (s.member != root) members.push_back(s.member);
    std::ranges::sort(members);
    std::vector<Rank> ranks;
    for (const std::size_t m : members) ranks.push_back(rank_of(m));
    return {at_.communicator(ranks), static_cast<int>(std::ranges::find(members, root) - members.begin())};
  }

  [[nodiscard]] bool even() const {
    for (std::size_t j = 1; j < size_; ++j)
      if (rows_of(j) != rows_of(0)) return false;
    return true;
  }

  // Calls without elements are left out: all members know the counts. communicator: where it is not the group's.
  void message(Message m, std::optional<int> communicator = std::nullopt) {
    if (m.elements == 0) return;
    m.communicator = communicator.value_or(all_);
    exchange_.messages.push_back(m);
  }
  void copy(std::byte* to, const std::byte* from, std::int64_t rows) {
    if (rows > 0 && to != from) commands_.emplace_back(CopyBytes{to, from, bytes(rows)});
  }
  // What has come together is one group of calls. NCCL starts a kernel per communicator: all members in the order in
  // which they know them, which is a part of the same order everywhere.
  void issue() {
    if (exchange_.messages.empty()) return;
    std::ranges::stable_sort(exchange_.messages, {}, &Message::communicator);
    commands_.emplace_back(exchange_);
    exchange_.messages.clear();
  }

  const NcclContext& at_;
  std::vector<Command>& commands_;
  int all_ = -1;  // the group's communicator
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
