// Attention by sequence and key/value head. docs/plan_format.md, "Attention", has the layouts.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/host/block.hpp"
#include "backend/host/kernels.hpp"

namespace moesim::backend {
namespace {

constexpr std::int64_t query_block = 64;

// Turns the pairs of one head of the token at `row`.
void turn(const AttentionForm& f, float* x, std::int64_t d, std::int64_t row) {
  const std::int64_t half = d / 2;
  const float* turns = f.turns.data() + row % f.q_len * 2 * half;
  for (std::int64_t j = 0; j < half; ++j) {
    const float c = turns[2 * j];
    const float s = turns[2 * j + 1];
    const float a = x[j];
    const float b = x[j + half];
    x[j] = a * c - b * s;
    x[j + half] = a * s + b * c;
  }
}

std::int64_t position_of(const AttentionForm& f, std::int64_t row) { return f.kv_len - f.q_len + row % f.q_len; }
std::int64_t cache_row(const AttentionForm& f, std::int64_t sequence, std::int64_t position) {
  return sequence * f.kept + position % f.kept;
}

// Keys and values of one head at positions [first, kv_len) of one sequence, as floats.
class Keys {
 public:
  Keys(const AttentionForm& f, const Tensor& x, const Tensor* expanded, const Tensor* cache, Scratch& scratch)
      : f_(f), x_(x), expanded_(expanded), cache_(cache) {
    k = scratch.floats(0, f.kv_len * f.qk_dim);
    v = scratch.floats(1, f.kv_len * f.v_dim);
  }
  void fetch(std::int64_t sequence, std::int64_t head, std::int64_t first) {
    for (std::int64_t p = first; p < f_.kv_len; ++p) {
      float* key = k + p * f_.qk_dim;
      float* value = v + p * f_.v_dim;
      const std::int64_t fresh = p - (f_.kv_len - f_.q_len);  // >= 0: among the new tokens
      const std::int64_t row = sequence * f_.q_len + fresh;
      switch (f_.kind) {
        case AttentionForm::Kind::self:
          if (fresh >= 0) {
            load(x_, row, 1, f_.key_col() + head * f_.qk_dim, f_.qk_dim, key);
            load(x_, row, 1, f_.value_col() + head * f_.v_dim, f_.v_dim, value);
            break;
          }
          [[fallthrough]];
        case AttentionForm::Kind::cross:
          load(*cache_, cache_row(f_, sequence, p), 1, head * f_.qk_dim, f_.qk_dim, key);
          load(*cache_, cache_row(f_, sequence, p), 1, f_.kv_heads * f_.qk_dim + head * f_.v_dim, f_.v_dim, value);
          break;
        case AttentionForm::Kind::latent_expanded: {
          const std::int64_t nope = f_.qk_dim - f_.rope;
          load(*expanded_, row, 1, head * (nope + f_.v_dim), nope, key);
          load(*expanded_, row, 1, head * (nope + f_.v_dim) + nope, f_.v_dim, value);
          load(*cache_, cache_row(f_, sequence, p), 1, cache_->cols - f_.rope, f_.rope, key + nope);
          break;
        }
        case AttentionForm::Kind::latent_absorbed:
          load(*cache_, cache_row(f_, sequence, p), 1, 0, f_.qk_dim, key);
          std::copy(key, key + f_.v_dim, value);
          break;
      }
    }
  }
  float* k;
  float* v;

 private:
  const AttentionForm& f_;
  const Tensor& x_;
  const Tensor* expanded_;
  const Tensor* cache_;
};

}  // namespace

void attention(const AttentionForm& f, const Tensor& x, const Tensor* expanded, const Tensor* cache, const Tensor& o,
               Scratch& scratch) {
  const float scale = 1.0F / std::sqrt(static_cast<float>(f.qk_dim));
  const std::int64_t past = f.kv_len - f.q_len;
  const auto first_seen = [&](std::int64_t position) {
    return f.window > 0 ? std::max<std::int64_t>(0, position - f.window + 1) : 0;
  };
  Keys keys(f, x, expanded, cache, scratch);
  float* q = scratch.floats(2, query_block * f.qk_dim);
  float* scores = scratch.floats(3, query_block * f.kv_len);
  float* out = scratch.floats(4, query_block * f.v_dim);
  float* gate = scratch.floats(5, f.v_dim);
  for (std::int64_t s = 0; s < f.sequences; ++s) {
    for (std::int64_t g = 0; g < f.kv_heads; ++g) {
      keys.fetch(s, g, f.causal ? first_seen(past) : 0);
      for (std::int64_t h = g * f.heads / f.kv_heads; h < (g + 1) * f.heads / f.kv_heads; ++h) {
        for (std::int64_t i = 0; i < f.q_len; i += query_block) {
          const std::int64_t n = std::min(query_block, f.q_len - i);
          const std::int64_t row = s * f.q_len + i;
          const std::int64_t lo = f.causal ? first_seen(past + i) : 0;
          const std::int64_t hi = f.causal ? past + i + n : f.kv_len;
          load(x, row, n, h * f.qk_dim, f.qk_dim, q);
          const Eigen::Map<const Matrix> queries(q, n, f.qk_dim);
          const Eigen::Map<const Matrix> k(keys.k + lo * f.qk_dim, hi - lo, f.qk_dim);
          const Eigen::Map<const Matrix> v(keys.v + lo * f.v_dim, hi - lo, f.v_dim);
          Eigen::Map<Matrix> p(scores, n, hi - lo);
          p.noalias() = queries * k.transpose();
          for (std::int64_t r = 0; r < n; ++r) {
            const std::int64_t from = f.causal ? first_seen(past + i + r) - lo : 0;
            const std::int64_t to = f.causal ? past + i + r + 1 - lo : hi - lo;
            float* score = scores + r * (hi - lo);
            float most = -std::numeric_limits<float>::infinity();
            for (std::int64_t c = from; c < to; ++c) most = std::max(most, score[c]);
            float sum = 0;
            for (std::int64_t c = 0; c < hi - lo; ++c) {
              score[c] = c < from || c >= to ? 0.0F : std::exp((score[c] - most) * scale);
              sum += score[c];
            }
            for (std::int64_t c = from; c < to; ++c) score[c] /= sum;
          }
          Eigen::Map<Matrix>(out, n, f.v_dim).noalias() = p * v;
          for (std::int64_t r = 0; r < n; ++r) {
            float* result = out + r * f.v_dim;
            if (f.gated) {
              load(x, row + r, 1, f.q_cols() + h * f.v_dim, f.v_dim, gate);
              for (std::int64_t c = 0; c < f.v_dim; ++c) result[c] /= 1.0F + std::exp(-gate[c]);
            }
            from_float(result, o.dtype, f.v_dim, o.at(row + r, h * f.v_dim));
          }
        }
      }
    }
  }
}

void rotate(const AttentionForm& f, const Tensor& x, const Tensor& y, Scratch& scratch) {
  float* row = scratch.floats(0, x.cols);
  for (std::int64_t i = 0; i < x.rows; ++i) {
    load(x, i, 1, 0, x.cols, row);
    for (std::int64_t h = 0; h < f.heads; ++h) turn(f, row + h * f.qk_dim, f.qk_dim, i);
    for (std::int64_t h = 0; h < f.kv_heads; ++h) turn(f, row + f.key_col() + h * f.qk_dim, f.qk_dim, i);
    from_float(row, y.dtype, y.cols, y.at(i));
  }
}

void rotate_latent(const AttentionForm& f, const Tensor* absorbed, const Tensor& q, const Tensor& latent,
                   const Tensor& y, const Tensor& cache, Scratch& scratch) {
  const std::int64_t in_head = q.cols / f.heads;
  const std::int64_t kept_part = f.qk_dim - f.rope;  // of y's head: nope, or the absorbed query
  float* head = scratch.floats(0, f.qk_dim);
  float* row = scratch.floats(1, latent.cols);
  for (std::int64_t i = 0; i < y.rows; ++i) {
    for (std::int64_t h = 0; h < f.heads; ++h) {
      const Tensor& first = absorbed != nullptr ? *absorbed : q;
      load(first, i, 1, h * (first.cols / f.heads), kept_part, head);
      load(q, i, 1, h * in_head + in_head - f.rope, f.rope, head + kept_part);
      turn(f, head + kept_part, f.rope, i);
      from_float(head, y.dtype, f.qk_dim, y.at(i, h * f.qk_dim));
    }
    load(latent, i, 1, 0, latent.cols, row);
    turn(f, row + latent.cols - f.rope, f.rope, i);
    from_float(row, cache.dtype, cache.cols, cache.at(cache_row(f, i / f.q_len, position_of(f, i))));
  }
}

void store_keys(const AttentionForm& f, const Tensor& x, const Tensor& cache, Scratch& scratch) {
  float* row = scratch.floats(0, cache.cols);
  for (std::int64_t i = 0; i < x.rows; ++i) {
    load(x, i, 1, f.key_col(), cache.cols, row);
    from_float(row, cache.dtype, cache.cols, cache.at(cache_row(f, i / f.q_len, position_of(f, i))));
  }
}

}  // namespace moesim::backend
