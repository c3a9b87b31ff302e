#include "backend/host/program.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "backend/host/kernels.hpp"
#include "backend/numbers.hpp"

namespace moesim::backend {

// Turns each op's work into a kernel or a meeting.
class Binder {
 public:
  Binder(const Plan& plan, const Inputs& inputs, RowMaps& maps, Program& program)
      : plan_(plan), inputs_(inputs), maps_(maps), program_(program), rank_(program.rank()) {}

  BoundOp bind(std::size_t i) {
    op_ = &plan_.ops[i];
    if (op_->pass != Pass::forward) refuse("the host computes forward passes only");
    bound_ = BoundOp{};
    std::visit([this](const auto& work) { bind(work); }, op_->work);
    return std::move(bound_);
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    throw Refused(fmt::format("op '{}' ({}) does not run on the host: {}", op_->name, to_string(op_->work), why));
  }
  void require(bool good, const char* what) const {
    if (!good) refuse(fmt::format("{} on rank {}", what, rank_.value()));
  }

  [[nodiscard]] Tensor read(std::size_t i) const {
    require(i < op_->reads.size(), "it reads too few buffers");
    return program_.memory().tensor(op_->reads[i]);
  }
  [[nodiscard]] Tensor write(std::size_t i) const {
    require(i < op_->writes.size(), "it writes too few buffers");
    return program_.memory().tensor(op_->writes[i]);
  }
  void floats(std::initializer_list<Tensor> tensors) const {
    for (const Tensor& t : tensors) require(computable(t.dtype), "it computes with int32");
  }
  [[nodiscard]] std::int64_t rows(const Rows& r) const { return plan_.rows(r, rank_); }

  void bind(const Gemm& w) {
    const Tensor x = read(0);
    const Tensor weight = read(1);
    const Tensor y = write(0);
    floats({x, weight, y});
    require(w.batch >= 1, "it has no products");
    const bool table = std::any_of(plan_.ops.begin(), plan_.ops.end(), [&](const Op& other) {
      const auto* e = std::get_if<Elementwise>(&other.work);
      return e != nullptr && e->fn == Elementwise::Fn::embedding && other.reads.front() == op_->reads[1];
    });
    require(x.rows == rows(w.m) && y.rows == x.rows, "its rows are not those of its buffers");
    require(x.cols % w.batch == 0 && x.cols / w.batch >= w.k && y.cols == w.batch * w.n, "its columns do not fit");
    require(table ? w.batch == 1 && weight.rows == w.n && weight.cols == w.k
                  : weight.rows == w.batch * w.k && weight.cols == w.n,
            "its weights have another shape");
    bound_.kernel = [=](Scratch& s) { gemm(w, x, weight, y, table, s); };
  }

  void bind(const GroupedGemm& w) {
    if (w.form != GroupedGemm::Form::forward) refuse("only the forward product does");
    const Tensor x = read(0);
    const Tensor weight = read(1);
    const Tensor y = write(0);
    floats({x, weight, y});
    const auto groups = plan_.table(w.rows).row(rank_.value());
    require(x.rows == plan_.table(w.rows).row_sum(rank_.value()) && y.rows == x.rows,
            "its rows are not those of its buffers");
    require(x.cols == w.k && y.cols == w.n && weight.cols == w.n, "its columns do not fit");
    for (std::size_t g = 0; g < groups.size(); ++g)
      require(groups[g] == 0 || (static_cast<std::int64_t>(g) % w.matrices + 1) * w.k <= weight.rows,
              "a group has rows and no matrix");
    bound_.kernel = [=](Scratch& s) { grouped_gemm(w, groups, x, weight, y, s); };
  }

  // ---- attention ----

  AttentionForm form_of(const Op& op, const AttentionCore& w) {
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
    require(!op.reads.empty() && f.q_len > 0 && f.heads > 0 && f.kv_heads > 0, "its attention has no shape");
    const Tensor x = program_.memory().tensor(op.reads[0]);
    require(x.rows == f.sequences * f.q_len, "its rows are not its sequences'");
    require(f.heads % f.kv_heads == 0, "its heads do not share key heads evenly");
    const std::int64_t kv = f.kv_heads * (f.qk_dim + f.v_dim);
    if (op.reads.size() >= 2) {
      const Tensor cache = program_.memory().tensor(op.reads.back());
      f.kept = f.sequences > 0 ? cache.rows / f.sequences : f.kv_len;  // no sequences: nothing is read
      require(cache.rows == f.sequences * f.kept && f.kept > 0, "its cache is not its sequences'");
    }
    if (op.reads.size() == 3) {
      f.kind = AttentionForm::Kind::latent_expanded;
      const Tensor expanded = program_.memory().tensor(op.reads[1]);
      f.rope = f.qk_dim - (expanded.cols / f.heads - f.v_dim);
      require(f.kv_len == f.q_len, "latent attention with a cached prefix is not expanded");
      require(expanded.cols % f.heads == 0 && expanded.rows == x.rows && f.rope >= 0 && f.rope <= f.qk_dim &&
                  f.kv_heads == f.heads && x.cols == f.q_cols(),
              "its latent layout does not fit");
    } else if (op.reads.size() == 2 && w.kv_cols == f.qk_dim && f.kv_heads == 1 && x.cols == f.q_cols()) {
      f.kind = AttentionForm::Kind::latent_absorbed;
      f.rope = f.qk_dim - f.v_dim;
      require(f.rope >= 0, "its latent layout does not fit");
    } else if (op.reads.size() == 2 && x.cols == f.q_cols()) {
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
      const Tensor cache = program_.memory().tensor(op.reads.back());
      const bool latent = f.kind == AttentionForm::Kind::latent_absorbed;
      if (f.kind != AttentionForm::Kind::latent_expanded)
        require(cache.cols == (latent ? f.qk_dim : kv), "its cache has another width");
      require(f.kept >= f.kv_len || (f.window > 0 && f.kept >= f.window), "its cache is shorter than what it reads");
    }
    return f;
  }

  void bind(const AttentionCore& w) {
    if (w.backward) refuse("the host computes forward passes only");
    const AttentionForm f = form_of(*op_, w);
    const Tensor x = read(0);
    const Tensor o = write(0);
    floats({x, o});
    require(o.rows == x.rows && o.cols == f.heads * f.v_dim, "its output has another shape");
    const bool expands = f.kind == AttentionForm::Kind::latent_expanded;
    const Tensor expanded = expands ? read(1) : Tensor{};
    const Tensor cache = f.kept > 0 ? read(op_->reads.size() - 1) : Tensor{};
    const bool stores = op_->writes.size() == 2;
    require(!stores || f.kind == AttentionForm::Kind::self, "it fills the cache of another form");
    bound_.kernel = [=](Scratch& s) {
      attention(f, x, expands ? &expanded : nullptr, f.kept > 0 ? &cache : nullptr, o, s);
      if (stores) store_keys(f, x, cache, s);
    };
  }

  // The core that reads what a rotary op writes knows its shape.
  void bind_rotary() {
    const Op* core = nullptr;
    for (const Op& other : plan_.ops)
      if (std::holds_alternative<AttentionCore>(other.work) && !other.reads.empty() &&
          other.reads.front() == op_->writes.front())
        core = &other;
    if (core == nullptr) refuse("no attention_core reads its output");
    AttentionForm f = form_of(*core, std::get<AttentionCore>(core->work));
    const Tensor y = write(0);
    const bool latent =
        f.kind == AttentionForm::Kind::latent_expanded || f.kind == AttentionForm::Kind::latent_absorbed;
    turn_pairs(f, latent ? f.rope : f.qk_dim);
    if (!latent) {
      const Tensor x = read(0);
      require(x.rows == y.rows && x.cols == y.cols, "its output has another shape");
      const bool stores = op_->writes.size() == 2;
      const Tensor cache = stores ? write(1) : Tensor{};
      require(!stores || f.kept > 0, "its cache is not the core's");
      bound_.kernel = [=](Scratch& s) {
        rotate(f, x, y, s);
        if (stores) store_keys(f, y, cache, s);
      };
      return;
    }
    const bool joins = f.kind == AttentionForm::Kind::latent_absorbed;
    const Tensor absorbed = joins ? read(0) : Tensor{};
    const Tensor q = read(joins ? 1 : 0);
    const Tensor kv = read(joins ? 2 : 1);
    const Tensor cache = write(1);
    require(q.rows == y.rows && kv.rows == y.rows && y.cols == f.q_cols() && q.cols % f.heads == 0 &&
                q.cols / f.heads >= f.rope && kv.cols == cache.cols && kv.cols >= f.rope && f.kept > 0,
            "its latent layout does not fit");
    require(joins ? absorbed.rows == y.rows && absorbed.cols == f.heads * f.v_dim : q.cols == f.q_cols(),
            "its queries have another layout");
    bound_.kernel = [=](Scratch& s) { rotate_latent(f, joins ? &absorbed : nullptr, q, kv, y, cache, s); };
  }

  // ---- rows ----

  void bind(const Elementwise& w) {
    const Tensor x = read(0);
    const Tensor y = write(0);
    floats({x, y});
    const bool same_rows = x.rows == y.rows && y.rows == rows(w.rows);
    switch (w.fn) {
      case Elementwise::Fn::norm: {
        require(same_rows && x.cols == y.cols, "its buffers differ in shape");
        const bool scaled = op_->reads.size() > 1;
        const Tensor weight = scaled ? read(1) : Tensor{};
        require(!scaled || weight.bytes() == x.cols * weight.element_bytes(), "its weights have another shape");
        bound_.kernel = [=](Scratch& s) { norm(x, scaled ? &weight : nullptr, y, s); };
        return;
      }
      case Elementwise::Fn::add_norm: {
        const Tensor b = read(1);
        const Tensor normed = write(1);
        const bool scaled = op_->reads.size() > 2;
        const Tensor weight = scaled ? read(2) : Tensor{};
        require(same_rows && x.cols == y.cols && b.rows == y.rows && b.cols == y.cols && normed.rows == y.rows &&
                    normed.cols == y.cols && (!scaled || weight.rows * weight.cols == x.cols),
                "its buffers differ in shape");
        floats({b, normed});
        bound_.kernel = [=](Scratch& s) { add_norm(x, b, scaled ? &weight : nullptr, y, normed, s); };
        return;
      }
      case Elementwise::Fn::add:
      case Elementwise::Fn::sum_partials: {
        std::vector<Tensor> terms;
        for (std::size_t i = 0; i < op_->reads.size(); ++i) {
          terms.push_back(read(i));
          floats({terms.back()});
          require(terms.back().rows == y.rows && terms.back().cols == y.cols, "its buffers differ in shape");
        }
        bound_.kernel = [=](Scratch& s) { add(terms, y, s); };
        return;
      }
      case Elementwise::Fn::activation:
      case Elementwise::Fn::gated: {
        const bool gated = w.fn == Elementwise::Fn::gated;
        require(same_rows && x.cols == (gated ? 2 : 1) * y.cols, "its buffers differ in shape");
        bound_.kernel = [=, a = w.activation](Scratch& s) { activate(a, gated, x, y, s); };
        return;
      }
      case Elementwise::Fn::embedding:
        return bind_embedding(x, y);
      case Elementwise::Fn::last_token:
        require(y.rows == 0 ? x.rows == 0 : x.rows % y.rows == 0 && x.cols == y.cols && x.dtype == y.dtype,
                "its rows are not its sequences'");
        bound_.kernel = [=](Scratch&) { every_last(y.rows == 0 ? 0 : x.rows / y.rows, x, y); };
        return;
      case Elementwise::Fn::top_k:
        return bind_top_k(x, y);
      case Elementwise::Fn::rotary:
        return bind_rotary();
      case Elementwise::Fn::cast:
        require(same_rows && x.cols == y.cols, "its buffers differ in shape");
        bound_.kernel = [=](Scratch& s) { cast(x, y, s); };
        return;
      case Elementwise::Fn::scale:
      case Elementwise::Fn::adam:
      case Elementwise::Fn::delta_rule:
        refuse("the simulator knows it, the host does not compute it yet");
    }
  }

  void bind_embedding(const Tensor& table, const Tensor& y) {
    require(table.cols == y.cols, "its buffers differ in shape");
    const ShardMap shard(plan_, plan_.buffer(op_->reads[0]), rank_);
    const std::int64_t first = shard.tensor_row(0);
    const std::int64_t begin = plan_.tokens.begin[owner()];
    require(y.rows == plan_.tokens.count(owner()), "its rows are not its tokens");
    std::vector<std::int64_t> ids;
    for (std::int64_t t = 0; t < y.rows; ++t) {
      const std::int64_t id = token_id(inputs_.seed, begin + t, shard.tensor_rows()) - first;
      ids.push_back(id >= 0 && id < table.rows ? id : -1);
    }
    bound_.kernel = [=, ids = std::move(ids)](Scratch& s) { embed(ids, table, y, s); };
  }

  // The plan's counts follow from the routing, so its choice is what the gate yields.
  void bind_top_k(const Tensor& scores, const Tensor& y) {
    const auto k = static_cast<std::size_t>(inputs_.routing.top_k());
    require(y.rows == plan_.tokens.count(owner()) && scores.rows == y.rows, "its rows are not its tokens");
    require(static_cast<std::size_t>(y.cols) == 2 * k && y.dtype == DType::f32, "its output has another shape");
    int moe_layer = 0;  // of the permutes that read this choice
    for (const Op& other : plan_.ops)
      if (const auto* p = std::get_if<Permute>(&other.work))
        if (std::find(other.reads.begin(), other.reads.end(), op_->writes[0]) != other.reads.end())
          moe_layer = p->moe_layer;
    require(moe_layer < inputs_.routing.moe_layers() && plan_.tokens.total() <= inputs_.routing.tokens(),
            "the routing is not the plan's");
    std::vector<ExpertIndex> ids(static_cast<std::size_t>(y.rows) * k);
    const std::int64_t begin = plan_.tokens.begin[owner()];
    if (!ids.empty()) inputs_.routing.assign(moe_layer, begin, ids);
    std::vector<float> choice(ids.size() * 2);
    for (std::size_t t = 0; t < static_cast<std::size_t>(y.rows); ++t) {
      for (std::size_t i = 0; i < k; ++i) choice[t * 2 * k + i] = static_cast<float>(ids[t * k + i]);
      gate_weights(inputs_.seed, moe_layer, begin + static_cast<std::int64_t>(t),
                   std::span(choice).subspan(t * 2 * k + k, k));
    }
    bound_.kernel = [=, choice = std::move(choice)](Scratch& s) { choose(choice, scores, y, s); };
  }

  void bind(const Permute& w) {
    const Tensor x = read(0);
    const Tensor y = write(0);
    floats({x, y});
    require(x.cols == y.cols && x.rows == rows(w.rows_in) && y.rows == rows(w.rows_out), "its buffers differ in shape");
    bound_.kernel = [=, map = maps_.of(*op_, w, rank_)](Scratch& s) { apply(map, x, y, s); };
  }

  void bind(const Copy& w) {
    const Tensor x = read(0);
    const Tensor y = write(0);
    require(x.bytes() == y.bytes() && x.rows == rows(w.rows), "its buffers differ in shape");
    bound_.kernel = [=](Scratch&) { std::memcpy(y.data, x.data, static_cast<std::size_t>(x.bytes())); };
  }

  void bind(const HostSync&) {}

  // ---- collectives ----

  void bind(const Collective& w) {
    const Groups& groups = plan_.groups[w.groups.index()];
    bound_.takes_part = std::any_of(groups.begin(), groups.end(), [&](const std::vector<Rank>& g) {
      return std::find(g.begin(), g.end(), rank_) != g.end();
    });
    if (!bound_.takes_part) return;
    Tensor in = read(0);
    const Tensor out = write(0);
    require(op_->reads[0] != op_->writes[0], "it works in place");
    if (w.dtype == DType::i32 && in.dtype != DType::i32) in = counts(w);
    require(in.dtype == w.dtype && out.dtype == w.dtype, "its buffers hold another format");
    const bool adds = w.kind == Collective::Kind::all_reduce || w.kind == Collective::Kind::reduce ||
                      w.kind == Collective::Kind::reduce_scatter_v || w.kind == Collective::Kind::sparse_reduce_scatter;
    if (adds) floats({in});
    require(in.rows * in.cols >= input_elements(w), "its input is too small");
    bound_.meeting = meeting_of(plan_, *op_, w, rank_, in, out);
  }

  // What it reads of its input, in elements; faults() has checked the output.
  [[nodiscard]] std::int64_t input_elements(const Collective& w) const {
    const auto own = [&] { return plan_.table(w.counts).row_sum(rank_.value()); };
    switch (w.kind) {
      case Collective::Kind::sparse_all_gather:
      case Collective::Kind::sparse_reduce_scatter: {
        const ExpertPlacement& p = plan_.placements[w.from.index()];
        return p.slots_on(Rank(meeting_position(w))) * w.cols;
      }
      case Collective::Kind::reduce_scatter_v: {
        std::int64_t all = 0;
        for (const std::vector<Rank>& g : plan_.groups[w.groups.index()])
          if (std::find(g.begin(), g.end(), rank_) != g.end())
            for (const Rank r : g) all += plan_.table(w.counts).row_sum(r.value());
        return all * w.cols;
      }
      case Collective::Kind::all_to_all_v:
      case Collective::Kind::send_recv:
      case Collective::Kind::all_gather_v:
      case Collective::Kind::all_reduce:
      case Collective::Kind::broadcast:
      case Collective::Kind::reduce:
        return own() * w.cols;
    }
    return 0;
  }
  [[nodiscard]] std::size_t meeting_position(const Collective& w) const {
    for (const std::vector<Rank>& g : plan_.groups[w.groups.index()]) {
      const auto at = std::find(g.begin(), g.end(), rank_);
      if (at != g.end()) return static_cast<std::size_t>(at - g.begin());
    }
    return 0;
  }

  // An int32 collective that reads a choice exchanges its counts: those of the permute that reads it too.
  Tensor counts(const Collective& w) {
    const Permute* permute = nullptr;
    for (const Op& other : plan_.ops)
      if (const auto* p = std::get_if<Permute>(&other.work))
        if (permute == nullptr && std::find(other.reads.begin(), other.reads.end(), op_->reads[0]) != other.reads.end())
          permute = p;
    if (permute == nullptr) refuse("no permute says which counts it exchanges");
    const bool per_member = w.kind == Collective::Kind::all_to_all_v;
    program_.counts_.push_back(
        std::make_unique<std::vector<std::int32_t>>(maps_.counts(*permute, rank_, w.cols, per_member)));
    std::vector<std::int32_t>& c = *program_.counts_.back();
    return {reinterpret_cast<std::byte*>(c.data()), DType::i32, static_cast<std::int64_t>(c.size()) / w.cols, w.cols};
  }

  [[nodiscard]] std::size_t owner() const { return static_cast<std::size_t>(plan_.owner_of_rank[rank_.index()]); }

  const Plan& plan_;
  const Inputs& inputs_;
  RowMaps& maps_;
  Program& program_;
  Rank rank_;
  const Op* op_ = nullptr;
  BoundOp bound_;
};

Program::Program(const Plan& plan, const Inputs& inputs, RowMaps& maps, Rank rank) : memory_(plan, inputs, rank) {
  Binder binder(plan, inputs, maps, *this);
  for (std::size_t i = 0; i < plan.ops.size(); ++i) ops_.push_back(binder.bind(i));
}

}  // namespace moesim::backend
