// Binding the ops that only a training step has. docs/plan_format.md, "Training", says what they read and write.
#include <algorithm>

#include "backend/binder.hpp"
#include "backend/numbers.hpp"

namespace moesim::backend {
namespace {

bool same_shape(const Tensor& a, const Tensor& b) { return a.rows == b.rows && a.cols == b.cols; }

}  // namespace

TrainingBinder::TrainingBinder(const Plan& plan, const Inputs& inputs, RowMaps& maps, Rank rank, const Binding& binding)
    : OpBinder(plan, inputs, maps, rank, binding),
      trains_(std::any_of(plan.ops.begin(), plan.ops.end(), [](const Op& op) { return op.pass != Pass::forward; })) {}

std::optional<Call> TrainingBinder::call(const Op& op) {
  op_ = &op;
  return std::visit([this](const auto& work) { return bind(work); }, op.work);
}

// ---- products ----

std::optional<Call> TrainingBinder::bind(const Gemm& w) {
  if (w.form == Gemm::Form::forward) return std::nullopt;
  require(w.batch == 1, "it is a batch of products");
  const Tensor a = read(0);
  const Tensor b = read(1);
  const Tensor out = write(0);
  floats({a, b, out});
  const auto matrix = [&](const Tensor& t, bool transposed) {
    return transposed ? t.rows == w.n && t.cols == w.k : t.rows == w.k && t.cols == w.n;
  };
  if (w.form == Gemm::Form::input_gradient) {
    const bool table = is_table(op_->reads[1]);
    require(a.rows == rows(w.m) && a.cols == w.n && out.rows == a.rows && out.cols == w.k && matrix(b, table),
            "its buffers have another shape");
    return TrainingCall{InputGradientCall{w, a, b, out, table}};
  }
  // The forward product that read X says whether its weight is a table.
  const bool table = std::any_of(plan_.ops.begin(), plan_.ops.end(), [&](const Op& other) {
    const auto* g = std::get_if<Gemm>(&other.work);
    return g != nullptr && g->form == Gemm::Form::forward && other.reads[0] == op_->reads[0] && g->n == w.n &&
           is_table(other.reads[1]);
  });
  require(a.rows == rows(w.m) && a.cols == w.k && b.rows == a.rows && b.cols == w.n && matrix(out, table),
          "its buffers have another shape");
  return TrainingCall{WeightGradientCall{w, a, b, out, table}};
}

std::optional<Call> TrainingBinder::bind(const GroupedGemm& w) {
  if (w.form == GroupedGemm::Form::forward) return std::nullopt;
  const Tensor a = read(0);
  const Tensor b = read(1);
  const Tensor out = write(0);
  floats({a, b, out});
  const auto groups = plan_.table(w.rows).row(rank_.value());
  const bool input = w.form == GroupedGemm::Form::input_gradient;
  const Tensor& weight = input ? b : out;
  require(a.rows == plan_.table(w.rows).row_sum(rank_.value()) && a.cols == (input ? w.n : w.k),
          "its rows are not those of its buffers");
  require(input ? out.rows == a.rows && out.cols == w.k : b.rows == a.rows && b.cols == w.n,
          "its rows are not those of its buffers");
  require(weight.cols == w.n && weight.rows % w.k == 0, "its weights have another shape");
  for (std::size_t g = 0; g < groups.size(); ++g)
    require(groups[g] == 0 || (static_cast<std::int64_t>(g) % w.matrices + 1) * w.k <= weight.rows,
            "a group has rows and no matrix");
  if (input) return TrainingCall{GroupedInputGradientCall{w, groups, a, b, out}};
  return TrainingCall{GroupedWeightGradientCall{w, groups, a, b, out}};
}

// ---- attention and rows ----

std::optional<Call> TrainingBinder::bind(const AttentionCore& w) {
  if (!w.backward) return std::nullopt;
  const Tensor d_o = read(0);
  const Tensor x = read(2);
  const Tensor dx = write(0);
  floats({d_o, x, dx});
  const AttentionForm form = form_of({op_->reads[2]}, w);
  require(form.kind == AttentionForm::Kind::self && form.kv_len == form.q_len, "it is not self attention");
  require(d_o.rows == x.rows && d_o.cols == form.heads * form.v_dim && same_shape(dx, x),
          "its buffers differ in shape");
  return TrainingCall{AttentionGradientCall{form, d_o, x, dx}};
}

Call TrainingBinder::norm_gradient(const Elementwise& w) {
  NormGradientCall c{read(0), read(1), read(2), std::nullopt, write(0), write(1)};
  if (op_->reads.size() > 3) c.dr = read(3);
  floats({c.dy, c.x, c.w, c.dx, c.dw});
  require(c.x.rows == rows(w.rows) && same_shape(c.dy, c.x) && same_shape(c.dx, c.x) &&
              c.w.rows * c.w.cols == c.x.cols && same_shape(c.dw, c.w) && (!c.dr || same_shape(*c.dr, c.x)),
          "its buffers differ in shape");
  return TrainingCall{c};
}

// The gradient of a rotation is the rotation back; the core whose backward op wrote dX' knows the shape.
Call TrainingBinder::rotation_back() {
  const Tensor dy = read(0);
  const Tensor dx = write(0);
  for (const Op& other : plan_.ops) {
    const auto* core = std::get_if<AttentionCore>(&other.work);
    if (core == nullptr || !core->backward || other.writes.front() != op_->reads[0]) continue;
    AttentionForm form = form_of({other.reads[2]}, *core);
    require(same_shape(dy, dx) && form.kind == AttentionForm::Kind::self, "its buffers differ in shape");
    turn_pairs(form, form.qk_dim);
    for (std::size_t i = 1; i < form.turns.size(); i += 2) form.turns[i] = -form.turns[i];
    return RotateCall{std::move(form), dy, dx, std::nullopt};
  }
  refuse("no attention_core writes its input");
}

Call TrainingBinder::loss(const Elementwise& w) {
  const Tensor logits = read(0);
  const Tensor out = write(0);
  floats({logits, out});
  require(logits.rows == rows(w.rows) && logits.rows == plan_.tokens.count(owner()), "its rows are not its tokens");
  std::vector<std::int64_t> targets;
  for (std::int64_t t = 0; t < logits.rows; ++t)
    targets.push_back(token_id(inputs_.seed, plan_.tokens.begin[owner()] + t + 1, logits.cols));
  if (w.backward) {
    require(same_shape(out, logits), "its buffers differ in shape");
    return TrainingCall{LossGradientCall{std::move(targets), plan_.tokens.total(), logits, out}};
  }
  require(out.rows == logits.rows && out.cols == 1 && out.dtype == DType::f32, "its output has another shape");
  return TrainingCall{LossCall{std::move(targets), logits, out}};
}

Call TrainingBinder::gate(const Elementwise& w) {
  const auto k = static_cast<std::int64_t>(inputs_.routing.top_k());
  const Tensor choice = w.backward ? read(0) : write(0);
  const Tensor scores = read(w.backward ? 1 : 0);
  floats({scores});
  require(scores.rows == plan_.tokens.count(owner()) && choice.rows == scores.rows, "its rows are not its tokens");
  require(choice.cols == 2 * k && choice.dtype == DType::f32 && scores.cols >= inputs_.routing.experts(),
          "its choice has another shape");
  std::vector<ExpertIndex> chosen = experts(moe_layer_of(w.backward ? op_->reads[0] : op_->writes[0]));
  if (!w.backward) return TrainingCall{GateCall{std::move(chosen), scores, choice}};
  const Tensor dscores = write(0);
  require(same_shape(dscores, scores), "its buffers differ in shape");
  return TrainingCall{GateGradientCall{std::move(chosen), choice, scores, dscores}};
}

Call TrainingBinder::adam() {
  const std::size_t n = op_->reads.size();
  require(op_->writes.size() == 2 * n, "it has a state for each weight");
  AdamCall call;
  call.step = inputs_.step + 1;
  for (std::size_t i = 0; i < n; ++i) {
    const AdamCall::Parameter p{read(i), write(i), write(n + i)};
    floats({p.gradient, p.weight});
    require(same_shape(p.gradient, p.weight) && p.state.rows == p.weight.rows && p.state.dtype == DType::f32 &&
                p.state.cols == (p.weight.dtype == DType::f32 ? 2 : 3) * p.weight.cols,
            "its buffers differ in shape");
    call.parameters.push_back(p);
  }
  return TrainingCall{std::move(call)};
}

std::optional<Call> TrainingBinder::bind(const Elementwise& w) {
  using Fn = Elementwise::Fn;
  if (w.fn == Fn::adam) return adam();
  if (w.fn == Fn::cross_entropy) return loss(w);
  if (w.fn == Fn::top_k && trains_) return gate(w);
  if (!w.backward) return std::nullopt;
  switch (w.fn) {
    case Fn::norm:
    case Fn::add_norm:
      return norm_gradient(w);
    case Fn::activation:
    case Fn::gated: {
      const ActivationGradientCall c{w.activation, w.fn == Fn::gated, read(0), read(1), write(0)};
      floats({c.dy, c.x, c.dx});
      require(c.x.rows == rows(w.rows) && same_shape(c.dx, c.x) && c.dy.rows == c.x.rows &&
                  c.x.cols == (c.gated ? 2 : 1) * c.dy.cols,
              "its buffers differ in shape");
      return TrainingCall{c};
    }
    case Fn::embedding: {
      const Tensor dy = read(0);
      const Tensor dtable = write(0);
      floats({dy, dtable});
      require(dy.rows == plan_.tokens.count(owner()) && dy.cols == dtable.cols, "its buffers differ in shape");
      // A gradient has its weight's rows; training slices no table.
      return TrainingCall{EmbeddingGradientCall{table_rows(op_->writes[0]), dy, dtable}};
    }
    case Fn::rotary:
      return rotation_back();
    case Fn::add:
    case Fn::last_token:
    case Fn::top_k:
    case Fn::scale:
    case Fn::sum_partials:
    case Fn::adam:
    case Fn::cast:
    case Fn::delta_rule:
    case Fn::cross_entropy:
      break;
  }
  refuse("it has no backward pass");
}

std::optional<Call> TrainingBinder::bind(const Permute& w) {
  const bool combines = trains_ && !w.adjoint && w.to == RowOrder::token;
  const bool spreads = w.adjoint && w.from == RowOrder::token;
  if (!combines && !spreads) return std::nullopt;
  const Tensor x = read(0);
  const Tensor choice = read(1);
  const Tensor y = write(0);
  floats({x, y});
  require(x.cols == y.cols && x.rows == rows(w.rows_in) && y.rows == rows(w.rows_out), "its buffers differ in shape");
  require(choice.dtype == DType::f32 && choice.cols == std::int64_t{2} * inputs_.routing.top_k() &&
              choice.rows == (combines ? y : x).rows,
          "its choice has another shape");
  RowMap map = maps_.of(*op_, w, rank_);
  if (combines) return TrainingCall{CombineCall{w, std::move(map), x, choice, y}};
  const Tensor copies = read(2);
  const Tensor dchoice = write(1);
  require(same_shape(copies, y) && same_shape(dchoice, choice) && dchoice.dtype == DType::f32,
          "its buffers differ in shape");
  return TrainingCall{CombineGradientCall{w, std::move(map), x, choice, copies, y, dchoice}};
}

// ---- parameters ----

std::optional<Call> TrainingBinder::bind(const Collective& w) {
  if (w.kind == Collective::Kind::send_recv && w.from.valid()) return move(w);
  if (op_->reads.empty() || op_->reads != op_->writes) return std::nullopt;
  if (membership(plan_.groups[w.groups.index()], rank_).group == nullptr) return std::monostate{};
  SumCall call{w, {}};
  std::int64_t elements = 0;
  for (std::size_t i = 0; i < op_->reads.size(); ++i) {
    call.buffers.push_back(read(i));
    floats({call.buffers.back()});
    require(call.buffers.back().dtype == w.dtype, "its buffers hold another format");
    elements += call.buffers.back().rows * call.buffers.back().cols;
  }
  if (w.kind == Collective::Kind::all_reduce) {
    require(elements == plan_.table(w.counts).row_sum(rank_.value()) * w.cols, "its rows are not those of its buffers");
  } else {
    require(w.kind == Collective::Kind::sparse_reduce_scatter && w.from == w.to && call.buffers.size() == 1,
            "it works in place");
    const auto member = static_cast<int>(membership(plan_.groups[w.groups.index()], rank_).member);
    require(elements == plan_.placements[w.from.index()].slots_on(Rank(member)) * w.cols,
            "its rows are not those of its buffers");
  }
  return TrainingCall{std::move(call)};
}

Call TrainingBinder::move(const Collective& w) {
  if (membership(plan_.groups[w.groups.index()], rank_).group == nullptr) return std::monostate{};
  if (!binding_.before) refuse("what moved is not kept");
  const auto member = static_cast<int>(membership(plan_.groups[w.groups.index()], rank_).member);
  MoveCall call{w, {}};
  for (std::size_t i = 0; i < op_->writes.size(); ++i) {
    const Shard& shard = plan_.buffer(op_->writes[i]).shard;
    require(shard.placement == w.to && shard.matrix_rows > 0, "it moves something else than experts");
    const Tensor before = binding_.before(op_->writes[i]);
    require(before.rows == plan_.placements[w.from.index()].slots_on(Rank(member)) * shard.matrix_rows,
            "nothing was kept of what it moves");
    call.parts.push_back({before, write(i), shard.matrix_rows});
  }
  return TrainingCall{std::move(call)};
}

}  // namespace moesim::backend
