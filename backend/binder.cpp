#include "backend/binder.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "backend/numbers.hpp"

namespace moesim::backend {

OpBinder::OpBinder(const Plan& plan, const Inputs& inputs, RowMaps& maps, Rank rank, const Binding& binding)
    : plan_(plan), inputs_(inputs), maps_(maps), rank_(rank), binding_(binding) {}

void OpBinder::refuse(const std::string& why) const {
  throw Refused(fmt::format("op '{}' ({}) does not run {}: {}", op_->name, to_string(op_->work), binding_.on, why));
}

void OpBinder::require(bool good, const char* what) const {
  if (!good) refuse(fmt::format("{} on rank {}", what, rank_.value()));
}

Tensor OpBinder::read(std::size_t i) const {
  require(i < op_->reads.size(), "it reads too few buffers");
  return binding_.tensor(op_->reads[i]);
}

Tensor OpBinder::write(std::size_t i) const {
  require(i < op_->writes.size(), "it writes too few buffers");
  return binding_.tensor(op_->writes[i]);
}

void OpBinder::floats(std::initializer_list<Tensor> tensors) const {
  for (const Tensor& t : tensors) require(computable(t.dtype), "it computes with int32");
}

bool OpBinder::is_table(BufferId buffer) const {
  return std::any_of(plan_.ops.begin(), plan_.ops.end(), [&](const Op& other) {
    const auto* e = std::get_if<Elementwise>(&other.work);
    return e != nullptr && e->fn == Elementwise::Fn::embedding && other.reads.front() == buffer;
  });
}

AttentionForm OpBinder::form_of(const std::vector<BufferId>& reads, const AttentionCore& w) const {
  AttentionForm f;
  f.sequences = rows(w.sequences);
  f.q_len = w.q_len;
  f.kv_len = w.kv_len;
  f.heads = w.heads;
  f.kv_heads = w.kv_heads;
  f.qk_dim = w.qk_dim;
  f.v_dim = w.v_dim;
  f.window = w.causal ? w.window : 0;
  f.causal = w.causal;
  require(!reads.empty() && f.q_len > 0 && f.heads > 0 && f.kv_heads > 0, "its attention has no shape");
  const Tensor x = binding_.tensor(reads[0]);
  require(x.rows == f.sequences * f.q_len, "its rows are not its sequences'");
  require(f.heads % f.kv_heads == 0, "its heads do not share key heads evenly");
  const std::int64_t kv = f.kv_heads * (f.qk_dim + f.v_dim);
  if (reads.size() >= 2) {
    const Tensor cache = binding_.tensor(reads.back());
    f.kept = f.sequences > 0 ? cache.rows / f.sequences : f.kv_len;  // no sequences: nothing is read
    require(cache.rows == f.sequences * f.kept && f.kept > 0, "its cache is not its sequences'");
  }
  if (reads.size() == 3) {
    f.kind = AttentionForm::Kind::latent_expanded;
    const Tensor expanded = binding_.tensor(reads[1]);
    f.rope = f.qk_dim - (expanded.cols / f.heads - f.v_dim);
    require(f.kv_len == f.q_len, "latent attention with a cached prefix is not expanded");
    require(expanded.cols % f.heads == 0 && expanded.rows == x.rows && f.rope >= 0 && f.rope <= f.qk_dim &&
                f.kv_heads == f.heads && x.cols == f.q_cols(),
            "its latent layout does not fit");
  } else if (reads.size() == 2 && w.kv_cols == f.qk_dim && f.kv_heads == 1 && x.cols == f.q_cols()) {
    f.kind = AttentionForm::Kind::latent_absorbed;
    f.rope = f.qk_dim - f.v_dim;
    require(f.rope >= 0, "its latent layout does not fit");
  } else if (reads.size() == 2 && x.cols == f.q_cols()) {
    f.kind = AttentionForm::Kind::cross;
  } else {
    f.gated = x.cols == 2 * f.q_cols() + kv;
    require(f.gated || x.cols == f.q_cols() + kv, "its projection has another layout");
    require(!f.gated || f.qk_dim == f.v_dim, "its output gate has another width");
    require(f.kv_len == f.q_len || f.kept > 0, "it has no cache of earlier tokens");
    // A ring holds the window of one new token.
    require(f.kept == 0 || f.kept >= f.kv_len || f.q_len == 1 || f.kv_len == f.q_len,
            "a window over a cached prefix and several new tokens");
  }
  if (f.kept > 0) {
    const Tensor cache = binding_.tensor(reads.back());
    const bool latent = f.kind == AttentionForm::Kind::latent_absorbed;
    if (f.kind != AttentionForm::Kind::latent_expanded)
      require(cache.cols == (latent ? f.qk_dim : kv), "its cache has another width");
    require(f.kept >= f.kv_len || (f.window > 0 && f.kept >= f.window), "its cache is shorter than what it reads");
  }
  return f;
}

std::vector<std::int64_t> OpBinder::table_rows(BufferId table) const {
  const Buffer& buffer = plan_.buffer(table);
  const ShardMap shard(plan_, buffer, rank_);
  const std::int64_t first = shard.tensor_row(0);
  const std::int64_t begin = plan_.tokens.begin[owner()];
  std::vector<std::int64_t> ids;
  for (std::int64_t t = 0; t < plan_.tokens.count(owner()); ++t) {
    const std::int64_t id = token_id(inputs_.seed, begin + t, shard.tensor_rows()) - first;
    ids.push_back(id >= 0 && id < plan_.rows(buffer.rows, rank_) ? id : -1);
  }
  return ids;
}

int OpBinder::moe_layer_of(BufferId choice) const {
  const auto has = [&](const std::vector<BufferId>& buffers) {
    return std::find(buffers.begin(), buffers.end(), choice) != buffers.end();
  };
  for (const Op& other : plan_.ops)
    if (const auto* p = std::get_if<Permute>(&other.work); p != nullptr && (has(other.reads) || has(other.writes)))
      return p->moe_layer;
  return 0;
}

std::vector<ExpertIndex> OpBinder::experts(int moe_layer) const {
  require(moe_layer < inputs_.routing.moe_layers() && plan_.tokens.total() <= inputs_.routing.tokens(),
          "the routing is not the plan's");
  const std::int64_t tokens = plan_.tokens.count(owner());
  std::vector<ExpertIndex> out(static_cast<std::size_t>(tokens * inputs_.routing.top_k()));
  if (!out.empty()) inputs_.routing.assign(moe_layer, plan_.tokens.begin[owner()], out);
  return out;
}

}  // namespace moesim::backend
