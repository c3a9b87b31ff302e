#include "backend/cuda/lower.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "backend/bind.hpp"

namespace moesim::backend::gpu {
namespace {

Tensor or_none(const std::optional<Tensor>& t) { return t.value_or(Tensor{}); }

class Lowering {
 public:
  Lowering(const LowerContext& at, const Op& op, Step& out) : at_(at), op_(op), out_(out) {}

  void operator()(const std::monostate&) { out_.takes_part = false; }
  void operator()(const HostSyncCall&) { out_.host_sync = true; }
  void operator()(const CollectiveCall&) {}
  void operator()(const TrainingCall&) {
    throw Refused(
        fmt::format("op '{}' ({}) does not run on the GPU: training steps run on the host ('moesim run') and "
                    "in the simulator",
                    op_.name, to_string(op_.work)));
  }

  void operator()(const ProductCall& c) {
    one_format(c.x, c.w);
    add(c.y, Product{c.x.rows, c.work.n, c.work.k, c.work.batch, c.work.math, c.transposed, c.x, c.w, c.y});
  }

  void operator()(const GroupedProductCall& c) {
    one_format(c.x, c.w);
    // cuBLAS groups products of one format only.
    const bool each = c.work.launch.per_group || c.x.dtype != c.y.dtype;
    GroupedProduct all{c.work.n, c.work.k, c.work.math, c.x.dtype, c.w.dtype, c.y.dtype, {}, nullptr};
    std::int64_t row = 0;
    for (std::size_t g = 0; g < c.rows.size(); ++g) {
      const std::int64_t m = c.rows[g];
      if (m == 0) continue;
      const std::int64_t matrix = static_cast<std::int64_t>(g) % c.work.matrices;
      const Tensor x{c.x.at(row), c.x.dtype, m, c.work.k};
      const Tensor w{c.w.at(matrix * c.work.k), c.w.dtype, c.work.k, c.work.n};
      const Tensor y{c.y.at(row), c.y.dtype, m, c.work.n};
      row += m;
      if (!each) {
        all.groups.push_back({m, x.data, w.data, y.data});
        continue;
      }
      out_.commands.emplace_back(Product{m, c.work.n, c.work.k, 1, c.work.math, false, x, w, y});
      end_set(c.work.launch, 1);
    }
    if (each || all.groups.empty()) return;
    std::vector<const std::byte*> addresses;
    for (const GroupedProduct::Group& g : all.groups) addresses.push_back(g.w);
    for (const GroupedProduct::Group& g : all.groups) addresses.push_back(g.x);
    for (const GroupedProduct::Group& g : all.groups) addresses.push_back(g.y);
    all.addresses = at_.table(std::as_bytes(std::span(addresses)));
    out_.commands.emplace_back(std::move(all));
    end_set(c.work.launch, 1);
  }

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

  // A set gathers (or adds) its rows; every further pass copies them once more. Other operations of the set are empty.
  // With a set per group, each has its share of the rows: the routing's groups are even in the simulator, too.
  void operator()(const PermuteCall& c) {
    const Launch& launch = c.work.launch;
    if (c.y.rows == 0) return;
    MoveRows move{numbers(c.map.begin),
                  numbers(c.map.from),
                  c.map.weight.empty() ? nullptr : numbers(c.map.weight),
                  0,
                  c.y.rows,
                  c.x,
                  c.y};
    const int copies = launch.passes - 1;
    std::byte* room[2] = {nullptr, nullptr};
    for (int i = 0; i < std::min(copies, 2); ++i) room[i] = at_.staging(c.y.bytes());
    const auto target = [&](int pass) { return pass == copies ? c.y.data : room[pass % 2]; };
    const std::int64_t sets = launch.per_group ? groups_with_rows(c.work) : 1;
    for (std::int64_t s = 0; s < sets; ++s) {
      move.first = c.y.rows * s / sets;
      move.rows = c.y.rows * (s + 1) / sets - move.first;
      move.y.data = target(0);
      if (move.rows > 0) out_.commands.emplace_back(move);
      const std::int64_t offset = move.first * c.y.cols * c.y.element_bytes();
      const std::int64_t bytes = move.rows * c.y.cols * c.y.element_bytes();
      for (int pass = 1; pass <= copies; ++pass)
        if (bytes > 0) out_.commands.emplace_back(CopyBytes{target(pass) + offset, target(pass - 1) + offset, bytes});
      end_set(launch, launch.passes);
    }
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    throw Refused(fmt::format("op '{}' ({}) does not run on a GPU: {}", op_.name, to_string(op_.work), why));
  }
  void one_format(const Tensor& x, const Tensor& w) const {
    if (x.dtype != w.dtype)
      refuse(fmt::format("cuBLAS multiplies operands of one format, and these are {} and {}", to_string(x.dtype),
                         to_string(w.dtype)));
  }
  // A launch for no elements is left out, as frameworks do.
  template <class T>
  void add(const Tensor& y, T command) {
    if (y.rows * y.cols > 0) out_.commands.emplace_back(std::move(command));
  }
  // The set has `launches` kernels so far; the op says how many framework operations it is.
  void end_set(const Launch& launch, int launches) {
    for (int i = launches; i < launch.kernels; ++i) out_.commands.emplace_back(Nothing{});
    if (launch.host_waits) out_.set_ends.push_back(out_.commands.size());
  }
  template <class T>
  const T* numbers(const std::vector<T>& v) const {
    return reinterpret_cast<const T*>(at_.table(std::as_bytes(std::span(v))));
  }

  // Experts that a rank sends to; on arrival: its slots that any member sends to.
  [[nodiscard]] std::int64_t groups_with_rows(const Permute& w) const {
    const Table& routed = at_.plan.table(w.routed);
    const auto used = [&](Rank r, int slot) { return routed.at(r.value(), slot) > 0; };
    const auto at_owner = [](RowOrder o) { return o == RowOrder::token || o == RowOrder::unique_by_rank; };
    const Membership me = membership(at_.plan.groups[w.groups.index()], at_.rank);
    int first = 0;
    int last = routed.cols();
    const bool arrived = !at_owner(w.from) && !at_owner(w.to);
    if (arrived && w.placement.valid()) {
      const std::vector<int>& begin = at_.plan.placements[w.placement.index()].slot_begin;
      first = begin[me.member];
      last = begin[me.member + 1];
    }
    std::int64_t groups = 0;
    for (int s = first; s < last; ++s)
      groups += (arrived ? std::any_of(me.group->begin(), me.group->end(), [&](Rank r) { return used(r, s); })
                         : used(at_.rank, s))
                    ? 1
                    : 0;
    return std::max<std::int64_t>(groups, 1);
  }

  const LowerContext& at_;
  const Op& op_;
  Step& out_;
};

}  // namespace

void lower(const LowerContext& at, const Op& op, const Call& call, Step& out) {
  std::visit(Lowering(at, op, out), call);
}

}  // namespace moesim::backend::gpu
