// Attention's kernels: a team does one query of one head over tiles of keys (the running maximum and sum of "Online
// normalizer calculation for softmax", arXiv 1805.02867). No tensor cores: right, and not fast.
#pragma once

#include "backend/cuda/bodies.hpp"

namespace moesim::backend::gpu {

inline constexpr int key_tile = 128;

MOESIM_BOTH inline std::int64_t position_of(const AttentionShape& f, std::int64_t row) {
  return f.kv_len - f.q_len + row % f.q_len;
}
MOESIM_BOTH inline std::int64_t cache_row(const AttentionShape& f, std::int64_t sequence, std::int64_t position) {
  return sequence * f.kept + position % f.kept;
}

// Where the key and value of one head at one position are. A key is `nope` elements, then (latent forms) `rope` more
// elsewhere.
struct KeyPlace {
  const std::byte* key = nullptr;
  const std::byte* rope = nullptr;
  const std::byte* value = nullptr;
  DType key_type = DType::f32;
  DType rope_type = DType::f32;
};
MOESIM_BOTH inline KeyPlace key_place(const Attend& c, std::int64_t sequence, std::int64_t head, std::int64_t p) {
  const AttentionShape& f = c.shape;
  const std::int64_t fresh = p - (f.kv_len - f.q_len);  // >= 0: among the new tokens
  const std::int64_t row = sequence * f.q_len + fresh;
  switch (f.kind) {
    case AttentionShape::Kind::self:
      if (fresh >= 0)
        return {c.x.at(row, f.key_col() + head * f.qk_dim), nullptr, c.x.at(row, f.value_col() + head * f.v_dim),
                c.x.dtype, DType::f32};
      break;
    case AttentionShape::Kind::cross:
      break;
    case AttentionShape::Kind::latent_expanded: {
      const std::int64_t nope = f.qk_dim - f.rope;
      const std::int64_t col = head * (nope + f.v_dim);
      return {c.expanded.at(row, col), c.cache.at(cache_row(f, sequence, p), c.cache.cols - f.rope),
              c.expanded.at(row, col + nope), c.expanded.dtype, c.cache.dtype};
    }
    case AttentionShape::Kind::latent_absorbed: {
      const std::byte* latent = c.cache.at(cache_row(f, sequence, p));
      return {latent, nullptr, latent, c.cache.dtype, DType::f32};
    }
  }
  const std::int64_t row_kept = cache_row(f, sequence, p);
  return {c.cache.at(row_kept, head * f.qk_dim), nullptr, c.cache.at(row_kept, f.kv_heads * f.qk_dim + head * f.v_dim),
          c.cache.dtype, DType::f32};
}

// a . b over n elements; 16 bytes at a time where b begins at a multiple of them.
MOESIM_BOTH inline float dot(const float* a, const std::byte* b, DType t, std::int64_t n, float sum) {
  std::int64_t d = 0;
  if (reinterpret_cast<std::uintptr_t>(b) % sizeof(Wide) == 0)
    for (; d + pack <= n; d += pack) {
      const Pack v = load_pack(b, t, d);
      for (int j = 0; j < pack; ++j) sum = fused(a[d + j], v.v[j], sum);
    }
  for (; d < n; ++d) sum = fused(a[d], load(b, t, d), sum);
  return sum;
}

// Over tiles of keys [from, to): score[j] becomes exp(score_of(key, j) - the largest so far), and add(tile, keys,
// shrink) is to add score[j] times each key's value to what it has of the tiles before, times shrink. What the team
// shares must not change after the first barrier.
template <class Team, class ScoreOf, class Add>
MOESIM_BOTH Softmax over_tiles(const Team& team, std::int64_t from, std::int64_t to, float* score,
                               const ScoreOf& score_of, const Add& add) {
  Softmax out{-std::numeric_limits<float>::infinity(), 0};
  for (std::int64_t tile = from; tile < to; tile += key_tile) {
    const int keys = static_cast<int>(to - tile < key_tile ? to - tile : key_tile);
    team.barrier();  // the query is there, and nobody needs the last tile's scores
    float most = -std::numeric_limits<float>::infinity();
    for (int j = team.lane(); j < keys; j += team.lanes()) {
      score[j] = score_of(tile + j, j);
      most = fmaxf(most, score[j]);
    }
    most = fmaxf(out.most, team.most(most));
    const float shrink = expf(out.most - most);
    float sum = 0;
    for (int j = team.lane(); j < keys; j += team.lanes()) {
      score[j] = expf(score[j] - most);
      sum += score[j];
    }
    out = {most, out.sum * shrink + team.sum(sum)};
    team.barrier();
    add(tile, keys, shrink);
  }
  return out;
}

// Floats that a team shares: addresses of a tile's values, its scores, the query and the output.
MOESIM_BOTH inline std::int64_t attend_room(const AttentionShape& f) { return 3 * key_tile + f.qk_dim + f.v_dim; }

template <class Team>
MOESIM_BOTH void attend_query(const Team& team, const Attend& c, std::int64_t row, std::int64_t head, float* room) {
  const AttentionShape& f = c.shape;
  const std::int64_t sequence = row / f.q_len;
  const std::int64_t position = position_of(f, row);
  const std::int64_t kv_head = head * f.kv_heads / f.heads;
  const std::int64_t to = f.causal ? position + 1 : f.kv_len;
  const std::int64_t from = f.causal && f.window > 0 && position + 1 > f.window ? position + 1 - f.window : 0;
  const float scale = 1.0F / sqrtf(static_cast<float>(f.qk_dim));
  // Values up to here are in the cache's format.
  const bool expanded = f.kind == AttentionShape::Kind::latent_expanded;
  const std::int64_t cached = expanded ? 0 : f.kind == AttentionShape::Kind::self ? f.kv_len - f.q_len : f.kv_len;
  const std::int64_t nope = expanded ? f.qk_dim - f.rope : f.qk_dim;
  const DType fresh_type = expanded ? c.expanded.dtype : c.x.dtype;
  auto* value_at = reinterpret_cast<const std::byte**>(room);
  float* score = room + 2 * key_tile;
  float* query = score + key_tile;
  float* out = query + f.qk_dim;
  for (std::int64_t d = team.lane(); d < f.qk_dim; d += team.lanes())
    query[d] = load(c.x.at(row, head * f.qk_dim), c.x.dtype, d);
  for (std::int64_t d = team.lane(); d < f.v_dim; d += team.lanes()) out[d] = 0;
  const Softmax softmax = over_tiles(
      team, from, to, score,
      [&](std::int64_t p, int j) {
        const KeyPlace k = key_place(c, sequence, kv_head, p);
        value_at[j] = k.value;
        const float sum = dot(query, k.key, k.key_type, nope, 0);
        return (nope < f.qk_dim ? dot(query + nope, k.rope, k.rope_type, f.qk_dim - nope, sum) : sum) * scale;
      },
      [&](std::int64_t tile, int keys, float shrink) {
        for (std::int64_t d = team.lane(); d < f.v_dim; d += team.lanes()) {
          float value = out[d] * shrink;
          for (int j = 0; j < keys; ++j) {
            const DType t = tile + j < cached ? c.cache.dtype : fresh_type;
            value = fused(score[j], load(value_at[j], t, d), value);
          }
          out[d] = value;
        }
      });
  for (std::int64_t d = team.lane(); d < f.v_dim; d += team.lanes()) {
    float value = out[d] / softmax.sum;
    if (f.gated) value /= 1.0F + expf(-load(c.x.at(row, f.q_cols() + head * f.v_dim), c.x.dtype, d));
    store(c.o.at(row, head * f.v_dim), c.o.dtype, d, value);
  }
}

// Pair j of `d` columns at x, turned, to y.
MOESIM_BOTH inline void turn_pair(const AttentionShape& f, const float* turns, std::int64_t row, std::int64_t d,
                                  std::int64_t j, const std::byte* x, DType x_type, std::byte* y, DType y_type) {
  const std::int64_t half = d / 2;
  const float* turn = turns + (row % f.q_len * half + j) * 2;
  const float a = load(x, x_type, j);
  const float b = load(x, x_type, j + half);
  store(y, y_type, j, a * turn[0] - b * turn[1]);
  store(y, y_type, j + half, a * turn[1] + b * turn[0]);
}

template <class Team>
MOESIM_BOTH void rotate_row(const Team& team, const Rotate& c, std::int64_t row) {
  const AttentionShape& f = c.shape;
  const std::int64_t half = f.qk_dim / 2;
  const auto turn = [&](std::int64_t col, std::int64_t j) {
    turn_pair(f, c.turns, row, f.qk_dim, j, c.x.at(row, col), c.x.dtype, c.y.at(row, col), c.y.dtype);
  };
  const auto keep = [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t e = first + team.lane(); e < last; e += team.lanes())
      store(c.y.at(row), c.y.dtype, e, load(c.x.at(row), c.x.dtype, e));
  };
  for (std::int64_t i = team.lane(); i < f.heads * half; i += team.lanes()) turn(i / half * f.qk_dim, i % half);
  for (std::int64_t i = team.lane(); i < f.kv_heads * half; i += team.lanes())
    turn(f.key_col() + i / half * f.qk_dim, i % half);
  if (f.qk_dim % 2 != 0) {  // the last column of a head has no partner
    for (std::int64_t h = team.lane(); h < f.heads + f.kv_heads; h += team.lanes()) {
      const std::int64_t e = (h < f.heads ? h * f.qk_dim : f.key_col() + (h - f.heads) * f.qk_dim) + f.qk_dim - 1;
      store(c.y.at(row), c.y.dtype, e, load(c.x.at(row), c.x.dtype, e));
    }
  }
  keep(f.q_cols(), f.key_col());
  keep(f.value_col(), c.y.cols);
}

template <class Team>
MOESIM_BOTH void store_keys_row(const Team& team, const StoreKeys& c, std::int64_t row) {
  const AttentionShape& f = c.shape;
  const std::int64_t to = cache_row(f, row / f.q_len, position_of(f, row));
  // A ring keeps the last positions only: of two that share a row the later one.
  if (position_of(f, row) + f.kept < f.kv_len) return;
  for (std::int64_t e = team.lane(); e < c.cache.cols; e += team.lanes())
    store(c.cache.at(to), c.cache.dtype, e, load(c.x.at(row, f.key_col()), c.x.dtype, e));
}

template <class Team>
MOESIM_BOTH void rotate_latent_row(const Team& team, const RotateLatent& c, std::int64_t row) {
  const AttentionShape& f = c.shape;
  const std::int64_t in_head = c.q.cols / f.heads;
  const std::int64_t kept_part = f.qk_dim - f.rope;
  const Tensor& first = c.absorbed.data != nullptr ? c.absorbed : c.q;
  const std::int64_t first_head = first.cols / f.heads;
  const std::int64_t half = f.rope / 2;
  for (std::int64_t i = team.lane(); i < f.heads * kept_part; i += team.lanes())
    store(c.y.at(row, i / kept_part * f.qk_dim), c.y.dtype, i % kept_part,
          load(first.at(row, i / kept_part * first_head), first.dtype, i % kept_part));
  for (std::int64_t i = team.lane(); i < f.heads * half; i += team.lanes()) {
    const std::int64_t h = i / half;
    turn_pair(f, c.turns, row, f.rope, i % half, c.q.at(row, h * in_head + in_head - f.rope), c.q.dtype,
              c.y.at(row, h * f.qk_dim + kept_part), c.y.dtype);
  }
  if (position_of(f, row) + f.kept < f.kv_len) return;
  const std::int64_t to = cache_row(f, row / f.q_len, position_of(f, row));
  const std::int64_t plain = c.latent.cols - f.rope;
  for (std::int64_t e = team.lane(); e < plain; e += team.lanes())
    store(c.cache.at(to), c.cache.dtype, e, load(c.latent.at(row), c.latent.dtype, e));
  for (std::int64_t j = team.lane(); j < half; j += team.lanes())
    turn_pair(f, c.turns, row, f.rope, j, c.latent.at(row, plain), c.latent.dtype, c.cache.at(to, plain),
              c.cache.dtype);
}

}  // namespace moesim::backend::gpu
