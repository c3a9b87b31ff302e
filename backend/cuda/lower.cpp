#include "backend/cuda/lower.hpp"

#include <fmt/format.h>

#include "backend/cuda/op_lowering.hpp"

namespace moesim::backend::gpu {
namespace {

Tensor or_none(const std::optional<Tensor>& t) { return t.value_or(Tensor{}); }

class Lowering : public OpLowering {
 public:
  using OpLowering::OpLowering;

  void operator()(const std::monostate&) { out_.takes_part = false; }
  void operator()(const HostSyncCall&) { out_.host_sync = true; }
  void operator()(const CollectiveCall&) {}
  void operator()(const TrainingCall& c) { lower_training(at_, op_, c, out_); }

  void operator()(const ProductCall& c) {
    formats(c.x, c.w, c.y);
    add(c.y, Product{c.x.rows, c.work.n, c.work.k, c.work.batch, c.work.math, c.transposed, c.x, c.w, c.y});
  }

  void operator()(const GroupedProductCall& c) { grouped_rows(c.work, c.rows, c.x, c.w, c.y, false); }

  void operator()(const AttentionCall& c) {
    add(c.o, Attend{c.form, c.x, or_none(c.expanded), or_none(c.cache), c.o});
    if (c.stores) add(c.x, StoreKeys{c.form, c.x, *c.cache});
  }
  void operator()(const RotateCall& c) {
    if (c.y.rows == 0) return;
    add(c.y, Rotate{c.form, numbers(c.form.turns), c.x, c.y});
    if (c.cache) add(c.y, StoreKeys{c.form, c.y, *c.cache});
  }
  void operator()(const RotateLatentCall& c) {
    if (c.y.rows == 0) return;
    add(c.y, RotateLatent{c.form, numbers(c.form.turns), or_none(c.absorbed), c.q, c.latent, c.y, c.cache});
  }
  void operator()(const NormCall& c) { add(c.y, Normalize{c.x, {}, or_none(c.w), {}, c.y}); }
  void operator()(const AddNormCall& c) { add(c.y, Normalize{c.a, c.b, or_none(c.w), c.sum, c.y}); }

  void operator()(const AddCall& c) {
    Sum sum;
    if (c.terms.size() > Sum::most)
      refuse(fmt::format("it adds up {} results, and a kernel {} at most", c.terms.size(), Sum::most));
    for (const Tensor& t : c.terms) sum.terms.push_back({t.data, t.dtype});
    sum.elements = c.y.rows * c.y.cols;
    sum.dtype = c.y.dtype;
    sum.y = c.y.data;
    add(c.y, sum);
  }
  void operator()(const ActivateCall& c) { add(c.y, c); }
  void operator()(const CastCall& c) { add(c.y, c); }
  void operator()(const EmbedCall& c) { add(c.y, Embed{numbers(c.ids), c.table, c.y}); }
  void operator()(const LastCall& c) { add(c.y, c); }
  void operator()(const ChooseCall& c) {
    add(c.y, Gate{static_cast<int>(c.y.cols / 2), numbers(c.choice), c.scores, c.y});
  }
  void operator()(const CopyCall& c) { add(c.y, CopyBytes{c.y.data, c.x.data, c.x.bytes()}); }

  void operator()(const PermuteCall& c) {
    move_rows(c.work, {numbers(c.map.begin), numbers(c.map.from),
                       c.map.weight.empty() ? nullptr : numbers(c.map.weight), 0, c.y.rows, c.x, c.y});
  }
};

}  // namespace

void lower(const LowerContext& at, const Op& op, const Call& call, Step& out) {
  std::visit(Lowering(at, op, out), call);
}

}  // namespace moesim::backend::gpu
