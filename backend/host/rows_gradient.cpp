// Backward kernels that stream rows, the loss, the gate of a training step and Adam.
#include <Eigen/Core>
#include <algorithm>
#include <cmath>

#include "backend/host/kernels.hpp"
#include "backend/host/training.hpp"

namespace moesim::backend {
namespace {

using Row = Eigen::Map<Eigen::ArrayXf>;

float value(Activation activation, float x) {
  switch (activation) {
    case Activation::relu:
      return std::max(x, 0.0F);
    case Activation::gelu:
      return x * 0.5F * (1.0F + std::erf(x * 0.70710678F));
    case Activation::silu:
      return x / (1.0F + std::exp(-x));
  }
  return 0;
}

float slope(Activation activation, float x) {
  switch (activation) {
    case Activation::relu:
      return x > 0 ? 1.0F : 0.0F;
    case Activation::gelu:  // Phi(x) + x phi(x)
      return 0.5F * (1.0F + std::erf(x * 0.70710678F)) + x * 0.39894228F * std::exp(-0.5F * x * x);
    case Activation::silu: {
      const float s = 1.0F / (1.0F + std::exp(-x));
      return s * (1.0F + x * (1.0F - s));
    }
  }
  return 0;
}

// softmax of a row in place; returns log of the sum of exponentials.
float softmax(Row row) {
  const float most = row.maxCoeff();
  row = (row - most).exp();
  const float sum = row.sum();
  row /= sum;
  return most + std::log(sum);
}

float read_f32(const Tensor& t, std::int64_t row, std::int64_t col) {
  float v = 0;
  load(t, row, 1, col, 1, &v);
  return v;
}

}  // namespace

// r = 1 / rms(x), g = dy w: dx = r (g - x r^2 mean(g x)) + dr, dw = sum over rows of dy x r.
void run(const NormGradientCall& c, Scratch& scratch) {
  const std::int64_t n = c.x.cols;
  float* w = scratch.floats(0, n);
  float* sum = scratch.floats(1, n);
  Row x(scratch.floats(2, n), n);
  Row g(scratch.floats(3, n), n);
  Row residual(scratch.floats(4, n), n);
  to_float(c.w.data, c.w.dtype, n, w);
  std::fill_n(sum, n, 0.0F);
  for (std::int64_t i = 0; i < c.x.rows; ++i) {
    load(c.x, i, 1, 0, n, x.data());
    load(c.dy, i, 1, 0, n, g.data());
    const float r = 1.0F / std::sqrt(x.square().mean() + norm_epsilon);
    Row(sum, n) += g * x * r;
    g *= Row(w, n);
    g = r * (g - x * (r * r * (g * x).mean()));
    if (c.dr) {
      load(*c.dr, i, 1, 0, n, residual.data());
      g += residual;
    }
    from_float(g.data(), c.dx.dtype, n, c.dx.at(i));
  }
  from_float(sum, c.dw.dtype, n, c.dw.data);
}

void run(const ActivationGradientCall& c, Scratch& scratch) {
  const std::int64_t n = c.dy.cols;
  float* x = scratch.floats(0, c.x.cols);
  float* dy = scratch.floats(1, n);
  for (std::int64_t i = 0; i < c.x.rows; ++i) {
    load(c.x, i, 1, 0, c.x.cols, x);
    load(c.dy, i, 1, 0, n, dy);
    for (std::int64_t j = 0; j < n; ++j) {
      const float a = x[j];
      x[j] = dy[j] * slope(c.activation, a) * (c.gated ? x[n + j] : 1.0F);
      if (c.gated) x[n + j] = dy[j] * value(c.activation, a);
    }
    from_float(x, c.dx.dtype, c.x.cols, c.dx.at(i));
  }
}

void run(const EmbeddingGradientCall& c, Scratch& scratch) {
  const std::int64_t n = c.dtable.cols;
  const std::int64_t size = c.dtable.rows * n;
  float* sum = scratch.floats(0, size);
  float* row = scratch.floats(1, n);
  std::fill_n(sum, size, 0.0F);
  for (std::size_t i = 0; i < c.ids.size(); ++i) {
    if (c.ids[i] < 0) continue;
    load(c.dy, static_cast<std::int64_t>(i), 1, 0, n, row);
    Row(sum + c.ids[i] * n, n) += Row(row, n);
  }
  from_float(sum, c.dtable.dtype, size, c.dtable.data);
}

// -log softmax(logits)[target].
void run(const LossCall& c, Scratch& scratch) {
  const std::int64_t n = c.logits.cols;
  Row row(scratch.floats(0, n), n);
  for (std::int64_t i = 0; i < c.logits.rows; ++i) {
    load(c.logits, i, 1, 0, n, row.data());
    const float target = row[c.targets[static_cast<std::size_t>(i)]];
    const float loss = softmax(row) - target;
    from_float(&loss, c.loss.dtype, 1, c.loss.at(i));
  }
}

// (softmax(logits) - [target]) / tokens.
void run(const LossGradientCall& c, Scratch& scratch) {
  const std::int64_t n = c.logits.cols;
  Row row(scratch.floats(0, n), n);
  for (std::int64_t i = 0; i < c.logits.rows; ++i) {
    load(c.logits, i, 1, 0, n, row.data());
    softmax(row);
    row[c.targets[static_cast<std::size_t>(i)]] -= 1.0F;
    row /= static_cast<float>(c.tokens);
    from_float(row.data(), c.dlogits.dtype, n, c.dlogits.at(i));
  }
}

void run(const GateCall& c, Scratch& scratch) {
  const std::int64_t k = c.choice.cols / 2;
  Row p(scratch.floats(0, c.scores.cols), c.scores.cols);
  float* out = scratch.floats(1, 2 * k);
  for (std::int64_t i = 0; i < c.scores.rows; ++i) {
    load(c.scores, i, 1, 0, c.scores.cols, p.data());
    softmax(p);
    for (std::int64_t j = 0; j < k; ++j) {
      const ExpertIndex e = c.experts[static_cast<std::size_t>(i * k + j)];
      out[j] = static_cast<float>(e);
      out[k + j] = p[e];
    }
    from_float(out, c.choice.dtype, 2 * k, c.choice.at(i));
  }
}

// dscores_e = p_e (dgate_e - sum over the chosen of dgate p), with dgate 0 where e was not chosen.
void run(const GateGradientCall& c, Scratch& scratch) {
  const std::int64_t k = c.dchoice.cols / 2;
  Row p(scratch.floats(0, c.scores.cols), c.scores.cols);
  Row d(scratch.floats(1, c.scores.cols), c.scores.cols);
  for (std::int64_t i = 0; i < c.scores.rows; ++i) {
    load(c.scores, i, 1, 0, c.scores.cols, p.data());
    softmax(p);
    d.setZero();
    for (std::int64_t j = 0; j < k; ++j)
      d[c.experts[static_cast<std::size_t>(i * k + j)]] += read_f32(c.dchoice, i, k + j);
    d = p * (d - (d * p).sum());
    from_float(d.data(), c.dscores.dtype, c.scores.cols, c.dscores.at(i));
  }
}

namespace {

float gate_at(const Tensor& choice, std::int32_t element) {
  return read_f32(choice, element / choice.cols, element % choice.cols);
}

}  // namespace

void run(const CombineCall& c, Scratch& scratch) {
  const std::int64_t n = c.y.cols;
  Row sum(scratch.floats(0, n), n);
  Row term(scratch.floats(1, n), n);
  for (std::int64_t i = 0; i < c.map.rows(); ++i) {
    sum.setZero();
    for (auto t = static_cast<std::size_t>(c.map.begin[static_cast<std::size_t>(i)]);
         t < static_cast<std::size_t>(c.map.begin[static_cast<std::size_t>(i) + 1]); ++t) {
      load(c.x, c.map.from[t], 1, 0, n, term.data());
      sum += gate_at(c.choice, c.map.gate[t]) * term;
    }
    from_float(sum.data(), c.y.dtype, n, c.y.at(i));
  }
}

// A copy's gradient is its token's times its gate, a gate's the product of its copy and its token's gradient.
void run(const CombineGradientCall& c, Scratch& scratch) {
  const std::int64_t n = c.dy.cols;
  Row dy(scratch.floats(0, n), n);
  Row copy(scratch.floats(1, n), n);
  std::fill_n(c.dchoice.data, c.dchoice.bytes(), std::byte{0});  // dropped copies, ids
  for (std::int64_t i = 0; i < c.map.rows(); ++i) {
    const auto t = static_cast<std::size_t>(c.map.begin[static_cast<std::size_t>(i)]);
    if (static_cast<std::size_t>(c.map.begin[static_cast<std::size_t>(i) + 1]) == t) {  // padding
      std::fill_n(c.dcopies.at(i), n * c.dcopies.element_bytes(), std::byte{0});
      continue;
    }
    const std::int32_t element = c.map.gate[t];
    load(c.dy, c.map.from[t], 1, 0, n, dy.data());
    load(c.copies, i, 1, 0, n, copy.data());
    const float product = (dy * copy).sum();
    from_float(&product, c.dchoice.dtype, 1, c.dchoice.at(element / c.dchoice.cols, element % c.dchoice.cols));
    dy *= gate_at(c.choice, element);
    from_float(dy.data(), c.dcopies.dtype, n, c.dcopies.at(i));
  }
}

void run(const AdamCall& c, Scratch& scratch) {
  const float unbias1 = 1.0F / (1.0F - std::pow(AdamCall::beta1, static_cast<float>(c.step)));
  const float unbias2 = 1.0F / (1.0F - std::pow(AdamCall::beta2, static_cast<float>(c.step)));
  for (const AdamCall::Parameter& p : c.parameters) {
    const std::int64_t n = p.weight.cols;
    const bool master = p.weight.dtype != DType::f32;
    Row g(scratch.floats(0, n), n);
    Row w(scratch.floats(1, n), n);
    Row state(scratch.floats(2, p.state.cols), p.state.cols);
    for (std::int64_t i = 0; i < p.weight.rows; ++i) {
      load(p.gradient, i, 1, 0, n, g.data());
      load(p.state, i, 1, 0, p.state.cols, state.data());
      if (!master) load(p.weight, i, 1, 0, n, w.data());
      auto weight = master ? Row(state.data(), n) : Row(w.data(), n);
      Row m(state.data() + (master ? n : 0), n);
      Row v(m.data() + n, n);
      m = AdamCall::beta1 * m + (1.0F - AdamCall::beta1) * g;
      v = AdamCall::beta2 * v + (1.0F - AdamCall::beta2) * g.square();
      weight -= AdamCall::rate * (m * unbias1) / ((v * unbias2).sqrt() + AdamCall::epsilon);
      from_float(weight.data(), p.weight.dtype, n, p.weight.at(i));
      from_float(state.data(), p.state.dtype, p.state.cols, p.state.at(i));
    }
  }
}

}  // namespace moesim::backend
