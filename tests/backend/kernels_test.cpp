// The host's kernels against their definitions, written as loops.
#include "backend/host/kernels.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>

using namespace moesim;
using namespace moesim::backend;

namespace {

// A tensor with its memory.
class Box {
 public:
  Box(std::int64_t rows, std::int64_t cols, DType dtype)
      : bytes_(static_cast<std::size_t>(rows * cols * bits(dtype) / 8)) {
    tensor_ = {bytes_.data(), dtype, rows, cols};
  }
  Box& random(std::mt19937& g) {
    std::normal_distribution<float> d;
    for (std::int64_t i = 0; i < tensor_.rows * tensor_.cols; ++i) set(i, d(g));
    return *this;
  }
  void set(std::int64_t i, float v) { from_float(&v, tensor_.dtype, 1, tensor_.data + i * tensor_.element_bytes()); }
  [[nodiscard]] double at(std::int64_t r, std::int64_t c) const {
    float v = 0;
    to_float(tensor_.at(r, c), tensor_.dtype, 1, &v);
    return static_cast<double>(v);
  }
  operator const Tensor&() const { return tensor_; }
  [[nodiscard]] const Tensor& tensor() const { return tensor_; }

 private:
  std::vector<std::byte> bytes_;
  Tensor tensor_;
};

double tolerance(DType t) { return t == DType::f32 ? 1e-5 : t == DType::bf16 ? 2 * 0x1p-8 : 2 * 0x1p-11; }

}  // namespace

TEST_CASE("bfloat16 rounds to nearest even and keeps what is special") {
  const auto round = [](float f) {
    std::byte b[2];
    float back = 0;
    from_float(&f, DType::bf16, 1, b);
    to_float(b, DType::bf16, 1, &back);
    return back;
  };
  CHECK(round(1.0F) == 1.0F);
  CHECK(round(1.0F + 0x1p-8F) == 1.0F);                // halfway, down to even
  CHECK(round(1.0F + 3 * 0x1p-8F) == 1.0F + 0x1p-6F);  // halfway, up to even
  CHECK(round(1.0F + 0x1.02p-8F) == 1.0F + 0x1p-7F);
  CHECK(round(-3.0e38F) == doctest::Approx(-3.0e38F).epsilon(0.005));
  CHECK(std::isinf(round(3.4e38F)));
  CHECK(std::isnan(round(std::nanf(""))));
  CHECK(std::signbit(round(-0.0F)));
}

TEST_CASE("products: batches, wide inputs, transposed tables, padding to blocks") {
  std::mt19937 g(1);
  Scratch scratch;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (const std::int64_t m : {0, 1, 3, 300})
      for (const std::int64_t batch : {1, 3}) {
        const std::int64_t n = 5;
        const std::int64_t k = 7;
        const std::int64_t wide = k + 2;  // X has two columns more in each part
        Box x(m, batch * wide, dtype);
        Box w(batch * k, n, dtype);
        Box y(m, batch * n, dtype);
        x.random(g);
        w.random(g);
        gemm({Rows{m, {}}, batch, n, k, dtype, dtype, dtype, Math::f32}, x, w, y, false, scratch);
        double worst = 0;
        for (std::int64_t i = 0; i < m; ++i)
          for (std::int64_t b = 0; b < batch; ++b)
            for (std::int64_t j = 0; j < n; ++j) {
              double sum = 0;
              for (std::int64_t l = 0; l < k; ++l) sum += x.at(i, b * wide + l) * w.at(b * k + l, j);
              worst = std::max(worst, std::abs(y.at(i, b * n + j) - sum) / (1 + std::abs(sum)));
            }
        CHECK(worst <= tolerance(dtype));
      }
  Box x(4, 6, DType::f32);
  Box table(5, 6, DType::f32);
  Box y(4, 5, DType::f32);
  x.random(g);
  table.random(g);
  gemm({Rows{4, {}}, 1, 5, 6, DType::f32, DType::f32, DType::f32, Math::f32}, x, table, y, true, scratch);
  double sum = 0;
  for (std::int64_t l = 0; l < 6; ++l) sum += x.at(2, l) * table.at(3, l);
  CHECK(y.at(2, 3) == doctest::Approx(sum).epsilon(1e-5));
}

TEST_CASE("grouped products use matrix g mod matrices, block-sparse or not") {
  std::mt19937 g(2);
  Scratch scratch;
  const std::vector<std::int32_t> rows{2, 0, 130, 1};  // two matrices, twice
  const std::int64_t n = 6;
  const std::int64_t k = 5;
  for (const bool sparse : {false, true})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      Box x(133, k, dtype);
      Box w(2 * k, n, dtype);
      Box y(133, n, dtype);
      x.random(g);
      w.random(g);
      GroupedGemm work;
      work.matrices = 2;
      work.n = n;
      work.k = k;
      work.block_sparse = sparse;
      grouped_gemm(work, rows, x, w, y, scratch);
      std::int64_t row = 0;
      double worst = 0;
      for (std::size_t group = 0; group < rows.size(); ++group)
        for (std::int32_t i = 0; i < rows[group]; ++i, ++row)
          for (std::int64_t j = 0; j < n; ++j) {
            double sum = 0;
            for (std::int64_t l = 0; l < k; ++l)
              sum += x.at(row, l) * w.at(static_cast<std::int64_t>(group % 2) * k + l, j);
            worst = std::max(worst, std::abs(y.at(row, j) - sum) / (1 + std::abs(sum)));
          }
      CHECK(worst <= tolerance(dtype));
    }
}

TEST_CASE("rows: norm, sums, activations") {
  Scratch scratch;
  Box x(1, 4, DType::f32);
  Box w(1, 4, DType::f32);
  Box y(1, 4, DType::f32);
  for (std::int64_t i = 0; i < 4; ++i) {
    x.set(i, i == 0 ? 2.0F : i == 1 ? -2.0F : i == 2 ? 4.0F : 0.0F);  // mean square 6
    w.set(i, static_cast<float>(i + 1));
  }
  norm(x, &w.tensor(), y, scratch);
  for (std::int64_t i = 0; i < 4; ++i)
    CHECK(y.at(0, i) == doctest::Approx(x.at(0, i) / std::sqrt(6.0) * static_cast<double>(i + 1)).epsilon(1e-5));
  Box sum(1, 4, DType::f32);
  Box normed(1, 4, DType::f32);
  add_norm(x, w, nullptr, sum, normed, scratch);
  CHECK(sum.at(0, 2) == 7.0);
  CHECK(normed.at(0, 2) == doctest::Approx(7 / std::sqrt((9.0 + 0 + 49 + 16) / 4)).epsilon(1e-5));
  const std::vector<Tensor> terms{x, w, w};
  add(terms, y, scratch);
  CHECK(y.at(0, 3) == 8.0);
  Box half(1, 2, DType::f32);
  activate(Activation::relu, true, x, half, scratch);  // relu(2, -2) * (4, 0)
  CHECK(half.at(0, 0) == 8.0);
  CHECK(half.at(0, 1) == 0.0);
  activate(Activation::silu, false, x, y, scratch);
  CHECK(y.at(0, 1) == doctest::Approx(-2 / (1 + std::exp(2.0))).epsilon(1e-5));
  activate(Activation::gelu, false, x, y, scratch);
  CHECK(y.at(0, 0) == doctest::Approx(2 * 0.97724987).epsilon(1e-5));  // 2 Phi(2)
  Box scores(1, 4, DType::f32);
  scores.set(2, std::nanf(""));
  CHECK_THROWS(choose(std::vector<float>(4), scores, y, scratch));
}

TEST_CASE("a sum of sources is rounded once") {
  // 1 + 2^-9 + 2^-9 = 1 + 2^-8: halfway, to even 1. Rounded after each step it would be 1 as well; with a third 2^-9
  // the sum 1 + 1.5 * 2^-8 rounds up, and step by step it stays 1.
  Box a(1, 1, DType::bf16);
  Box b(1, 1, DType::bf16);
  Box out(1, 1, DType::bf16);
  a.set(0, 1.0F);
  b.set(0, 0x1p-9F);
  const std::vector<const std::byte*> sources{a.tensor().data, b.tensor().data, b.tensor().data, b.tensor().data};
  add_up(sources, 1, DType::bf16, out.tensor().data);
  CHECK(out.at(0, 0) == 1.0 + 0x1p-7);
}

namespace {

// Softmax attention of one query over keys [from, to), in double.
std::vector<double> softmax_attention(const std::vector<double>& q, const std::vector<std::vector<double>>& keys,
                                      const std::vector<std::vector<double>>& values, std::size_t from,
                                      std::size_t to) {
  std::vector<double> p;
  double most = -1e300;
  for (std::size_t j = from; j < to; ++j) {
    double s = 0;
    for (std::size_t c = 0; c < q.size(); ++c) s += q[c] * keys[j][c];
    p.push_back(s / std::sqrt(static_cast<double>(q.size())));
    most = std::max(most, p.back());
  }
  double sum = 0;
  for (double& v : p) sum += v = std::exp(v - most);
  std::vector<double> out(values.front().size());
  for (std::size_t j = from; j < to; ++j)
    for (std::size_t c = 0; c < out.size(); ++c) out[c] += p[j - from] / sum * values[j][c];
  return out;
}

std::vector<double> part(const Box& b, std::int64_t row, std::int64_t col, std::int64_t n) {
  std::vector<double> out;
  for (std::int64_t c = 0; c < n; ++c) out.push_back(b.at(row, col + c));
  return out;
}

}  // namespace

TEST_CASE("self attention: causal or not, shared key heads, windows, cached prefix, output gate") {
  std::mt19937 g(5);
  Scratch scratch;
  for (const std::int64_t q_len : {1, 5, 130})
    for (const std::int64_t past : {0, 9})
      for (const std::int64_t window : {0, 4})
        for (const bool gated : {false, true})
          for (const bool causal : {true, false}) {
            if (window > 0 && (!causal || (past > 0 && q_len > 1))) continue;
            if (!causal && past > 0) continue;
            AttentionForm f;
            f.sequences = 2;
            f.q_len = q_len;
            f.kv_len = q_len + past;
            f.heads = 4;
            f.kv_heads = 2;
            f.qk_dim = 6;
            f.v_dim = gated ? 6 : 3;
            f.window = window;
            f.causal = causal;
            f.gated = gated;
            f.kept = past == 0 ? 0 : window > 0 ? window : f.kv_len;
            Box x(2 * q_len, f.value_col() + f.kv_heads * f.v_dim, DType::f32);
            Box cache(2 * f.kept, f.kv_heads * (f.qk_dim + f.v_dim), DType::f32);
            Box o(2 * q_len, f.heads * f.v_dim, DType::f32);
            x.random(g);
            cache.random(g);
            attention(f, x, nullptr, past > 0 ? &cache.tensor() : nullptr, o, scratch);
            double worst = 0;
            for (std::int64_t s = 0; s < 2; ++s)
              for (std::int64_t h = 0; h < f.heads; ++h) {
                const std::int64_t kv = h / 2;
                std::vector<std::vector<double>> keys;
                std::vector<std::vector<double>> values;
                for (std::int64_t p = 0; p < f.kv_len; ++p) {
                  const std::int64_t row = s * q_len + p - past;
                  const std::int64_t ring = f.kept > 0 ? s * f.kept + p % f.kept : 0;
                  keys.push_back(p >= past ? part(x, row, f.key_col() + kv * 6, 6) : part(cache, ring, kv * 6, 6));
                  values.push_back(p >= past ? part(x, row, f.value_col() + kv * f.v_dim, f.v_dim)
                                             : part(cache, ring, 12 + kv * f.v_dim, f.v_dim));
                }
                for (std::int64_t i = 0; i < q_len; ++i) {
                  const std::int64_t position = past + i;
                  const std::int64_t to = causal ? position + 1 : f.kv_len;
                  const std::int64_t from = window > 0 ? std::max<std::int64_t>(0, to - window) : 0;
                  std::vector<double> expected =
                      softmax_attention(part(x, s * q_len + i, h * 6, 6), keys, values, static_cast<std::size_t>(from),
                                        static_cast<std::size_t>(to));
                  for (std::int64_t c = 0; c < f.v_dim; ++c) {
                    double e = expected[static_cast<std::size_t>(c)];
                    if (gated) e /= 1 + std::exp(-x.at(s * q_len + i, f.q_cols() + h * 6 + c));
                    worst = std::max(worst, std::abs(e - o.at(s * q_len + i, h * f.v_dim + c)));
                  }
                }
              }
            CHECK(worst < 2e-5);
          }
}

// Scores of rotated queries and keys depend on the distance of their positions only.
TEST_CASE("rotary positions are relative") {
  Scratch scratch;
  std::mt19937 g(6);
  AttentionForm f;
  f.sequences = 1;
  f.q_len = 12;
  f.kv_len = 20;
  f.heads = 1;
  f.kv_heads = 1;
  f.qk_dim = 8;
  f.v_dim = 4;
  turn_pairs(f, 8);
  Box x(12, 8 + 8 + 4, DType::f32);
  Box y(12, 20, DType::f32);
  std::normal_distribution<float> d;
  std::vector<float> row(20);
  for (float& v : row) v = d(g);
  for (std::int64_t i = 0; i < 12 * 20; ++i)
    x.set(i, row[static_cast<std::size_t>(i % 20)]);  // the same token everywhere
  rotate(f, x, y, scratch);
  const auto score = [&](std::int64_t i, std::int64_t j) {
    double s = 0;
    for (std::int64_t c = 0; c < 8; ++c) s += y.at(i, c) * y.at(j, 8 + c);
    return s;
  };
  for (std::int64_t distance = 0; distance < 5; ++distance)
    for (std::int64_t i = 5; i < 12; ++i)
      CHECK(score(i, i - distance) == doctest::Approx(score(5, 5 - distance)).epsilon(1e-4));
  CHECK(score(5, 5) != doctest::Approx(score(5, 3)).epsilon(1e-3));
  double same = 0;  // a rotation keeps the length, and position 8 is not 0: something turned
  for (std::int64_t c = 0; c < 8; ++c) same += x.at(0, c) * x.at(0, 8 + c);
  CHECK(score(0, 0) == doctest::Approx(same).epsilon(1e-4));
  CHECK(y.at(0, 0) != doctest::Approx(x.at(0, 0)).epsilon(1e-3));
  for (std::int64_t c = 16; c < 20; ++c) CHECK(y.at(7, c) == x.at(7, c));  // values do not turn
}

// DeepSeek-V2, section 2.1.2: with W_UK absorbed into the query and W_UV into the output, attention over the latent is
// attention over the expanded keys and values.
TEST_CASE("latent attention: expanded and absorbed agree") {
  std::mt19937 g(7);
  Scratch scratch;
  const std::int64_t heads = 3;
  const std::int64_t nope = 4;
  const std::int64_t rope = 2;
  const std::int64_t v = 5;
  const std::int64_t lora = 6;
  const std::int64_t kv_len = 7;
  Box up(lora, heads * (nope + v), DType::f32);  // latent -> by head [key's nope part, value]
  Box latent(kv_len, lora + rope, DType::f32);
  Box q(kv_len, heads * (nope + rope), DType::f32);
  up.random(g);
  latent.random(g);
  q.random(g);

  AttentionForm e;
  e.kind = AttentionForm::Kind::latent_expanded;
  e.sequences = 1;
  e.q_len = e.kv_len = e.kept = kv_len;
  e.heads = e.kv_heads = heads;
  e.qk_dim = nope + rope;
  e.v_dim = v;
  e.rope = rope;
  turn_pairs(e, rope);
  Box turned(kv_len, heads * (nope + rope), DType::f32);
  Box cache(kv_len, lora + rope, DType::f32);
  rotate_latent(e, nullptr, q, latent, turned, cache, scratch);
  Box expanded(kv_len, heads * (nope + v), DType::f32);
  gemm({Rows{kv_len, {}}, 1, heads * (nope + v), lora, DType::f32, DType::f32, DType::f32, Math::f32}, latent, up,
       expanded, false, scratch);
  Box o(kv_len, heads * v, DType::f32);
  attention(e, turned, &expanded.tensor(), &cache.tensor(), o, scratch);

  // The last token as a decode step on the others. The absorbed core divides by sqrt(lora + rope) where the expanded
  // one divides by sqrt(nope + rope): the queries make up for it.
  AttentionForm a = e;
  a.kind = AttentionForm::Kind::latent_absorbed;
  a.q_len = 1;
  a.kv_heads = 1;
  a.qk_dim = lora + rope;
  a.v_dim = lora;
  turn_pairs(a, rope);
  const double rescale = std::sqrt(static_cast<double>(lora + rope) / static_cast<double>(nope + rope));
  Box q1(1, heads * (nope + rope), DType::f32);
  Box absorbed(1, heads * lora, DType::f32);
  Box latent1(1, lora + rope, DType::f32);
  for (std::int64_t c = 0; c < heads * (nope + rope); ++c) q1.set(c, static_cast<float>(q.at(kv_len - 1, c) * rescale));
  for (std::int64_t c = 0; c < lora + rope; ++c) latent1.set(c, static_cast<float>(latent.at(kv_len - 1, c)));
  for (std::int64_t h = 0; h < heads; ++h)
    for (std::int64_t l = 0; l < lora; ++l) {
      double sum = 0;
      for (std::int64_t c = 0; c < nope; ++c) sum += q1.at(0, h * (nope + rope) + c) * up.at(l, h * (nope + v) + c);
      absorbed.set(h * lora + l, static_cast<float>(sum));
    }
  Box joined(1, heads * (lora + rope), DType::f32);
  rotate_latent(a, &absorbed.tensor(), q1, latent1, joined, cache, scratch);
  Box out(1, heads * lora, DType::f32);
  attention(a, joined, nullptr, &cache.tensor(), out, scratch);
  for (std::int64_t h = 0; h < heads; ++h)
    for (std::int64_t c = 0; c < v; ++c) {
      double sum = 0;
      for (std::int64_t l = 0; l < lora; ++l) sum += out.at(0, h * lora + l) * up.at(l, h * (nope + v) + nope + c);
      CHECK(sum == doctest::Approx(o.at(kv_len - 1, h * v + c)).epsilon(1e-4));
    }
}
