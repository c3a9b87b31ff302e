// The gradient of self attention without a cache: a team does one query of a head, then one key.
//
// S = Q K^T / sqrt(d), P = softmax(S), A = P V, O = A (or A sigmoid(G) with an output gate)
// dV = P^T dA, dP = dA V^T, dS = P (dP - rowsum(P dP)), dQ = dS K / sqrt(d), dK = dS^T Q / sqrt(d); rowsum(P dP) = dA .
// A. Queries come first and leave what keys need of them: the largest score, the sum of the exponentials and dA . A.
#pragma once

#include "backend/cuda/attention_bodies.hpp"

namespace moesim::backend::gpu {

struct QueryResult {
  Softmax softmax;
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

// Floats that a team shares.
MOESIM_BOTH inline std::int64_t query_room(const AttentionShape& f) { return key_tile + 2 * f.qk_dim + 2 * f.v_dim; }
MOESIM_BOTH inline std::int64_t key_room(const AttentionShape& f) { return 2 * key_tile + 2 * f.qk_dim + 2 * f.v_dim; }

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
  float* query = score + key_tile;
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
  const Softmax softmax = over_tiles(
      team, from, to, score, [&](std::int64_t j, int) { return dot(query, key(j), t, f.qk_dim, 0) * scale; },
      [&](std::int64_t tile, int keys, float shrink) {
        for (std::int64_t d = team.lane(); d < f.v_dim; d += team.lanes()) {
          float v = a[d] * shrink;
          for (int j = 0; j < keys; ++j) v = fused(score[j], load(value(tile + j), t, d), v);
          a[d] = v;
        }
      });
  float along = 0;
  for (std::int64_t d = team.lane(); d < f.v_dim; d += team.lanes()) {
    a[d] /= softmax.sum;
    along += da[d] * a[d];
    if (!f.gated) continue;
    const float open = 1.0F / (1.0F + expf(-load(c.x.at(row, f.q_cols() + head * f.v_dim), t, d)));
    const float d_o = load(c.d_o.at(row, head * f.v_dim), c.d_o.dtype, d);
    store(c.dx.at(row, f.q_cols() + head * f.v_dim), c.dx.dtype, d, d_o * a[d] * open * (1.0F - open));
  }
  along = team.sum(along);
  if (team.lane() == 0) *result_of(c, row, head) = {softmax, along};
  for (std::int64_t tile = from; tile < to; tile += key_tile) {
    const int keys = static_cast<int>(to - tile < key_tile ? to - tile : key_tile);
    team.barrier();
    for (int j = team.lane(); j < keys; j += team.lanes()) {
      const float p = softmax.at(dot(query, key(tile + j), t, f.qk_dim, 0) * scale);
      score[j] = p * (dot(da, value(tile + j), t, f.v_dim, 0) - along) * scale;
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
  float* ds = probability + key_tile;
  float* key = ds + key_tile;
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
    for (std::int64_t tile = from; tile < to; tile += key_tile) {
      const int queries = static_cast<int>(to - tile < key_tile ? to - tile : key_tile);
      team.barrier();  // the key is there, and nobody needs the last tile's numbers
      for (int i = team.lane(); i < queries; i += team.lanes()) {
        const std::int64_t q = begin + tile + i;
        const QueryResult& r = *result_of(c, q, head);
        const float s = dot(key, c.x.at(q, head * f.qk_dim), t, f.qk_dim, 0) * scale;
        probability[i] = r.softmax.at(s);
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
