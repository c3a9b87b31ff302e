#include "backend/host/program.hpp"

#include "backend/host/kernels.hpp"
#include "backend/host/training.hpp"

namespace moesim::backend {
namespace {

const Tensor* where(const std::optional<Tensor>& t) { return t ? &*t : nullptr; }

struct Execute {
  Scratch& scratch;

  void operator()(const std::monostate&) const {}
  void operator()(const HostSyncCall&) const {}
  void operator()(const CollectiveCall&) const {}  // its meeting carries it
  void operator()(const ProductCall& c) const { gemm(c.work, c.x, c.w, c.y, c.transposed, scratch); }
  void operator()(const GroupedProductCall& c) const { grouped_gemm(c.work, c.rows, c.x, c.w, c.y, scratch); }
  void operator()(const AttentionCall& c) const {
    attention(c.form, c.x, where(c.expanded), where(c.cache), c.o, scratch);
    if (c.stores) store_keys(c.form, c.x, *c.cache, scratch);
  }
  void operator()(const RotateCall& c) const {
    rotate(c.form, c.x, c.y, scratch);
    if (c.cache) store_keys(c.form, c.y, *c.cache, scratch);
  }
  void operator()(const RotateLatentCall& c) const {
    rotate_latent(c.form, where(c.absorbed), c.q, c.latent, c.y, c.cache, scratch);
  }
  void operator()(const NormCall& c) const { norm(c.x, where(c.w), c.y, scratch); }
  void operator()(const AddNormCall& c) const { add_norm(c.a, c.b, where(c.w), c.sum, c.y, scratch); }
  void operator()(const AddCall& c) const { add(c.terms, c.y, scratch); }
  void operator()(const ActivateCall& c) const { activate(c.activation, c.gated, c.x, c.y, scratch); }
  void operator()(const CastCall& c) const { cast(c.x, c.y, scratch); }
  void operator()(const EmbedCall& c) const { embed(c.ids, c.table, c.y, scratch); }
  void operator()(const LastCall& c) const { every_last(c.every, c.x, c.y); }
  void operator()(const ChooseCall& c) const { choose(c.choice, c.scores, c.y, scratch); }
  void operator()(const PermuteCall& c) const { apply(c.map, c.x, c.y, scratch); }
  void operator()(const CopyCall& c) const { std::copy_n(c.x.data, c.x.bytes(), c.y.data); }
  void operator()(const TrainingCall& c) const { execute(c, scratch); }
};

}  // namespace

void execute(const Call& call, Scratch& scratch) { std::visit(Execute{scratch}, call); }

Program::Program(const Plan& plan, const Inputs& inputs, RowMaps& maps, Rank rank, const StepBefore* before)
    : plan_(plan), memory_(plan, inputs, rank, before) {
  calls_ = bind(plan, inputs, maps, rank,
                {"on the host", [this](BufferId id) { return memory_.tensor(id); },
                 [this](BufferId id) { return memory_.start(id); }});
  for (std::size_t i = 0; i < calls_.size(); ++i) {
    Call& call = calls_[i];
    BoundOp& op = ops_.emplace_back();
    op.takes_part = !std::holds_alternative<std::monostate>(call);
    if (auto* c = std::get_if<CollectiveCall>(&call)) {
      if (!c->counts.empty()) c->in.data = reinterpret_cast<std::byte*>(c->counts.data());
      op.meeting = meeting_of(plan, plan.ops[i], *c, rank);
      continue;
    }
    if (const auto* c = std::get_if<TrainingCall>(&call)) op.meeting = meeting_of(plan, plan.ops[i], *c, rank);
    if (op.takes_part && !std::holds_alternative<HostSyncCall>(call)) {
      op.kernel = [&call](Scratch& scratch) { execute(call, scratch); };
    }
  }
}

}  // namespace moesim::backend
