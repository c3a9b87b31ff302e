// The ops that only a training step has, as commands.
#include <algorithm>
#include <cmath>

#include "backend/cuda/op_lowering.hpp"

namespace moesim::backend::gpu {
namespace {

class Lowering : public OpLowering {
 public:
  using OpLowering::OpLowering;

  void operator()(const SumCall&) {}
  void operator()(const MoveCall&) {}

  // dX[m, k] = dY[m, n] W^T: a product of k columns that sums over n.
  void operator()(const InputGradientCall& c) {
    formats(c.dy, c.w, c.dx);
    add(c.dx, Product{c.dy.rows, c.work.k, c.work.n, 1, c.work.math, !c.transposed, c.dy, c.w, c.dx});
  }
  // dW[k, n] = X^T dY sums over the rows; of a table dW[n, k] = dY^T X.
  void operator()(const WeightGradientCall& c) {
    formats(c.x, c.dy, c.dw);
    if (c.x.rows == 0) return zero(c.dw);
    const Tensor& x = c.transposed ? c.dy : c.x;
    const Tensor& w = c.transposed ? c.x : c.dy;
    add(c.dw, Product{x.cols, w.cols, x.rows, 1, c.work.math, false, x, w, c.dw, true});
  }

  void operator()(const GroupedInputGradientCall& c) { grouped_rows(c.work, c.rows, c.dy, c.w, c.dx, true); }

  // Groups that share a matrix add up in float and are rounded once.
  void operator()(const GroupedWeightGradientCall& c) {
    formats(c.x, c.dy, c.dw);
    const GroupedGemm& work = c.work;
    const auto matrices = static_cast<std::size_t>(c.dw.rows / work.k);
    std::vector<std::vector<std::size_t>> of_matrix(matrices);  // its groups that have rows
    std::vector<std::int64_t> first(c.rows.size());
    bool shared = false;
    std::int64_t row = 0;
    for (std::size_t g = 0; g < c.rows.size(); ++g) {
      first[g] = row;
      row += c.rows[g];
      if (c.rows[g] == 0) continue;
      auto& groups = of_matrix[g % static_cast<std::size_t>(work.matrices)];
      groups.push_back(g);
      shared = shared || groups.size() > 1;
    }
    const bool each = work.launch.per_group || shared || c.x.dtype != c.dw.dtype;
    GroupedProduct all{work.n, work.k, work.math, c.x.dtype, c.dy.dtype, c.dw.dtype, {}, nullptr, false, true};
    Tensor room{nullptr, DType::f32, work.k, work.n};
    for (std::size_t i = 0; i < matrices; ++i) {
      const Tensor dw{c.dw.at(static_cast<std::int64_t>(i) * work.k), c.dw.dtype, work.k, work.n};
      if (of_matrix[i].empty()) zero(dw);
      const bool rounds = of_matrix[i].size() > 1 && dw.dtype != DType::f32;
      if (rounds && room.data == nullptr) room.data = at_.staging(room.bytes());
      const Tensor& sum = rounds ? room : dw;
      bool adds = false;
      for (const std::size_t g : of_matrix[i]) {
        const Tensor x{c.x.at(first[g]), c.x.dtype, c.rows[g], work.k};
        const Tensor dy{c.dy.at(first[g]), c.dy.dtype, c.rows[g], work.n};
        if (!each) {
          all.groups.push_back({c.rows[g], x.data, dy.data, dw.data});
          continue;
        }
        out_.commands.emplace_back(Product{work.k, work.n, x.rows, 1, work.math, false, x, dy, sum, true, adds});
        adds = true;
        end_set(work.launch, 1);
      }
      if (rounds) out_.commands.emplace_back(CastCall{sum, dw});
    }
    grouped(std::move(all), work.launch);
  }

  void operator()(const AttentionGradientCall& c) {
    const std::int64_t results = c.x.rows * c.form.heads * 3;
    add(c.x, AttendGradient{c.form, c.d_o, c.x, c.dx,
                            reinterpret_cast<float*>(at_.staging(results * std::int64_t{sizeof(float)}))});
  }

  void operator()(const NormGradientCall& c) {
    if (c.x.rows == 0) return zero(c.dw);
    constexpr std::int64_t most_parts = 1024;  // a warp each
    Tensor parts{nullptr, DType::f32, std::min(c.x.rows, most_parts), c.x.cols};
    parts.data = at_.staging(parts.bytes());
    add(c.dx, NormGradient{c.dy, c.x, c.w, c.dr.value_or(Tensor{}), c.dx, parts});
    // As many as a kernel adds up at once, then their sums.
    constexpr auto most = static_cast<std::int64_t>(Sum::most);
    while (parts.rows > most) {
      Tensor sums{nullptr, DType::f32, (parts.rows + most - 1) / most, parts.cols};
      sums.data = at_.staging(sums.bytes());
      for (std::int64_t i = 0; i < sums.rows; ++i)
        add(sums, sum_of(parts, i * most, std::min(parts.rows, (i + 1) * most), DType::f32, sums.at(i)));
      parts = sums;
    }
    add(c.dw, sum_of(parts, 0, parts.rows, c.dw.dtype, c.dw.data));
  }
  void operator()(const ActivationGradientCall& c) { add(c.dx, c); }

  // A row of the table's gradient is the sum over the tokens that it was looked up for.
  void operator()(const EmbeddingGradientCall& c) {
    std::vector<std::int64_t> begin(static_cast<std::size_t>(c.dtable.rows) + 1, 0);
    for (const std::int64_t id : c.ids)
      if (id >= 0) ++begin[static_cast<std::size_t>(id) + 1];
    for (std::size_t i = 1; i < begin.size(); ++i) begin[i] += begin[i - 1];
    std::vector<std::int64_t> next = begin;
    std::vector<std::int32_t> from(static_cast<std::size_t>(begin.back()));
    for (std::size_t i = 0; i < c.ids.size(); ++i)
      if (c.ids[i] >= 0)
        from[static_cast<std::size_t>(next[static_cast<std::size_t>(c.ids[i])]++)] = static_cast<std::int32_t>(i);
    add(c.dtable, MoveRows{numbers(begin), numbers(from), nullptr, 0, c.dtable.rows, c.dy, c.dtable});
  }

  void operator()(const LossCall& c) { add(c.loss, CrossEntropy{numbers(c.targets), 0, c.logits, c.loss}); }
  void operator()(const LossGradientCall& c) {
    add(c.dlogits, CrossEntropy{numbers(c.targets), c.tokens, c.logits, c.dlogits});
  }

  void operator()(const GateCall& c) {
    add(c.choice, GateWeights{static_cast<int>(c.choice.cols / 2), ids(c.experts), c.scores, c.choice});
  }
  void operator()(const GateGradientCall& c) {
    add(c.dscores, GateGradient{static_cast<int>(c.dchoice.cols / 2), ids(c.experts), c.dchoice, c.scores, c.dscores});
  }
  void operator()(const CombineCall& c) {
    move_rows(c.work, {numbers(c.map.begin), numbers(c.map.from), reinterpret_cast<const float*>(c.choice.data), 0,
                       c.y.rows, c.x, c.y, numbers(c.map.gate)});
  }
  void operator()(const CombineGradientCall& c) {
    zero(c.dchoice);  // dropped copies, ids
    if (c.dcopies.rows == 0) return;
    add(c.dcopies, CombineGradient{numbers(c.map.begin), numbers(c.map.from), numbers(c.map.gate), c.dy, c.choice,
                                   c.copies, c.dcopies, c.dchoice});
    end_set(c.work.launch, 1);
  }

  void operator()(const AdamCall& c) {
    const auto unbias = [&](float beta) { return 1.0F / (1.0F - std::pow(beta, static_cast<float>(c.step))); };
    for (const AdamCall::Parameter& p : c.parameters)
      add(p.weight, AdamStep{unbias(AdamRule::beta1), unbias(AdamRule::beta2), p.gradient, p.weight, p.state});
  }

 private:
  static Sum sum_of(const Tensor& rows, std::int64_t first, std::int64_t last, DType dtype, std::byte* y) {
    Sum out{{}, rows.cols, dtype, y};
    for (std::int64_t i = first; i < last; ++i) out.terms.push_back({rows.at(i), rows.dtype});
    return out;
  }
  void zero(const Tensor& t) { add(t, SetBytes{t.data, t.bytes(), 0}); }
  [[nodiscard]] const std::int32_t* ids(const std::vector<ExpertIndex>& experts) const {
    return numbers(std::vector<std::int32_t>(experts.begin(), experts.end()));
  }
};

}  // namespace

void lower_training(const LowerContext& at, const Op& op, const TrainingCall& call, Step& out) {
  std::visit(Lowering(at, op, out), call);
}

}  // namespace moesim::backend::gpu
