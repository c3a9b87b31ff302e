// The arithmetic of a training step's kernels, as bodies.hpp has that of the others; the equations stand at their
// commands (command.hpp).
#pragma once

#include "backend/cuda/attention_bodies.hpp"
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

struct Softmax {
  float most = 0;
  float sum = 0;  // of exp(v - most)
  [[nodiscard]] MOESIM_BOTH float at(float v) const { return expf(v - most) / sum; }
};
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

// ---- attention ----
//
// S = Q K^T / sqrt(d), P = softmax(S), A = P V, O = A (or A sigmoid(G) with an output gate)
// dV = P^T dA, dP = dA V^T, dS = P (dP - rowsum(P dP)), dQ = dS K / sqrt(d), dK = dS^T Q / sqrt(d); rowsum(P dP) = dA .
// A. Queries come first and leave what keys need of them: the largest score, the sum of the exponentials and dA . A.

inline constexpr int gradient_tile = 128;

struct QueryResult {
  float largest;
  float sum;
  float along;
};
MOESIM_BOTH inline QueryResult* result_of(const AttendGradient& c, std::int64_t row, std::int64_t head) {
  return reinterpret_cast<QueryResult*>(c.room) + (row * c.shape.heads + head);
}

// Element d of dA at a query and head.
MOESIM_BOTH inline float output_gradient(const AttendGradient& c, std::int64_t row, std::int64_t head, std::int64_t d) {
  const AttentionShape& f = c.shape;
  const float v = load(c.d_o.at(row, head * f.v_dim), c.d_o.dtype, d);
  if (!f.gated) return v;
  return v / (1.0F + expf(-load(c.x.at(row, f.q_cols() + head * f.v_dim), c.x.dtype, d)));
}

MOESIM_BOTH inline float dot(const float* a, const std::byte* b, DType t, std::int64_t n) {
  float sum = 0;
  for (std::int64_t d = 0; d < n; ++d) sum = fused(a[d], load(b, t, d), sum);
  return sum;
}

// Floats that a team shares.
MOESIM_BOTH inline std::int64_t query_room(const AttentionShape& f) {
  return gradient_tile + 2 * f.qk_dim + 2 * f.v_dim;
}
MOESIM_BOTH inline std::int64_t key_room(const AttentionShape& f) {
  return 2 * gradient_tile + 2 * f.qk_dim + 2 * f.v_dim;
}

template <class Team>
MOESIM_BOTH void attend_gradient_query(const Team& team, const AttendGradient& c, std::int64_t row, std::int64_t head,
                                       float* room) {
  const AttentionShape& f = c.shape;
  const DType t = c.x.dtype;
  const std::int64_t begin = row / f.q_len * f.q_len;  // of the sequence
  const std::int64_t i = row - begin;
  const std::int64_t kv_head = head * f.kv_heads / f.heads;
  const std::int64_t to = f.causal ? i + 1 : f.q_len;
  const std::int64_t from = f.window > 0 && i + 1 > f.window ? i + 1 - f.window : 0;
  const float scale = 1.0F / sqrtf(static_cast<float>(f.qk_dim));
  const auto key = [&](std::int64_t j) { return c.x.at(begin + j, f.key_col() + kv_head * f.qk_dim); };
  const auto value = [&](std::int64_t j) { return c.x.at(begin + j, f.value_col() + kv_head * f.v_dim); };
  float* score = room;
  float* query = score + gradient_tile;
  float* dq = query + f.qk_dim;
  float* da = dq + f.qk_dim;
  float* a = da + f.v_dim;
  for (std::int64_t d = team.lane(); d < f.qk_dim; d += team.lanes()) {
    query[d] = load(c.x.at(row, head * f.qk_dim), t, d);
    dq[d] = 0;
  }
  for (std::int64_t d = team.lane(); d < f.v_dim; d += team.lanes()) {
    da[d] = output_gradient(c, row, head, d);
    a[d] = 0;
  }
  float largest = -std::numeric_limits<float>::infinity();
  float denominator = 0;
  for (std::int64_t tile = from; tile < to; tile += gradient_tile) {
    const int keys = static_cast<int>(to - tile < gradient_tile ? to - tile : gradient_tile);
    team.barrier();  // the query is there, and nobody needs the last tile's scores
    float most = -std::numeric_limits<float>::infinity();
    for (int j = team.lane(); j < keys; j += team.lanes()) {
      score[j] = dot(query, key(tile + j), t, f.qk_dim) * scale;
      most = fmaxf(most, score[j]);
    }
    most = fmaxf(largest, team.most(most));
    const float shrink = expf(largest - most);
    float sum = 0;
    for (int j = team.lane(); j < keys; j += team.lanes()) {
      score[j] = expf(score[j] - most);
      sum += score[j];
    }
    denominator = denominator * shrink + team.sum(sum);
    largest = most;
    team.barrier();
    for (std::int64_t d = team.lane(); d < f.v_dim; d += team.lanes()) {
      float v = a[d] * shrink;
      for (int j = 0; j < keys; ++j) v = fused(score[j], load(value(tile + j), t, d), v);
      a[d] = v;
    }
  }
  float along = 0;
  for (std::int64_t d = team.lane(); d < f.v_dim; d += team.lanes()) {
    a[d] /= denominator;
    along += da[d] * a[d];
    if (!f.gated) continue;
    const float open = 1.0F / (1.0F + expf(-load(c.x.at(row, f.q_cols() + head * f.v_dim), t, d)));
    const float d_o = load(c.d_o.at(row, head * f.v_dim), c.d_o.dtype, d);
    store(c.dx.at(row, f.q_cols() + head * f.v_dim), c.dx.dtype, d, d_o * a[d] * open * (1.0F - open));
  }
  along = team.sum(along);
  if (team.lane() == 0) *result_of(c, row, head) = {largest, denominator, along};
  for (std::int64_t tile = from; tile < to; tile += gradient_tile) {
    const int keys = static_cast<int>(to - tile < gradient_tile ? to - tile : gradient_tile);
    team.barrier();
    for (int j = team.lane(); j < keys; j += team.lanes()) {
      const float p = expf(dot(query, key(tile + j), t, f.qk_dim) * scale - largest) / denominator;
      score[j] = p * (dot(da, value(tile + j), t, f.v_dim) - along) * scale;
    }
    team.barrier();
    for (std::int64_t d = team.lane(); d < f.qk_dim; d += team.lanes())
      for (int j = 0; j < keys; ++j) dq[d] = fused(score[j], load(key(tile + j), t, d), dq[d]);
  }
  for (std::int64_t d = team.lane(); d < f.qk_dim; d += team.lanes())
    store(c.dx.at(row, head * f.qk_dim), c.dx.dtype, d, dq[d]);
}

// A key and value with the queries of all heads that see them.
template <class Team>
MOESIM_BOTH void attend_gradient_key(const Team& team, const AttendGradient& c, std::int64_t row, std::int64_t kv_head,
                                     float* room) {
  const AttentionShape& f = c.shape;
  const DType t = c.x.dtype;
  const std::int64_t begin = row / f.q_len * f.q_len;
  const std::int64_t j = row - begin;
  const std::int64_t from = f.causal ? j : 0;
  const std::int64_t to = f.window > 0 && j + f.window < f.q_len ? j + f.window : f.q_len;
  const std::int64_t heads = f.heads / f.kv_heads;
  const float scale = 1.0F / sqrtf(static_cast<float>(f.qk_dim));
  const std::int64_t key_col = f.key_col() + kv_head * f.qk_dim;
  const std::int64_t value_col = f.value_col() + kv_head * f.v_dim;
  float* probability = room;
  float* ds = probability + gradient_tile;
  float* key = ds + gradient_tile;
  float* dk = key + f.qk_dim;
  float* value = dk + f.qk_dim;
  float* dv = value + f.v_dim;
  for (std::int64_t d = team.lane(); d < f.qk_dim; d += team.lanes()) {
    key[d] = load(c.x.at(row, key_col), t, d);
    dk[d] = 0;
  }
  for (std::int64_t d = team.lane(); d < f.v_dim; d += team.lanes()) {
    value[d] = load(c.x.at(row, value_col), t, d);
    dv[d] = 0;
  }
  for (std::int64_t head = kv_head * heads; head < (kv_head + 1) * heads; ++head)
    for (std::int64_t tile = from; tile < to; tile += gradient_tile) {
      const int queries = static_cast<int>(to - tile < gradient_tile ? to - tile : gradient_tile);
      team.barrier();  // the key is there, and nobody needs the last tile's numbers
      for (int i = team.lane(); i < queries; i += team.lanes()) {
        const std::int64_t q = begin + tile + i;
        const QueryResult& r = *result_of(c, q, head);
        const float s = dot(key, c.x.at(q, head * f.qk_dim), t, f.qk_dim) * scale;
        probability[i] = expf(s - r.largest) / r.sum;
        float dp = 0;
        for (std::int64_t d = 0; d < f.v_dim; ++d) dp = fused(output_gradient(c, q, head, d), value[d], dp);
        ds[i] = probability[i] * (dp - r.along) * scale;
      }
      team.barrier();
      for (std::int64_t d = team.lane(); d < f.qk_dim; d += team.lanes())
        for (int i = 0; i < queries; ++i)
          dk[d] = fused(ds[i], load(c.x.at(begin + tile + i, head * f.qk_dim), t, d), dk[d]);
      for (std::int64_t d = team.lane(); d < f.v_dim; d += team.lanes())
        for (int i = 0; i < queries; ++i)
          dv[d] = fused(probability[i], output_gradient(c, begin + tile + i, head, d), dv[d]);
    }
  for (std::int64_t d = team.lane(); d < f.qk_dim; d += team.lanes())
    store(c.dx.at(row, key_col), c.dx.dtype, d, dk[d]);
  for (std::int64_t d = team.lane(); d < f.v_dim; d += team.lanes())
    store(c.dx.at(row, value_col), c.dx.dtype, d, dv[d]);
}

}  // namespace moesim::backend::gpu
