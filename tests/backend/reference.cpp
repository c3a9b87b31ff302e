#include "tests/backend/reference.hpp"

#include <algorithm>
#include <cmath>

#include "backend/numbers.hpp"

namespace moesim::test {

double activation(Activation a, double x) {
  switch (a) {
    case Activation::relu:
      return x > 0 ? x : 0;
    case Activation::gelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::silu:
      return x / (1 + std::exp(-x));
  }
  return x;
}

namespace {

// A logical weight as it is stored.
double stored(const backend::LogicalMatrix& m, std::int64_t row, std::int64_t col, DType dtype) {
  const float v = m.at(row, col);
  std::byte bytes[4];
  float back = 0;
  backend::from_float(&v, dtype, 1, bytes);
  backend::to_float(bytes, dtype, 1, &back);
  return back;
}

// adds scale * ffn(x) to y, and its magnitude.
void add_block(const FeedForward& block, std::int64_t h, const std::string& name, std::int64_t matrix,
               std::uint64_t seed, DType dtype, const double* x, double scale, double* y, double* magnitude) {
  const std::int64_t f = block.intermediate;
  const backend::LogicalMatrix up(seed, name + ".up.weight", matrix, h);
  const backend::LogicalMatrix down(seed, name + ".down.weight", matrix, f);
  for (std::int64_t j = 0; j < f; ++j) {
    double a = 0;
    double b = 0;
    for (std::int64_t i = 0; i < h; ++i) {
      a += x[i] * stored(up, i, j, dtype);
      if (block.gated) b += x[i] * stored(up, i, f + j, dtype);
    }
    a = activation(block.activation, a) * (block.gated ? b : 1);
    for (std::int64_t c = 0; c < h; ++c) {
      const double term = scale * a * stored(down, j, c, dtype);
      y[c] += term;
      magnitude[c] += std::abs(term);
    }
  }
}

}  // namespace

std::vector<double> global_rows(const Plan& plan, const backend::Programs& programs, BufferId buffer) {
  std::vector<double> out;
  for (std::size_t owner = 0; owner < plan.tokens.owners(); ++owner) {
    const auto r = std::find(plan.owner_of_rank.begin(), plan.owner_of_rank.end(), static_cast<int>(owner));
    const std::vector<float> v =
        backend::values(*programs[static_cast<std::size_t>(r - plan.owner_of_rank.begin())], buffer);
    out.insert(out.end(), v.begin(), v.end());
  }
  return out;
}

std::vector<bool> dropped(const Plan& plan, const Routing& routing, int moe_layer) {
  const auto k = static_cast<std::size_t>(routing.top_k());
  std::vector<bool> out(static_cast<std::size_t>(plan.tokens.total()) * k);
  std::int64_t capacity = 0;
  std::int64_t shares = 1;
  for (const Op& op : plan.ops)
    if (const auto* p = std::get_if<Permute>(&op.work); p != nullptr && p->moe_layer == moe_layer)
      std::tie(capacity, shares) = std::pair(p->capacity, p->shares);
  if (capacity == 0) return out;
  std::vector<ExpertIndex> chosen(out.size());
  routing.assign(moe_layer, 0, chosen);
  for (std::size_t owner = 0; owner < plan.tokens.owners(); ++owner) {
    std::vector<std::int64_t> sent;
    const std::int64_t tokens = plan.tokens.count(owner);
    std::int64_t share = -1;
    for (std::int64_t i = 0; i < tokens; ++i) {
      for (; share + 1 < shares && i >= tokens * (share + 1) / shares; ++share)  // the next rank's share begins
        sent.assign(static_cast<std::size_t>(routing.experts()), 0);
      const auto t = static_cast<std::size_t>(plan.tokens.begin[owner] + i);
      for (std::size_t c = t * k; c < (t + 1) * k; ++c) out[c] = ++sent[chosen[c]] > capacity;
    }
  }
  return out;
}

LayerValues dense_moe(const Model& model, const MoeBlock& block, const backend::Inputs& inputs, int moe_layer,
                      const std::string& prefix, const std::vector<double>& x, const std::vector<bool>& drop) {
  const std::int64_t h = model.hidden;
  const auto k = static_cast<std::size_t>(block.top_k);
  LayerValues out{h, std::vector<double>(x.size()), std::vector<double>(x.size())};
  const std::size_t tokens = x.size() / static_cast<std::size_t>(h);
  std::vector<ExpertIndex> chosen(tokens * k);
  if (tokens > 0) inputs.routing.assign(moe_layer, 0, chosen);
  std::vector<float> gates(k);
  for (std::size_t t = 0; t < tokens; ++t) {
    const std::size_t at = t * static_cast<std::size_t>(h);
    backend::gate_weights(inputs.seed, moe_layer, static_cast<std::int64_t>(t), gates);
    for (std::size_t i = 0; i < k; ++i)
      if (!drop[t * k + i])
        add_block(block.expert, h, prefix, chosen[t * k + i], inputs.seed, model.expert_weights, &x[at],
                  static_cast<double>(gates[i]), &out.y[at], &out.magnitude[at]);
    if (block.shared.intermediate > 0)
      add_block(block.shared, h, prefix + ".shared", 0, inputs.seed, model.weights, &x[at], 1.0, &out.y[at],
                &out.magnitude[at]);
  }
  return out;
}

Error error_of(const LayerValues& expected, const std::vector<double>& got) {
  Error e;
  if (got.size() != expected.y.size()) return {1e300, 1e300};
  double squares = 0;
  double of_errors = 0;
  const auto cols = static_cast<std::size_t>(expected.cols);
  for (std::size_t row = 0; row < got.size(); row += cols) {
    double largest = 1e-30;
    for (std::size_t i = row; i < row + cols; ++i) largest = std::max(largest, std::abs(expected.y[i]));
    for (std::size_t i = row; i < row + cols; ++i) {
      const double d = std::abs(got[i] - expected.y[i]);
      e.worst = std::max(e.worst, std::isfinite(d) ? d / largest : 1e300);
      squares += expected.y[i] * expected.y[i];
      of_errors += d * d;
    }
  }
  e.rms = squares > 0 ? std::sqrt(of_errors / squares) : std::sqrt(of_errors);
  return e;
}

}  // namespace moesim::test
