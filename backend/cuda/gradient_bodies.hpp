// The arithmetic of a training step's kernels, as bodies.hpp has that of the others; the equations stand at their
// commands (command.hpp).
#pragma once

#include "backend/cuda/bodies.hpp"

namespace moesim::backend::gpu {

// ---- rows ----

// Rows [rows p / parts, rows (p + 1) / parts). A lane has the same columns in every row, so that nobody else touches
// its sums.
template <class Team>
MOESIM_BOTH void norm_gradient_part(const Team& team, const NormGradient& c, std::int64_t p) {
  const std::int64_t cols = c.x.cols;
  const bool whole = packed(cols);
  std::byte* sums = c.parts.at(p);
  const std::int64_t first = c.x.rows * p / c.parts.rows;
  const std::int64_t last = c.x.rows * (p + 1) / c.parts.rows;
  for (std::int64_t i = first; i < last; ++i) {
    float squares = 0;
    float along = 0;
    for_elements(team, cols, whole, [&](std::int64_t e, int n) {
      const Pack x = load_some(c.x.at(i), c.x.dtype, e, n);
      const Pack dy = load_some(c.dy.at(i), c.dy.dtype, e, n);
      const Pack w = load_some(c.w.data, c.w.dtype, e, n);
      for (int j = 0; j < n; ++j) {
        squares += x.v[j] * x.v[j];
        along += dy.v[j] * w.v[j] * x.v[j];
      }
    });
    const auto width = static_cast<float>(cols);
    const float r = 1.0F / sqrtf(team.sum(squares) / width + norm_epsilon);
    const float share = r * r * (team.sum(along) / width);
    for_elements(team, cols, whole, [&](std::int64_t e, int n) {
      const Pack x = load_some(c.x.at(i), c.x.dtype, e, n);
      const Pack dy = load_some(c.dy.at(i), c.dy.dtype, e, n);
      const Pack w = load_some(c.w.data, c.w.dtype, e, n);
      const Pack residual = c.dr.data != nullptr ? load_some(c.dr.at(i), c.dr.dtype, e, n) : Pack{};
      Pack sum = i > first ? load_some(sums, DType::f32, e, n) : Pack{};
      Pack dx;
      for (int j = 0; j < n; ++j) {
        sum.v[j] += dy.v[j] * x.v[j] * r;
        dx.v[j] = r * (dy.v[j] * w.v[j] - x.v[j] * share) + residual.v[j];
      }
      store_some(sums, DType::f32, e, n, sum);
      store_some(c.dx.at(i), c.dx.dtype, e, n, dx);
    });
  }
}

MOESIM_BOTH inline float slope(Activation a, float x) {
  switch (a) {
    case Activation::relu:
      return x > 0 ? 1.0F : 0.0F;
    case Activation::gelu:  // Phi(x) + x phi(x)
      return 0.5F * (1.0F + erff(x * 0.70710678F)) + x * 0.39894228F * expf(-0.5F * x * x);
    case Activation::silu: {
      const float s = 1.0F / (1.0F + expf(-x));
      return s * (1.0F + x * (1.0F - s));
    }
  }
  return 0;
}

template <class Team>
MOESIM_BOTH void activation_gradient_row(const Team& team, const ActivationGradientCall& c, std::int64_t i) {
  const std::int64_t cols = c.dy.cols;
  for_elements(team, cols, packed(cols), [&](std::int64_t e, int n) {
    const Pack dy = load_some(c.dy.at(i), c.dy.dtype, e, n);
    const Pack x = load_some(c.x.at(i), c.x.dtype, e, n);
    const Pack up = c.gated ? load_some(c.x.at(i), c.x.dtype, cols + e, n) : Pack{};
    Pack dx;
    Pack dup;
    for (int j = 0; j < n; ++j) {
      dx.v[j] = dy.v[j] * slope(c.activation, x.v[j]) * (c.gated ? up.v[j] : 1.0F);
      dup.v[j] = dy.v[j] * activated(c.activation, x.v[j]);
    }
    store_some(c.dx.at(i), c.dx.dtype, e, n, dx);
    if (c.gated) store_some(c.dx.at(i), c.dx.dtype, cols + e, n, dup);
  });
}

// ---- softmax: the loss and the gate ----

template <class Team>
MOESIM_BOTH Softmax softmax_of(const Team& team, const std::byte* row, DType t, std::int64_t n) {
  float most = -std::numeric_limits<float>::infinity();
  for (std::int64_t e = team.lane(); e < n; e += team.lanes()) most = fmaxf(most, load(row, t, e));
  most = team.most(most);
  float sum = 0;
  for (std::int64_t e = team.lane(); e < n; e += team.lanes()) sum += expf(load(row, t, e) - most);
  return {most, team.sum(sum)};
}

template <class Team>
MOESIM_BOTH void cross_entropy_row(const Team& team, const CrossEntropy& c, std::int64_t i) {
  const std::byte* logits = c.logits.at(i);
  const Softmax p = softmax_of(team, logits, c.logits.dtype, c.logits.cols);
  const std::int64_t target = c.targets[i];
  if (c.tokens == 0) {
    if (team.lane() == 0) store(c.y.at(i), c.y.dtype, 0, p.most + logf(p.sum) - load(logits, c.logits.dtype, target));
    return;
  }
  for (std::int64_t e = team.lane(); e < c.logits.cols; e += team.lanes()) {
    const float d = p.at(load(logits, c.logits.dtype, e)) - (e == target ? 1.0F : 0.0F);
    store(c.y.at(i), c.y.dtype, e, d / static_cast<float>(c.tokens));
  }
}

template <class Team>
MOESIM_BOTH void gate_weights_row(const Team& team, const GateWeights& c, std::int64_t i) {
  const std::byte* scores = c.scores.at(i);
  const Softmax p = softmax_of(team, scores, c.scores.dtype, c.scores.cols);
  for (int j = team.lane(); j < c.k; j += team.lanes()) {
    const std::int32_t e = c.experts[i * c.k + j];
    store(c.y.at(i), c.y.dtype, j, static_cast<float>(e));
    store(c.y.at(i), c.y.dtype, c.k + j, p.at(load(scores, c.scores.dtype, e)));
  }
}

template <class Team>
MOESIM_BOTH void gate_gradient_row(const Team& team, const GateGradient& c, std::int64_t i) {
  const std::byte* scores = c.scores.at(i);
  const Softmax p = softmax_of(team, scores, c.scores.dtype, c.scores.cols);
  const std::int32_t* experts = c.experts + i * c.k;
  const auto gradient = [&](int j) { return load(c.dchoice.at(i), c.dchoice.dtype, c.k + j); };
  float along = 0;
  for (int j = team.lane(); j < c.k; j += team.lanes())
    along += gradient(j) * p.at(load(scores, c.scores.dtype, experts[j]));
  along = team.sum(along);
  for (std::int64_t e = team.lane(); e < c.scores.cols; e += team.lanes()) {
    float own = 0;
    for (int j = 0; j < c.k; ++j)
      if (experts[j] == e) own += gradient(j);
    store(c.dscores.at(i), c.dscores.dtype, e, p.at(load(scores, c.scores.dtype, e)) * (own - along));
  }
}

template <class Team>
MOESIM_BOTH void combine_gradient_row(const Team& team, const CombineGradient& c, std::int64_t i) {
  const std::int64_t cols = c.dy.cols;
  const std::int64_t term = c.begin[i];
  if (c.begin[i + 1] == term) return zero_row(team, c.dcopies.at(i), cols * c.dcopies.element_bytes());
  const std::int64_t from = c.from[term];
  const std::int32_t element = c.gate[term];
  const float gate = load(c.choice.data, c.choice.dtype, element);
  float product = 0;
  for_elements(team, cols, packed(cols), [&](std::int64_t e, int n) {
    Pack dy = load_some(c.dy.at(from), c.dy.dtype, e, n);
    const Pack copy = load_some(c.copies.at(i), c.copies.dtype, e, n);
    for (int j = 0; j < n; ++j) {
      product += dy.v[j] * copy.v[j];
      dy.v[j] *= gate;
    }
    store_some(c.dcopies.at(i), c.dcopies.dtype, e, n, dy);
  });
  product = team.sum(product);
  if (team.lane() == 0) store(c.dchoice.data, c.dchoice.dtype, element, product);
}

// ---- parameters ----

template <class Team>
MOESIM_BOTH void adam_row(const Team& team, const AdamStep& c, std::int64_t i) {
  const std::int64_t cols = c.weight.cols;
  const bool master = c.weight.dtype != DType::f32;
  const std::int64_t moments = master ? cols : 0;
  std::byte* state = c.state.at(i);
  for_elements(team, cols, packed(cols), [&](std::int64_t e, int n) {
    const Pack g = load_some(c.gradient.at(i), c.gradient.dtype, e, n);
    Pack w = master ? load_some(state, DType::f32, e, n) : load_some(c.weight.at(i), DType::f32, e, n);
    Pack m = load_some(state, DType::f32, moments + e, n);
    Pack v = load_some(state, DType::f32, moments + cols + e, n);
    for (int j = 0; j < n; ++j) {
      m.v[j] = AdamRule::beta1 * m.v[j] + (1.0F - AdamRule::beta1) * g.v[j];
      v.v[j] = AdamRule::beta2 * v.v[j] + (1.0F - AdamRule::beta2) * (g.v[j] * g.v[j]);
      w.v[j] -= AdamRule::rate * (m.v[j] * c.unbias1) / (sqrtf(v.v[j] * c.unbias2) + AdamRule::epsilon);
    }
    store_some(c.weight.at(i), c.weight.dtype, e, n, w);
    if (master) store_some(state, DType::f32, e, n, w);
    store_some(state, DType::f32, moments + e, n, m);
    store_some(state, DType::f32, moments + cols + e, n, v);
  });
}

template <class Team>
MOESIM_BOTH void start_state_row(const Team& team, const StartState& c, std::int64_t i) {
  const std::int64_t cols = c.weight.cols;
  for_elements(team, cols, packed(cols), [&](std::int64_t e, int n) {
    std::int64_t at = e;
    if (c.weight.dtype != DType::f32) {
      store_some(c.state.at(i), DType::f32, at, n, load_some(c.weight.at(i), c.weight.dtype, e, n));
      at += cols;
    }
    store_some(c.state.at(i), DType::f32, at, n, Pack{});
    store_some(c.state.at(i), DType::f32, at + cols, n, Pack{});
  });
}

}  // namespace moesim::backend::gpu
