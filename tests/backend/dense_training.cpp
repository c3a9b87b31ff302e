#include "tests/backend/dense_training.hpp"

#include <cmath>

#include "backend/numbers.hpp"
#include "tests/backend/reference.hpp"

namespace moesim::test {
namespace {

void softmax(std::vector<double>& v) {
  double most = v.front();
  for (const double x : v) most = std::max(most, x);
  double sum = 0;
  for (double& x : v) sum += x = std::exp(x - most);
  for (double& x : v) x /= sum;
}

}  // namespace

DenseModel::DenseModel(const Model& model, const Workload& work, const backend::Inputs& inputs)
    : model_(model), work_(work), inputs_(inputs) {
  const auto add = [&](const std::string& name, std::int64_t rows, std::int64_t cols, std::int64_t matrices = 1) {
    std::vector<double>& w = weights_[name];
    for (std::int64_t e = 0; e < matrices; ++e) {
      const backend::LogicalMatrix m(inputs.seed, name, e, rows);
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < cols; ++c) w.push_back(static_cast<double>(m.at(r, c)));
    }
  };
  const std::int64_t h = model.hidden;
  add("embedding.table", model.vocabulary, h);
  if (!model.tied_embeddings) add("head.weight", h, model.vocabulary);
  add("final_norm.weight", 1, h);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const std::string l = "l" + std::to_string(i);
    const Attention& a = *model.layers[i].attention;
    const MoeBlock& moe = *model.layers[i].moe;
    const std::int64_t f = moe.expert.intermediate;
    add(l + ".attention_norm.weight", 1, h);
    add(l + ".moe_norm.weight", 1, h);
    add(l + ".attention.qkv.weight", h, a.heads * a.qk_head_dim + a.kv_heads * (a.qk_head_dim + a.v_head_dim));
    add(l + ".attention.output.weight", a.heads * a.v_head_dim, h);
    add(l + ".moe.router.weight", h, moe.experts);
    add(l + ".moe.up.weight", h, moe.expert.gated ? 2 * f : f, moe.experts);
    add(l + ".moe.down.weight", f, h, moe.experts);
  }
}

DenseModel::Rows DenseModel::product(const Rows& x, const std::string& weight, std::int64_t n,
                                     std::int64_t first) const {
  const std::vector<double>& w = weights_.at(weight);
  Rows y(x.size(), std::vector<double>(static_cast<std::size_t>(n)));
  for (std::size_t i = 0; i < x.size(); ++i)
    for (std::size_t k = 0; k < x[i].size(); ++k)
      for (std::size_t c = 0; c < y[i].size(); ++c)
        y[i][c] += x[i][k] * w[static_cast<std::size_t>(first) + k * y[i].size() + c];
  return y;
}

DenseModel::Rows DenseModel::norm(const Rows& x, const std::string& weight) const {
  Rows y = x;
  for (std::vector<double>& row : y) {
    double squares = 0;
    for (const double v : row) squares += v * v;
    const double r = 1 / std::sqrt(squares / static_cast<double>(row.size()) + 1e-6);
    for (std::size_t c = 0; c < row.size(); ++c) row[c] *= r * weights_.at(weight)[c];
  }
  return y;
}

DenseModel::Rows DenseModel::attention(const Attention& a, const Rows& x, const std::string& name, bool causal) const {
  const std::int64_t d = a.qk_head_dim;
  const auto n = static_cast<std::size_t>(work_.sequence_length);
  Rows qkv = product(x, name + ".qkv.weight", a.heads * d + a.kv_heads * (d + a.v_head_dim));
  for (std::size_t i = 0; i < qkv.size(); ++i)  // rotary positions of queries and keys
    for (std::int64_t head = 0; head < a.heads + a.kv_heads; ++head)
      for (std::int64_t j = 0; j < d / 2; ++j) {
        const double turn =
            static_cast<double>(i % n) * std::pow(10'000.0, -2.0 * static_cast<double>(j) / static_cast<double>(d));
        double& p = qkv[i][static_cast<std::size_t>(head * d + j)];
        double& q = qkv[i][static_cast<std::size_t>(head * d + j + d / 2)];
        const double before = p;
        p = before * std::cos(turn) - q * std::sin(turn);
        q = before * std::sin(turn) + q * std::cos(turn);
      }
  Rows out(x.size(), std::vector<double>(static_cast<std::size_t>(a.heads * a.v_head_dim)));
  for (std::size_t i = 0; i < x.size(); ++i)
    for (std::int64_t head = 0; head < a.heads; ++head) {
      const std::int64_t g = head * a.kv_heads / a.heads;
      const std::size_t first = i - i % n;
      const std::size_t last = causal ? i + 1 : first + n;
      std::vector<double> p;
      for (std::size_t j = first; j < last; ++j) {
        double score = 0;
        for (std::int64_t c = 0; c < d; ++c)
          score +=
              qkv[i][static_cast<std::size_t>(head * d + c)] * qkv[j][static_cast<std::size_t>((a.heads + g) * d + c)];
        p.push_back(score / std::sqrt(static_cast<double>(d)));
      }
      softmax(p);
      for (std::size_t j = first; j < last; ++j)
        for (std::int64_t c = 0; c < a.v_head_dim; ++c)
          out[i][static_cast<std::size_t>(head * a.v_head_dim + c)] +=
              p[j - first] * qkv[j][static_cast<std::size_t>((a.heads + a.kv_heads) * d + g * a.v_head_dim + c)];
    }
  return product(out, name + ".output.weight", model_.hidden);
}

DenseModel::Rows DenseModel::moe(const MoeBlock& block, const Rows& x, const std::string& name, int layer) const {
  const auto k = static_cast<std::size_t>(block.top_k);
  const std::int64_t f = block.expert.intermediate;
  std::vector<ExpertIndex> chosen(x.size() * k);
  inputs_.routing.assign(layer, 0, chosen);
  Rows scores = product(x, name + ".router.weight", block.experts);
  Rows out;
  for (std::size_t t = 0; t < x.size(); ++t) {
    softmax(scores[t]);
    std::vector<double> sum(x[t].size());
    for (std::size_t i = 0; i < k; ++i) {
      const std::int64_t e = chosen[t * k + i];
      const std::int64_t up = block.expert.gated ? 2 * f : f;
      Rows a = product({x[t]}, name + ".up.weight", up, e * model_.hidden * up);
      for (std::int64_t c = 0; c < f; ++c) {
        double& v = a[0][static_cast<std::size_t>(c)];
        v = activation(block.expert.activation, v) * (block.expert.gated ? a[0][static_cast<std::size_t>(f + c)] : 1.0);
      }
      a[0].resize(static_cast<std::size_t>(f));
      const Rows y = product(a, name + ".down.weight", model_.hidden, e * f * model_.hidden);
      for (std::size_t c = 0; c < sum.size(); ++c) sum[c] += scores[t][static_cast<std::size_t>(e)] * y[0][c];
    }
    out.push_back(std::move(sum));
  }
  return out;
}

double DenseModel::loss() const {
  const auto h = static_cast<std::size_t>(model_.hidden);
  const std::int64_t tokens = work_.sequences * work_.sequence_length;
  Rows x;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int64_t id = backend::token_id(inputs_.seed, t, model_.vocabulary);
    const auto at = weights_.at("embedding.table").begin() + id * model_.hidden;
    x.emplace_back(at, at + model_.hidden);
  }
  const auto add = [&](const Rows& y) {
    for (std::size_t t = 0; t < x.size(); ++t)
      for (std::size_t c = 0; c < h; ++c) x[t][c] += y[t][c];
  };
  for (std::size_t i = 0; i < model_.layers.size(); ++i) {
    const std::string l = "l" + std::to_string(i);
    const TransformerLayer& layer = model_.layers[i];
    add(attention(*layer.attention, norm(x, l + ".attention_norm.weight"), l + ".attention", layer.decoder));
    add(moe(*layer.moe, norm(x, l + ".moe_norm.weight"), l + ".moe", static_cast<int>(i)));
  }
  x = norm(x, "final_norm.weight");
  double sum = 0;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::vector<double>& row = x[static_cast<std::size_t>(t)];
    std::vector<double> p(static_cast<std::size_t>(model_.vocabulary));
    for (std::size_t v = 0; v < p.size(); ++v)
      for (std::size_t c = 0; c < h; ++c)
        p[v] += row[c] * (model_.tied_embeddings ? weights_.at("embedding.table")[v * h + c]
                                                 : weights_.at("head.weight")[c * p.size() + v]);
    softmax(p);
    sum -= std::log(p[static_cast<std::size_t>(backend::token_id(inputs_.seed, t + 1, model_.vocabulary))]);
  }
  return sum / static_cast<double>(tokens);
}

std::vector<float> expert_gradients(const Plan& plan, const backend::Programs& programs, const std::string& weight) {
  std::map<int, std::vector<float>> experts;
  for (const Op& op : plan.ops) {
    const auto* adam = std::get_if<Elementwise>(&op.work);
    if (adam == nullptr || adam->fn != Elementwise::Fn::adam) continue;
    for (std::size_t i = 0; i < op.reads.size(); ++i) {
      const Buffer& b = plan.buffer(op.writes[i]);
      if (b.name != weight || !b.shard.placement.valid()) continue;
      const ExpertPlacement& p = plan.placements[b.shard.placement.index()];
      for (int r = 0; r < p.ranks(); ++r) {
        const std::vector<float> v = backend::values(*programs[static_cast<std::size_t>(r)], op.reads[i]);
        const auto size = static_cast<std::ptrdiff_t>(b.shard.matrix_rows * b.cols);
        for (int s = 0; s < p.slots_on(Rank(r)); ++s)
          experts[p.expert_of_slot[static_cast<std::size_t>(p.slot_begin[static_cast<std::size_t>(r)] + s)].value()]
              .assign(v.begin() + s * size, v.begin() + (s + 1) * size);
      }
    }
  }
  std::vector<float> out;
  for (const auto& [e, v] : experts) out.insert(out.end(), v.begin(), v.end());
  return out;
}

}  // namespace moesim::test
