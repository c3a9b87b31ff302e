// The backward pass of self attention without a cache, by sequence and head:
//   S = Q K^T / sqrt(d), P = softmax(S), A = P V, O = A (or A sigmoid(G) with an output gate)
//   dV = P^T dA, dP = dA V^T, dS = P (dP - rowsum(P dP)), dQ = dS K / sqrt(d), dK = dS^T Q / sqrt(d)
// P is computed again from X; O is not needed.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/host/block.hpp"
#include "backend/host/training.hpp"

namespace moesim::backend {
namespace {

// Row i of `p` (scores) to softmax over the keys that query i sees; 0 elsewhere.
void softmax_rows(const AttentionShape& f, float scale, Eigen::Map<Matrix>& p) {
  for (std::int64_t i = 0; i < p.rows(); ++i) {
    const std::int64_t to = f.causal ? i + 1 : p.cols();
    const std::int64_t from = f.window > 0 ? std::max<std::int64_t>(0, i - f.window + 1) : 0;
    float most = -std::numeric_limits<float>::infinity();
    for (std::int64_t c = from; c < to; ++c) most = std::max(most, p(i, c));
    float sum = 0;
    for (std::int64_t c = 0; c < p.cols(); ++c) {
      p(i, c) = c < from || c >= to ? 0.0F : std::exp((p(i, c) - most) * scale);
      sum += p(i, c);
    }
    p.row(i) /= sum;
  }
}

}  // namespace

void run(const AttentionGradientCall& c, Scratch& scratch) {
  const AttentionShape& f = c.form;
  const std::int64_t n = f.q_len;
  const std::int64_t d = f.qk_dim;
  const std::int64_t dv = f.v_dim;
  const float scale = 1.0F / std::sqrt(static_cast<float>(d));
  std::size_t slots = 0;
  const auto matrix = [&](std::int64_t rows, std::int64_t cols) {
    return Eigen::Map<Matrix>(scratch.floats(slots++, rows * cols), rows, cols);
  };
  auto x = matrix(n, c.x.cols);
  auto dx = matrix(n, c.x.cols);
  auto d_o = matrix(n, c.d_o.cols);
  auto p = matrix(n, n);
  auto dp = matrix(n, n);
  auto da = matrix(n, dv);
  for (std::int64_t s = 0; s < f.sequences; ++s) {
    load(c.x, s * n, n, 0, c.x.cols, x.data());
    load(c.d_o, s * n, n, 0, c.d_o.cols, d_o.data());
    dx.setZero();
    for (std::int64_t h = 0; h < f.heads; ++h) {
      const std::int64_t g = h * f.kv_heads / f.heads;
      const auto q = x.middleCols(h * d, d);
      const auto k = x.middleCols(f.key_col() + g * d, d);
      const auto v = x.middleCols(f.value_col() + g * dv, dv);
      p.noalias() = q * k.transpose();
      softmax_rows(f, scale, p);
      da = d_o.middleCols(h * dv, dv);
      if (f.gated) {
        const auto open = (1.0F + (-x.middleCols(f.q_cols() + h * dv, dv).array()).exp()).inverse().eval();
        dx.middleCols(f.q_cols() + h * dv, dv) = (da.array() * (p * v).array() * open * (1.0F - open)).matrix();
        da.array() *= open;
      }
      dp.noalias() = da * v.transpose();
      dx.middleCols(f.value_col() + g * dv, dv).noalias() += p.transpose() * da;
      for (std::int64_t i = 0; i < n; ++i) {
        const float mean = p.row(i).dot(dp.row(i));
        dp.row(i).array() = p.row(i).array() * (dp.row(i).array() - mean) * scale;
      }
      dx.middleCols(h * d, d).noalias() = dp * k;
      dx.middleCols(f.key_col() + g * d, d).noalias() += dp.transpose() * q;
    }
    from_float(dx.data(), c.dx.dtype, n * c.x.cols, c.dx.at(s * n));
  }
}

}  // namespace moesim::backend
