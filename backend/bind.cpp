#include "backend/bind.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "backend/binder.hpp"
#include "backend/numbers.hpp"

namespace moesim::backend {

namespace {

class Binder : public OpBinder {
 public:
  Binder(const Plan& plan, const Inputs& inputs, RowMaps& maps, Rank rank, const Binding& binding)
      : OpBinder(plan, inputs, maps, rank, binding), training_(plan, inputs, maps, rank, binding) {}

  Call call(const Op& op) {
    op_ = &op;
    if (std::optional<Call> call = training_.call(op)) return std::move(*call);
    return std::visit([this](const auto& work) { return bind(work); }, op.work);
  }

 private:
  Call bind(const Gemm& w) {
    const Tensor x = read(0);
    const Tensor weight = read(1);
    const Tensor y = write(0);
    floats({x, weight, y});
    require(w.batch >= 1, "it has no products");
    const bool table = is_table(op_->reads[1]);
    require(x.rows == rows(w.m) && y.rows == x.rows, "its rows are not those of its buffers");
    require(x.cols % w.batch == 0 && x.cols / w.batch >= w.k && y.cols == w.batch * w.n, "its columns do not fit");
    require(table ? w.batch == 1 && weight.rows == w.n && weight.cols == w.k
                  : weight.rows == w.batch * w.k && weight.cols == w.n,
            "its weights have another shape");
    return ProductCall{w, x, weight, y, table};
  }

  Call bind(const GroupedGemm& w) {
    const Tensor x = read(0);
    const Tensor weight = read(1);
    const Tensor y = write(0);
    floats({x, weight, y});
    const auto groups = plan_.table(w.rows).row(rank_.value());
    require(x.rows == plan_.table(w.rows).row_sum(rank_.value()) && y.rows == x.rows,
            "its rows are not those of its buffers");
    require(x.cols == w.k && y.cols == w.n && weight.cols == w.n, "its columns do not fit");
    for (std::size_t g = 0; g < groups.size(); ++g)
      require(groups[g] == 0 || (static_cast<std::int64_t>(g) % w.matrices + 1) * w.k <= weight.rows,
              "a group has rows and no matrix");
    return GroupedProductCall{w, groups, x, weight, y};
  }

  // ---- attention ----

  Call bind(const AttentionCore& w) {
    const AttentionForm f = form_of(op_->reads, w);
    const Tensor x = read(0);
    const Tensor o = write(0);
    floats({x, o});
    require(o.rows == x.rows && o.cols == f.heads * f.v_dim, "its output has another shape");
    const bool expands = f.kind == AttentionForm::Kind::latent_expanded;
    AttentionCall call{f, x, std::nullopt, std::nullopt, o, op_->writes.size() == 2};
    if (expands) call.expanded = read(1);
    if (f.kept > 0) call.cache = read(op_->reads.size() - 1);
    require(!call.stores || (f.kind == AttentionForm::Kind::self && call.cache), "it fills the cache of another form");
    return call;
  }

  // The core that reads what a rotary op writes knows its shape.
  Call bind_rotary() {
    const Op* core = nullptr;
    for (const Op& other : plan_.ops)
      if (std::holds_alternative<AttentionCore>(other.work) && !other.reads.empty() &&
          other.reads.front() == op_->writes.front())
        core = &other;
    if (core == nullptr) refuse("no attention_core reads its output");
    AttentionForm f = form_of(core->reads, std::get<AttentionCore>(core->work));
    const Tensor y = write(0);
    const bool latent =
        f.kind == AttentionForm::Kind::latent_expanded || f.kind == AttentionForm::Kind::latent_absorbed;
    turn_pairs(f, latent ? f.rope : f.qk_dim);
    if (!latent) {
      const Tensor x = read(0);
      require(x.rows == y.rows && x.cols == y.cols, "its output has another shape");
      RotateCall call{std::move(f), x, y, std::nullopt};
      if (op_->writes.size() == 2) call.cache = write(1);
      require(!call.cache || call.form.kept > 0, "its cache is not the core's");
      return call;
    }
    const bool joins = f.kind == AttentionForm::Kind::latent_absorbed;
    std::optional<Tensor> absorbed;
    if (joins) absorbed = read(0);
    const Tensor q = read(joins ? 1 : 0);
    const Tensor kv = read(joins ? 2 : 1);
    const Tensor cache = write(1);
    require(q.rows == y.rows && kv.rows == y.rows && y.cols == f.q_cols() && q.cols % f.heads == 0 &&
                q.cols / f.heads >= f.rope && kv.cols == cache.cols && kv.cols >= f.rope && f.kept > 0,
            "its latent layout does not fit");
    require(joins ? absorbed->rows == y.rows && absorbed->cols == f.heads * f.v_dim : q.cols == f.q_cols(),
            "its queries have another layout");
    return RotateLatentCall{std::move(f), absorbed, q, kv, y, cache};
  }

  // ---- rows ----

  Call bind(const Elementwise& w) {
    const Tensor x = read(0);
    const Tensor y = write(0);
    floats({x, y});
    const bool same_rows = x.rows == y.rows && y.rows == rows(w.rows);
    switch (w.fn) {
      case Elementwise::Fn::norm: {
        require(same_rows && x.cols == y.cols, "its buffers differ in shape");
        const std::optional<Tensor> weight = scales(1);
        require(!weight || weight->rows * weight->cols == x.cols, "its weights have another shape");
        return NormCall{x, weight, y};
      }
      case Elementwise::Fn::add_norm: {
        const Tensor b = read(1);
        const Tensor normed = write(1);
        const std::optional<Tensor> weight = scales(2);
        require(same_rows && x.cols == y.cols && b.rows == y.rows && b.cols == y.cols && normed.rows == y.rows &&
                    normed.cols == y.cols && (!weight || weight->rows * weight->cols == x.cols),
                "its buffers differ in shape");
        floats({b, normed});
        return AddNormCall{x, b, weight, y, normed};
      }
      case Elementwise::Fn::add:
      case Elementwise::Fn::sum_partials: {
        std::vector<Tensor> terms;
        for (std::size_t i = 0; i < op_->reads.size(); ++i) {
          terms.push_back(read(i));
          floats({terms.back()});
          require(terms.back().rows == y.rows && terms.back().cols == y.cols, "its buffers differ in shape");
        }
        return AddCall{std::move(terms), y};
      }
      case Elementwise::Fn::activation:
      case Elementwise::Fn::gated: {
        const bool gated = w.fn == Elementwise::Fn::gated;
        require(same_rows && x.cols == (gated ? 2 : 1) * y.cols, "its buffers differ in shape");
        return ActivateCall{w.activation, gated, x, y};
      }
      case Elementwise::Fn::embedding:
        return bind_embedding(x, y);
      case Elementwise::Fn::last_token:
        require(y.rows == 0 ? x.rows == 0 : x.rows % y.rows == 0 && x.cols == y.cols && x.dtype == y.dtype,
                "its rows are not its sequences'");
        return LastCall{y.rows == 0 ? 0 : x.rows / y.rows, x, y};
      case Elementwise::Fn::top_k:
        return bind_top_k(x, y);
      case Elementwise::Fn::rotary:
        return bind_rotary();
      case Elementwise::Fn::cast:
        require(same_rows && x.cols == y.cols, "its buffers differ in shape");
        return CastCall{x, y};
      case Elementwise::Fn::scale:
      case Elementwise::Fn::adam:
      case Elementwise::Fn::delta_rule:
      case Elementwise::Fn::cross_entropy:
        break;
    }
    refuse("the simulator knows it, executors with data do not compute it yet");
  }

  Call bind_embedding(const Tensor& table, const Tensor& y) {
    require(table.cols == y.cols, "its buffers differ in shape");
    require(y.rows == plan_.tokens.count(owner()), "its rows are not its tokens");
    return EmbedCall{table_rows(op_->reads[0]), table, y};
  }

  // The plan's counts follow from the routing, so its choice is what the gate yields.
  Call bind_top_k(const Tensor& scores, const Tensor& y) {
    const auto k = static_cast<std::size_t>(inputs_.routing.top_k());
    require(y.rows == plan_.tokens.count(owner()) && scores.rows == y.rows, "its rows are not its tokens");
    require(static_cast<std::size_t>(y.cols) == 2 * k && y.dtype == DType::f32, "its output has another shape");
    const int moe_layer = moe_layer_of(op_->writes[0]);
    const std::vector<ExpertIndex> ids = experts(moe_layer);
    const std::int64_t begin = plan_.tokens.begin[owner()];
    std::vector<float> choice(ids.size() * 2);
    for (std::size_t t = 0; t < static_cast<std::size_t>(y.rows); ++t) {
      for (std::size_t i = 0; i < k; ++i) choice[t * 2 * k + i] = static_cast<float>(ids[t * k + i]);
      gate_weights(inputs_.seed, moe_layer, begin + static_cast<std::int64_t>(t),
                   std::span(choice).subspan(t * 2 * k + k, k));
    }
    return ChooseCall{std::move(choice), scores, y};
  }

  Call bind(const Permute& w) {
    const Tensor x = read(0);
    const Tensor y = write(0);
    floats({x, y});
    require(x.cols == y.cols && x.rows == rows(w.rows_in) && y.rows == rows(w.rows_out), "its buffers differ in shape");
    return PermuteCall{w, maps_.of(*op_, w, rank_), x, y};
  }

  Call bind(const Copy& w) {
    const Tensor x = read(0);
    const Tensor y = write(0);
    require(x.bytes() == y.bytes() && x.rows == rows(w.rows), "its buffers differ in shape");
    return CopyCall{w.direction, x, y};
  }

  Call bind(const HostSync&) { return HostSyncCall{}; }

  // ---- collectives ----

  Call bind(const Collective& w) {
    const Membership me = membership(plan_.groups[w.groups.index()], rank_);
    if (me.group == nullptr) return std::monostate{};
    CollectiveCall call{w, read(source(w)), write(0), {}};
    require(op_->reads[0] != op_->writes[0], "it works in place");
    if (w.dtype == DType::i32 && call.in.dtype != DType::i32) {
      call.counts = counts(w);
      call.in = {nullptr, DType::i32, static_cast<std::int64_t>(call.counts.size()) / std::max<std::int64_t>(w.cols, 1),
                 w.cols};
    }
    require(call.in.dtype == w.dtype && call.out.dtype == w.dtype, "its buffers hold another format");
    const bool adds = w.kind == Collective::Kind::all_reduce || w.kind == Collective::Kind::reduce ||
                      w.kind == Collective::Kind::reduce_scatter_v || w.kind == Collective::Kind::sparse_reduce_scatter;
    if (adds) floats({call.in});
    require(call.in.rows * call.in.cols >= input_elements(w, me), "its input is too small");
    return call;
  }

  // Which of its reads it sends: the experts under `from`, where it reads more than one stack of them.
  [[nodiscard]] std::size_t source(const Collective& w) const {
    for (std::size_t i = 0; i < op_->reads.size() && w.from.valid(); ++i)
      if (plan_.buffer(op_->reads[i]).shard.placement == w.from) return i;
    return 0;
  }

  // What it reads of its input, in elements; faults() has checked the output.
  [[nodiscard]] std::int64_t input_elements(const Collective& w, const Membership& me) const {
    const auto own = [&] { return plan_.table(w.counts).row_sum(rank_.value()); };
    switch (w.kind) {
      case Collective::Kind::sparse_all_gather:
      case Collective::Kind::sparse_reduce_scatter:
        return plan_.placements[w.from.index()].slots_on(Rank(me.member)) * w.cols;
      case Collective::Kind::reduce_scatter_v: {
        std::int64_t all = 0;
        for (const Rank r : *me.group) all += plan_.table(w.counts).row_sum(r.value());
        return all * w.cols;
      }
      case Collective::Kind::all_to_all_v:
      case Collective::Kind::send_recv:
      case Collective::Kind::all_gather_v:
      case Collective::Kind::all_reduce:
        return own() * w.cols;
      case Collective::Kind::broadcast:
        return me.member == static_cast<std::size_t>(w.root) ? own() * w.cols : 0;
      case Collective::Kind::reduce:
        return own() * w.cols;
    }
    return 0;
  }

  // An int32 collective that reads a choice exchanges its counts: those of the permute that reads it too.
  [[nodiscard]] std::vector<std::int32_t> counts(const Collective& w) const {
    const Permute* permute = nullptr;
    for (const Op& other : plan_.ops)
      if (const auto* p = std::get_if<Permute>(&other.work))
        if (permute == nullptr && std::find(other.reads.begin(), other.reads.end(), op_->reads[0]) != other.reads.end())
          permute = p;
    if (permute == nullptr) refuse("no permute says which counts it exchanges");
    return maps_.counts(*permute, rank_, w.cols, w.kind == Collective::Kind::all_to_all_v);
  }

  // Weights of a norm, where it reads some.
  [[nodiscard]] std::optional<Tensor> scales(std::size_t i) const {
    if (op_->reads.size() <= i) return std::nullopt;
    return read(i);
  }

  TrainingBinder training_;
};

}  // namespace

void turn_pairs(AttentionForm& form, std::int64_t d) {
  constexpr double rotary_base = 10'000;
  form.turns.clear();
  for (std::int64_t i = 0; i < form.q_len; ++i)
    for (std::int64_t j = 0; j < d / 2; ++j) {
      const double turn = static_cast<double>(form.kv_len - form.q_len + i) *
                          std::pow(rotary_base, -2.0 * static_cast<double>(j) / static_cast<double>(d));
      form.turns.push_back(static_cast<float>(std::cos(turn)));
      form.turns.push_back(static_cast<float>(std::sin(turn)));
    }
}

Membership membership(const Groups& groups, Rank rank) {
  for (const std::vector<Rank>& g : groups) {
    const auto at = std::find(g.begin(), g.end(), rank);
    if (at != g.end()) return {&g, static_cast<std::size_t>(at - g.begin())};
  }
  return {};
}

Buffer at_start(const Plan& plan, BufferId id, Rank rank) {
  Buffer b = plan.buffer(id);
  for (const Op& op : plan.ops) {
    const auto* c = std::get_if<Collective>(&op.work);
    if (c == nullptr || c->kind != Collective::Kind::send_recv || !c->from.valid()) continue;
    if (std::find(op.writes.begin(), op.writes.end(), id) == op.writes.end()) continue;
    b.shard.placement = c->from;
    const auto member = static_cast<int>(membership(plan.groups[c->groups.index()], rank).member);
    b.rows = {plan.placements[c->from.index()].slots_on(Rank(member)) * b.shard.matrix_rows, {}};
  }
  return b;
}

std::vector<LogicalExpert> experts_of(const Plan& plan, const Buffer& b, Rank rank) {
  if (!b.shard.placement.valid()) return {};
  const ExpertPlacement& p = plan.placements[b.shard.placement.index()];
  const auto member = membership(plan.groups[b.shard.expert_groups.index()], rank).member;
  return {p.expert_of_slot.begin() + p.slot_begin[member], p.expert_of_slot.begin() + p.slot_begin[member + 1]};
}

std::vector<Updated> updated(const Plan& plan) {
  std::vector<Updated> out;
  for (const Op& op : plan.ops) {
    const auto* adam = std::get_if<Elementwise>(&op.work);
    if (adam == nullptr || adam->fn != Elementwise::Fn::adam) continue;
    for (std::size_t i = 0; i < op.reads.size() && i + op.reads.size() < op.writes.size(); ++i)
      out.push_back({op.writes[i], op.writes[i + op.reads.size()]});
  }
  return out;
}

std::vector<Call> bind(const Plan& plan, const Inputs& inputs, RowMaps& maps, Rank rank, const Binding& binding) {
  Binder binder(plan, inputs, maps, rank, binding);
  std::vector<Call> calls;
  calls.reserve(plan.ops.size());
  for (const Op& op : plan.ops) calls.push_back(binder.call(op));
  return calls;
}

}  // namespace moesim::backend
