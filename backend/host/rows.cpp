// Kernels that stream rows.
#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "backend/host/kernels.hpp"

namespace moesim::backend {
namespace {

using Row = Eigen::Map<Eigen::ArrayXf>;

void activate_row(Activation activation, Row x) {
  switch (activation) {
    case Activation::relu:
      x = x.max(0.0F);
      return;
    case Activation::gelu:
      for (float& v : x) v *= 0.5F * (1.0F + std::erf(v * 0.70710678F));
      return;
    case Activation::silu:
      x = x / (1.0F + (-x).exp());
      return;
  }
}

void normalize(float* row, const float* w, std::int64_t n) {
  const float inverse = 1.0F / std::sqrt(Row(row, n).square().mean() + norm_epsilon);
  for (std::int64_t i = 0; i < n; ++i) row[i] *= inverse * (w != nullptr ? w[i] : 1.0F);
}

const float* vector_of(const Tensor* w, Scratch& scratch) {
  if (w == nullptr) return nullptr;
  float* out = scratch.floats(0, w->cols);
  load(*w, 0, 1, 0, w->cols, out);
  return out;
}

}  // namespace

void apply(const RowMap& map, const Tensor& x, const Tensor& y, Scratch& scratch) {
  const std::int64_t n = y.cols;
  const auto row_bytes = static_cast<std::size_t>(n * y.element_bytes());
  const bool same = x.dtype == y.dtype;
  float* sum = scratch.floats(0, n);
  float* term = scratch.floats(1, n);
  for (std::int64_t i = 0; i < map.rows(); ++i) {
    const std::int64_t first = map.begin[static_cast<std::size_t>(i)];
    const std::int64_t last = map.begin[static_cast<std::size_t>(i) + 1];
    if (first == last) {
      std::memset(y.at(i), 0, row_bytes);
      continue;
    }
    if (last == first + 1 && map.weight.empty() && same) {
      std::memcpy(y.at(i), x.at(map.from[static_cast<std::size_t>(first)]), row_bytes);
      continue;
    }
    std::fill(sum, sum + n, 0.0F);
    for (std::int64_t t = first; t < last; ++t) {
      load(x, map.from[static_cast<std::size_t>(t)], 1, 0, n, term);
      const float w = map.weight.empty() ? 1.0F : map.weight[static_cast<std::size_t>(t)];
      for (std::int64_t c = 0; c < n; ++c) sum[c] += w * term[c];
    }
    from_float(sum, y.dtype, n, y.at(i));
  }
}

void norm(const Tensor& x, const Tensor* w, const Tensor& y, Scratch& scratch) {
  const float* weights = vector_of(w, scratch);
  float* row = scratch.floats(1, x.cols);
  for (std::int64_t i = 0; i < y.rows; ++i) {
    load(x, i, 1, 0, x.cols, row);
    normalize(row, weights, x.cols);
    from_float(row, y.dtype, y.cols, y.at(i));
  }
}

void add_norm(const Tensor& a, const Tensor& b, const Tensor* w, const Tensor& sum, const Tensor& y, Scratch& scratch) {
  const float* weights = vector_of(w, scratch);
  float* row = scratch.floats(1, y.cols);
  float* other = scratch.floats(2, y.cols);
  for (std::int64_t i = 0; i < y.rows; ++i) {
    load(a, i, 1, 0, y.cols, row);
    load(b, i, 1, 0, y.cols, other);
    for (std::int64_t c = 0; c < y.cols; ++c) row[c] += other[c];
    from_float(row, sum.dtype, y.cols, sum.at(i));
    load(sum, i, 1, 0, y.cols, row);  // what is stored is what is normalized
    normalize(row, weights, y.cols);
    from_float(row, y.dtype, y.cols, y.at(i));
  }
}

void add(std::span<const Tensor> terms, const Tensor& y, Scratch& scratch) {
  float* sum = scratch.floats(1, y.cols);
  float* other = scratch.floats(2, y.cols);
  for (std::int64_t i = 0; i < y.rows; ++i) {
    load(terms.front(), i, 1, 0, y.cols, sum);
    for (const Tensor& t : terms.subspan(1)) {
      load(t, i, 1, 0, y.cols, other);
      for (std::int64_t c = 0; c < y.cols; ++c) sum[c] += other[c];
    }
    from_float(sum, y.dtype, y.cols, y.at(i));
  }
}

void activate(Activation activation, bool gated, const Tensor& x, const Tensor& y, Scratch& scratch) {
  float* in = scratch.floats(1, x.cols);
  const std::int64_t n = y.cols;
  for (std::int64_t i = 0; i < y.rows; ++i) {
    load(x, i, 1, 0, x.cols, in);
    activate_row(activation, Row(in, n));
    if (gated) Row(in, n) *= Row(in + n, n);
    from_float(in, y.dtype, n, y.at(i));
  }
}

void cast(const Tensor& x, const Tensor& y, Scratch& scratch) {
  float* row = scratch.floats(1, x.cols);
  for (std::int64_t i = 0; i < y.rows; ++i) {
    load(x, i, 1, 0, x.cols, row);
    from_float(row, y.dtype, y.cols, y.at(i));
  }
}

void embed(std::span<const std::int64_t> ids, const Tensor& table, const Tensor& y, Scratch& scratch) {
  float* row = scratch.floats(1, y.cols);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto to = static_cast<std::int64_t>(i);
    if (ids[i] < 0) {
      std::memset(y.at(to), 0, static_cast<std::size_t>(y.cols * y.element_bytes()));
      continue;
    }
    load(table, ids[i], 1, 0, y.cols, row);
    from_float(row, y.dtype, y.cols, y.at(to));
  }
}

void every_last(std::int64_t every, const Tensor& x, const Tensor& y) {
  for (std::int64_t i = 0; i < y.rows; ++i)
    std::memcpy(y.at(i), x.at(i * every + every - 1), static_cast<std::size_t>(y.cols * y.element_bytes()));
}

void choose(std::span<const float> choice, const Tensor& scores, const Tensor& y, Scratch& scratch) {
  float* row = scratch.floats(1, scores.cols);
  for (std::int64_t i = 0; i < y.rows; ++i) {
    load(scores, i, 1, 0, scores.cols, row);
    if (!std::isfinite(Row(row, scores.cols).sum())) throw std::runtime_error("a router score is not a finite number");
    from_float(choice.data() + i * y.cols, y.dtype, y.cols, y.at(i));
  }
}

void add_up(std::span<const std::byte* const> sources, std::int64_t elements, DType dtype, std::byte* out) {
  constexpr std::int64_t chunk = 1024;
  std::array<float, chunk> sum;
  std::array<float, chunk> term;
  const std::int64_t size = bits(dtype) / 8;
  for (std::int64_t i = 0; i < elements; i += chunk) {
    const std::int64_t n = std::min(chunk, elements - i);
    std::fill_n(sum.begin(), n, 0.0F);
    for (const std::byte* source : sources) {
      to_float(source + i * size, dtype, n, term.data());
      for (std::int64_t c = 0; c < n; ++c) sum[static_cast<std::size_t>(c)] += term[static_cast<std::size_t>(c)];
    }
    from_float(sum.data(), dtype, n, out + i * size);
  }
}

}  // namespace moesim::backend
