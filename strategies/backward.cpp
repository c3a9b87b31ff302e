// The backward pass: forward ops in reverse (training.hpp).
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "strategies/training.hpp"

namespace moesim::strategies {
namespace {

// Rows that each rank sends, from rows that each rank receives: what came from a member goes back to it.
Table returned(const Table& sent, const Groups& groups, int ranks) {
  Table out(ranks, sent.cols());
  for (const std::vector<Rank>& g : groups)
    for (std::size_t i = 0; i < g.size(); ++i)
      for (std::size_t j = 0; j < g.size(); ++j)
        out.at(g[j].value(), static_cast<int>(i)) = sent.at(g[i].value(), static_cast<int>(j));
  return out;
}

class Backward {
 public:
  Backward(Transformer& t, const std::vector<OpId>& again) : t_(t), b_(t.plan()), again_(again) {
    forward_ = b_.plan().ops.size();
    const std::size_t buffers = b_.plan().buffers.size();
    gradient_.resize(buffers);
    now_.resize(buffers);
    first_reader_.assign(buffers, forward_);
    writer_.assign(buffers, forward_);
    for (std::size_t i = 0; i < buffers; ++i) now_[i] = BufferId(i);
    for (std::size_t i = forward_; i-- > 0;)
      for (const BufferId x : b_.plan().ops[i].reads) first_reader_[x.index()] = i;
    for (std::size_t i = 0; i < forward_; ++i)
      for (const BufferId y : b_.plan().ops[i].writes) writer_[y.index()] = i;
  }

  std::vector<BufferId> run() {
    gather_again(again_.size());
    for (std::size_t i = forward_; i-- > 0;) {
      const Op op = b_.plan().ops[i];  // a copy: adding ops moves them
      if (op.layer != layer_) {
        leave(i + 1);
        layer_ = op.layer;
        if (layer_.valid() && t_.input().workload.recompute) recompute(i);
      }
      if (!gathers(op) && op.pass == Pass::forward) reverse(op);  // moving experts has no gradient
      // The gradient of what was gathered is complete once its first reader is reversed: its sum travels from here on.
      for (const BufferId x : op.reads)
        if (const std::size_t writer = writer_[x.index()]; first_reader_[x.index()] == i && writer < i)
          if (const Op w = b_.plan().ops[writer]; gathers(w)) complete(w, writer);
    }
    leave(0);
    return std::move(gradient_);
  }

 private:
  static bool gathers(const Op& op) {
    return std::holds_alternative<Collective>(op.work) && op.stream == parameter_stream;
  }
  [[nodiscard]] Buffer buffer(BufferId id) const { return b_.plan().buffer(id); }
  [[nodiscard]] BufferId now(BufferId forward) const { return now_[forward.index()]; }

  // ---- layers ----

  // Ops from `reversed` on are reversed: weights that none before reads have their gradients.
  void leave(std::size_t reversed) {
    std::vector<BufferId> weights;
    std::vector<BufferId> gradients;
    for (const BufferId w : seen_)
      if (first_reader_[w.index()] >= reversed) {
        weights.push_back(w);
        gradients.push_back(gradient_[w.index()]);
      }
    if (weights.empty()) return;
    std::erase_if(seen_, [&](BufferId w) { return first_reader_[w.index()] >= reversed; });
    const std::string name =
        layer_.valid() ? fmt::format("l{}", layer_.value()) : fmt::format("outside{}", ++parts_outside_);
    reduce_gradients(t_, name, layer_, weights, gradients);
  }

  // Runs the ops of the layer of op `last`, without that op, again from what the layer before wrote.
  void recompute(std::size_t last) {
    std::size_t first = last;
    while (first > 0 && b_.plan().ops[first - 1].layer == layer_) --first;
    for (std::size_t i = first; i < last; ++i) {
      Op op = b_.plan().ops[i];
      const bool counts = !op.writes.empty() && buffer(op.writes.front()).dtype == DType::i32;
      if (op.pass != Pass::forward || gathers(op) || counts || std::holds_alternative<HostSync>(op.work)) continue;
      repeat(std::move(op));
    }
  }

  void repeat(Op op) {
    op.name += ".again";
    op.pass = Pass::backward;
    op.after.clear();
    for (BufferId& x : op.reads) x = now(x);
    for (BufferId& y : op.writes) {
      Buffer copy = buffer(y);
      copy.name += ".again";
      const BufferId fresh = b_.buffer(std::move(copy));
      now_[y.index()] = fresh;
      y = fresh;
    }
    b_.add(std::move(op));
  }

  // Gathers the parameters of the layer before the n-th again.
  void gather_again(std::size_t n) {
    if (n == 0 || n > again_.size()) return;
    const Layer layer = b_.plan().op(again_[n - 1]).layer;
    std::size_t i = n;
    while (i > 0 && b_.plan().op(again_[i - 1]).layer == layer) --i;
    for (std::size_t k = i; k < n; ++k) repeat(b_.plan().op(again_[k]));
    next_again_ = i;
  }

  void complete(const Op& gather, std::size_t index) {
    if (!completed_.insert(index).second) return;
    const auto at = std::ranges::find(again_, OpId(index));
    // All gathers of this layer are done with when the first of them is.
    if (at != again_.end() && static_cast<std::size_t>(at - again_.begin()) == next_again_) gather_again(next_again_);
    reverse(gather);
  }

  // ---- gradients ----

  BufferId like(BufferId x, const std::string& name, BufferRole role) {
    Buffer g = buffer(x);
    g.name = name;
    g.role = role;
    return b_.buffer(std::move(g));
  }
  [[nodiscard]] BufferRole role_of_gradient(BufferId x) const {
    const BufferRole role = buffer(x).role;
    return role == BufferRole::weight || role == BufferRole::gathered ? BufferRole::gradient : BufferRole::activation;
  }
  BufferId fresh(BufferId x, const std::string& name) { return like(x, name, role_of_gradient(x)); }

  void contribute(const Op& from, BufferId x, BufferId g) {
    if (buffer(x).role == BufferRole::weight && !gradient_[x.index()].valid()) seen_.push_back(x);
    BufferId& sum = gradient_[x.index()];
    if (!sum.valid()) {
      sum = g;
      return;
    }
    const Buffer& shape = b_.plan().buffer(x);
    const Elementwise add{Elementwise::Fn::add, shape.rows, 2 * shape.cols, shape.cols, shape.dtype, 0, {}};
    const BufferId total = fresh(x, fmt::format("grad.{}.sum{}", shape.name, ++sums_));
    emit(from, ".sum" + std::to_string(sums_), {sum, g}, {total}, add);
    sum = total;
  }

  void emit(const Op& of, const std::string& part, std::vector<BufferId> reads, std::vector<BufferId> writes,
            const Work& work) {
    b_.add({"grad." + of.name + part,
            of.category,
            Pass::backward,
            of.layer,
            of.stream,
            {},
            std::move(reads),
            std::move(writes),
            work});
  }

  void reverse(const Op& op) {
    std::visit([&](const auto& work) { of(op, work); }, op.work);
  }
  [[nodiscard]] BufferId incoming(const Op& op, std::size_t i = 0) const {
    return i < op.writes.size() ? gradient_[op.writes[i].index()] : BufferId{};
  }

  // X of the op, and the one weight or, with gathered experts, the stack that it multiplies.
  template <class Product>
  void product(const Op& op, Product work) {
    const BufferId dy = incoming(op);
    if (!dy.valid()) return;
    const BufferId x = op.reads[0];
    const BufferId w = op.reads[1];
    const BufferId dx = fresh(x, "grad." + op.name + ".x");
    work.form = Product::Form::input_gradient;
    emit(op, ".input", {dy, now(w)}, {dx}, work);
    contribute(op, x, dx);
    const BufferId dw = fresh(w, "grad." + op.name + ".w");
    work.form = Product::Form::weight_gradient;
    emit(op, ".weight", {now(x), dy}, {dw}, work);
    contribute(op, w, dw);
  }
  void of(const Op& op, const Gemm& work) { product(op, work); }
  void of(const Op& op, const GroupedGemm& work) { product(op, work); }

  void of(const Op& op, const AttentionCore& work) {
    const BufferId dy = incoming(op);
    AttentionCore back = work;
    back.backward = true;
    const BufferId dx = fresh(op.reads[0], "grad." + op.name + ".x");
    emit(op, "", {dy, now(op.writes[0]), now(op.reads[0])}, {dx}, back);
    contribute(op, op.reads[0], dx);
  }

  void of(const Op& op, const Elementwise& work) {
    Elementwise back = work;
    back.backward = true;
    std::vector<BufferId> reads{incoming(op)};
    std::vector<BufferId> targets{op.reads[0]};
    switch (work.fn) {
      case Elementwise::Fn::cross_entropy:
        reads = {now(op.reads[0])};
        back.write_cols = work.read_cols;
        break;
      case Elementwise::Fn::norm:
        reads.insert(reads.end(), {now(op.reads[0]), op.reads[1]});
        targets.push_back(op.reads[1]);
        back.read_cols = 2 * work.read_cols;
        break;
      case Elementwise::Fn::add_norm:
        return add_norm(op, back);
      case Elementwise::Fn::activation:
      case Elementwise::Fn::gated:
      case Elementwise::Fn::top_k:
        reads.push_back(now(op.reads[0]));
        back.read_cols = work.read_cols + work.write_cols;
        back.write_cols = work.read_cols;
        break;
      case Elementwise::Fn::embedding:
        if (!reads.front().valid()) return;
        break;
      case Elementwise::Fn::rotary:
        break;
      case Elementwise::Fn::add:  // the gradient of a sum is each term's
        for (const BufferId x : op.reads) contribute(op, x, reads.front());
        return;
      case Elementwise::Fn::last_token:
      case Elementwise::Fn::scale:
      case Elementwise::Fn::sum_partials:
      case Elementwise::Fn::adam:
      case Elementwise::Fn::cast:
      case Elementwise::Fn::delta_rule:
        throw Infeasible(fmt::format("op '{}' has no backward pass", op.name));
    }
    if (!reads.front().valid()) return;
    std::vector<BufferId> writes;
    for (std::size_t i = 0; i < targets.size(); ++i)
      writes.push_back(fresh(targets[i], fmt::format("grad.{}.{}", op.name, i)));
    emit(op, "", reads, writes, back);
    for (std::size_t i = 0; i < targets.size(); ++i) contribute(op, targets[i], writes[i]);
  }

  // R = A + B, Y = norm(R): dA = dB = dR + norm'(R)^T dY.
  void add_norm(const Op& op, Elementwise back) {
    const BufferId dr = incoming(op, 0);
    const std::int64_t h = buffer(op.writes[1]).cols;
    std::vector<BufferId> reads{incoming(op, 1), now(op.writes[0]), op.reads[2]};
    if (dr.valid()) reads.push_back(dr);
    const BufferId dx = fresh(op.reads[0], "grad." + op.name + ".x");
    const BufferId dw = fresh(op.reads[2], "grad." + op.name + ".w");
    back.read_cols = (dr.valid() ? 3 : 2) * h;
    back.write_cols = h;
    emit(op, "", reads, {dx, dw}, back);
    contribute(op, op.reads[0], dx);
    contribute(op, op.reads[1], dx);
    contribute(op, op.reads[2], dw);
  }

  void of(const Op& op, const Permute& work) {
    const BufferId dy = incoming(op);
    if (!dy.valid()) return;
    for (const RowOrder order : {work.from, work.to})
      if (order == RowOrder::unique_by_rank || order == RowOrder::unique_by_source)
        throw Infeasible("tokens that are sent once per rank have no backward pass here: set once_per_rank = false");
    if (buffer(op.reads[0]).dtype != buffer(op.writes[0]).dtype)
      throw Infeasible("a dispatch in another number format has no backward pass: dispatch_dtype = \"activations\"");
    Permute back = work;
    std::swap(back.from, back.to);
    std::swap(back.rows_in, back.rows_out);
    back.adjoint = !work.adjoint;
    const BufferId dx = fresh(op.reads[0], "grad." + op.name + ".x");
    std::vector<BufferId> reads{dy};
    std::vector<BufferId> writes{dx};
    if (op.reads.size() > 1) reads.push_back(now(op.reads[1]));
    if (work.to == RowOrder::token) {  // the gates' gradients: each copy times the gradient of its token
      reads.push_back(now(op.reads[0]));
      writes.push_back(fresh(op.reads[1], "grad." + op.name + ".choice"));
    }
    emit(op, "", reads, writes, back);
    contribute(op, op.reads[0], dx);
    if (writes.size() > 1) contribute(op, op.reads[1], writes[1]);
  }

  void of(const Op&, const Copy&) {}
  void of(const Op&, const HostSync&) {}

  void of(const Op& op, const Collective& work) {
    using Kind = Collective::Kind;
    if (work.dtype == DType::i32 || !incoming(op).valid()) return;
    Collective back = work;
    switch (work.kind) {
      case Kind::all_to_all_v:
      case Kind::send_recv: {
        Table t = returned(b_.plan().table(work.counts), b_.plan().groups[work.groups.index()], t_.ranks());
        back.counts = b_.table(std::move(t));
        back.returns = !work.returns;
        break;
      }
      case Kind::all_gather_v:
        back.kind = Kind::reduce_scatter_v;
        break;
      case Kind::reduce_scatter_v:
        back.kind = Kind::all_gather_v;
        break;
      case Kind::sparse_all_gather:
        // All copies add up at the owner, also where a second gather started from copies.
        back.kind = Kind::sparse_reduce_scatter;
        back.from = work.to;
        back.to = buffer(op.reads[0]).shard.placement;
        break;
      case Kind::sparse_reduce_scatter:
        back.kind = Kind::sparse_all_gather;
        std::swap(back.from, back.to);
        break;
      case Kind::all_reduce:
      case Kind::broadcast:
      case Kind::reduce:
        throw Infeasible(fmt::format("op '{}' has no backward pass", op.name));
    }
    const BufferId dx = fresh(op.reads[0], "grad." + op.name + ".x");
    emit(op, "", {incoming(op)}, {dx}, back);
    contribute(op, op.reads[0], dx);
  }

  Transformer& t_;
  PlanBuilder& b_;
  const std::vector<OpId>& again_;
  std::size_t next_again_ = 0;  // the first of again_ that was repeated
  std::set<std::size_t> completed_;
  std::size_t forward_ = 0;                // ops of the forward pass
  std::vector<BufferId> gradient_;         // by forward buffer
  std::vector<BufferId> now_;              // by forward buffer: itself, or what was computed again in its place
  std::vector<std::size_t> first_reader_;  // by forward buffer: the first op of the forward pass that reads it
  std::vector<std::size_t> writer_;        // the op that writes it
  std::vector<BufferId> seen_;             // weights with gradients that are not reduced yet
  Layer layer_;
  int sums_ = 0;
  int parts_outside_ = 0;
};

}  // namespace

std::vector<BufferId> add_backward(Transformer& t, const std::vector<OpId>& again) { return Backward(t, again).run(); }

}  // namespace moesim::strategies
