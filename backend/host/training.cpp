// Training calls: which kernel, and how sums and moves meet.
#include "backend/host/training.hpp"

#include "backend/collective_view.hpp"

namespace moesim::backend {
namespace {

struct Execute {
  Scratch& scratch;
  void operator()(const SumCall&) const {}
  void operator()(const MoveCall&) const {}
  template <class C>
  void operator()(const C& c) const {
    run(c, scratch);
  }
};

class Meet : public CollectiveView {
 public:
  Meet(const Plan& plan, const Op& op, const CollectiveCall& seat, Rank rank) : CollectiveView(plan, op, seat, rank) {
    meeting_.group = *group_;
    meeting_.member = me_;
    meeting_.phases.reserve(3);  // phases are referred to
  }

  // Member i sums the i-th part of every buffer, then all gather the parts. Sums are in place, so that nobody may go on
  // before all have taken: the last phase has no pieces.
  Meeting sum(const SumCall& c) {
    Phase& sum = phase();
    Phase& spread = phase();
    if (w_.kind == Collective::Kind::all_reduce) {
      for (const Tensor& t : c.buffers) all_reduce(t, sum, spread);
    } else {
      keep_equal(c.buffers.front(), sum, spread);
    }
    phase();
    return std::move(meeting_);
  }

  Meeting move(const MoveCall& c) {
    Phase& p = phase();
    for (const Slot& to : slots(w_.to)) {
      if (slot(w_.from, to.member, to.expert)) continue;  // stays
      const std::size_t from = giver(to.member, to.expert);
      for (const MoveCall::Part& part : c.parts) {
        const std::int64_t size = part.matrix_rows * part.after.cols * part.after.element_bytes();
        if (from == me_)
          p.offers[to.member].push_back({part.before.at(*slot(w_.from, me_, to.expert) * part.matrix_rows), size});
        if (to.member == me_) p.takes[from].push_back({part.after.at(to.row * part.matrix_rows), size});
      }
    }
    return std::move(meeting_);
  }

 private:
  Phase& phase() {
    Phase& p = meeting_.phases.emplace_back();
    p.offers.resize(size_);
    p.takes.resize(size_);
    return p;
  }

  void all_reduce(const Tensor& t, Phase& sum, Phase& spread) const {
    const std::int64_t all = t.rows * t.cols;
    const auto part = [&](std::size_t i) { return part_begin(all, i) * t.element_bytes(); };
    const std::int64_t own = part(me_ + 1) - part(me_);
    Sum total{t.data + part(me_), part_begin(all, me_ + 1) - part_begin(all, me_), t.dtype, {}};
    for (std::size_t j = 0; j < size_; ++j) {
      const std::int64_t bytes = part(j + 1) - part(j);
      sum.offers[j].push_back({t.data + part(j), bytes});
      total.terms.emplace_back(j, sum.takes[j].size());
      sum.takes[j].push_back({nullptr, own});
      if (j == me_) continue;
      spread.offers[j].push_back({t.data + part(me_), own});
      spread.takes[j].push_back({t.data + part(j), bytes});
    }
    sum.sums.push_back(std::move(total));
  }

  // The first holder of an expert sums its replicas' gradients and gives them the sum.
  void keep_equal(const Tensor& t, Phase& sum, Phase& spread) const {
    for (const Slot& at : slots(w_.from)) {
      if (first_holder(at.expert) != at.member) continue;
      const bool mine = at.member == me_;
      std::byte* here = mine ? t.data + bytes(at.row) : nullptr;
      Sum total{here, w_.cols, w_.dtype, {}};
      for (std::size_t i = 0; i < size_; ++i) {
        const auto held = slot(w_.from, i, at.expert);
        if (!held) continue;
        const Piece replica{i == me_ ? t.data + bytes(*held) : nullptr, bytes(1)};
        if (i == me_) sum.offers[at.member].push_back(replica);
        if (mine) {
          total.terms.emplace_back(i, sum.takes[i].size());
          sum.takes[i].push_back({nullptr, bytes(1)});
        }
        if (i == at.member) continue;
        if (i == me_) spread.takes[at.member].push_back(replica);
        if (mine) spread.offers[i].push_back({here, bytes(1)});
      }
      if (mine) sum.sums.push_back(std::move(total));
    }
  }

  Meeting meeting_;
};

}  // namespace

void execute(const TrainingCall& call, Scratch& scratch) { std::visit(Execute{scratch}, call); }

Meeting meeting_of(const Plan& plan, const Op& op, const TrainingCall& call, Rank rank) {
  const auto* sum = std::get_if<SumCall>(&call);
  const auto* move = std::get_if<MoveCall>(&call);
  if (sum == nullptr && move == nullptr) return {};
  const CollectiveCall seat{sum != nullptr ? sum->work : move->work, {}, {}, {}};
  Meet meet(plan, op, seat, rank);
  return sum != nullptr ? meet.sum(*sum) : meet.move(*move);
}

}  // namespace moesim::backend
