// What has to hold for an executor to trust a Plan: every id in range, dependencies pointing backward, counts adding
// up.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <set>
#include <type_traits>

#include "moesim/plan.hpp"

namespace moesim {
namespace {

class Checker {
 public:
  explicit Checker(const Plan& plan) : plan_(plan) {}

  std::vector<std::string> run() {
    header();
    for (std::size_t i = 0; i < plan_.tables.size(); ++i) table(i);
    for (std::size_t i = 0; i < plan_.groups.size(); ++i) groups(i);
    for (std::size_t i = 0; i < plan_.placements.size(); ++i) placement(i);
    if (!faults_.empty()) return std::move(faults_);  // what follows looks ranks up in them
    for (std::size_t i = 0; i < plan_.buffers.size(); ++i) buffer(i);
    if (!faults_.empty()) return std::move(faults_);
    for (std::size_t i = 0; i < plan_.ops.size(); ++i) op(i);
    return std::move(faults_);
  }

 private:
  template <class... Args>
  void fault(fmt::format_string<Args...> format, Args&&... args) {
    faults_.push_back(where_ + ": " + fmt::format(format, std::forward<Args>(args)...));
  }
  template <class Id>
  bool in_range(Id id, std::size_t size, const char* what) {
    if (id.valid() && id.index() < size) return true;
    fault("{} {} is out of range (there are {})", what, id.value(), size);
    return false;
  }
  // Products of a few sizes stay within 64 bits.
  static constexpr std::int64_t most = std::int64_t{1} << 40;
  void non_negative(std::int64_t v, const char* what) { between(v, 0, most, what); }
  void between(std::int64_t v, std::int64_t least, std::int64_t largest, const char* what) {
    if (v < least || v > largest) fault("{} is {}, outside {} to {}", what, v, least, largest);
  }
  void launch(const Launch& l) {
    between(l.kernels, 1, 100'000, "kernels");
    between(l.passes, 1, 1000, "passes");
  }
  bool rows(const Rows& r, const char* what) {
    if (r.table.value() >= 0) return in_range(r.table, plan_.tables.size(), what);
    non_negative(r.fixed, what);
    return true;
  }

  void header() {
    where_ = "plan";
    if (plan_.ranks < 1) fault("has {} ranks", plan_.ranks);
    const std::vector<std::int64_t>& begin = plan_.tokens.begin;
    if (begin.empty() || begin.front() != 0 || !std::is_sorted(begin.begin(), begin.end()))
      fault("token ranges do not rise from 0");
    if (plan_.owner_of_rank.size() != static_cast<std::size_t>(std::max(plan_.ranks, 0)))
      fault("owner_of_rank has {} entries for {} ranks", plan_.owner_of_rank.size(), plan_.ranks);
    if (!begin.empty()) between(begin.back(), 0, most, "the number of tokens");
    between(plan_.routed_copies, 0, std::numeric_limits<std::int64_t>::max(), "routed_copies");
    between(plan_.dropped_copies, 0, plan_.routed_copies, "dropped_copies");
    for (const int owner : plan_.owner_of_rank)
      if (owner < 0 || static_cast<std::size_t>(owner) >= plan_.tokens.owners())
        fault("token owner {} is out of range (there are {})", owner, plan_.tokens.owners());
  }

  void table(std::size_t i) {
    where_ = fmt::format("table {}", i);
    const Table& t = plan_.tables[i];
    if (t.rows() != 1 && t.rows() != plan_.ranks) fault("has {} rows for {} ranks", t.rows(), plan_.ranks);
    if (std::any_of(t.cells().begin(), t.cells().end(), [](std::int32_t c) { return c < 0; }))
      fault("holds a negative count");
  }

  void groups(std::size_t i) {
    where_ = fmt::format("groups {}", i);
    std::set<Rank> seen;
    for (const std::vector<Rank>& g : plan_.groups[i]) {
      if (g.empty()) fault("has an empty group");
      for (const Rank r : g) {
        in_range(r, static_cast<std::size_t>(std::max(plan_.ranks, 0)), "rank");
        if (!seen.insert(r).second) fault("rank {} is in it twice", r.value());
      }
    }
  }

  void placement(std::size_t i) {
    where_ = fmt::format("placement {}", i);
    const ExpertPlacement& p = plan_.placements[i];
    if (p.slot_begin.empty() || p.slot_begin.front() != 0 || p.slot_begin.back() != p.slots() ||
        !std::is_sorted(p.slot_begin.begin(), p.slot_begin.end()))
      fault("slot_begin does not rise from 0 to {}", p.slots());
    for (const LogicalExpert e : p.expert_of_slot)
      if (!e.valid()) fault("has a slot without an expert");
  }

  void buffer(std::size_t i) {
    const Buffer& b = plan_.buffers[i];
    where_ = fmt::format("buffer {} '{}'", i, b.name);
    const std::size_t before = faults_.size();
    rows(b.rows, "rows");
    non_negative(b.cols, "cols");
    shard(b);
    if (faults_.size() != before) return;
    try {
      for (int r = 0; r < plan_.ranks; ++r) static_cast<void>(plan_.bytes(b, Rank(r)));
    } catch (const std::overflow_error&) {
      fault("is larger than 2^63 bytes");
    }
  }

  void shard(const Buffer& b) {
    const Shard& s = b.shard;
    if (s == Shard{}) return;
    const bool sound = (!s.groups.valid() || in_range(s.groups, plan_.groups.size(), "groups")) &&
                       (!s.expert_groups.valid() || in_range(s.expert_groups, plan_.groups.size(), "groups")) &&
                       (!s.placement.valid() || in_range(s.placement, plan_.placements.size(), "placement"));
    non_negative(s.matrix_rows, "matrix_rows");
    non_negative(s.tensor_rows, "tensor_rows");
    std::int64_t cols = 0;
    for (const Shard::Section& part : s.sections) {
      if (part.cols < 0 || part.cols > b.cols || part.slices < 1)
        return fault("has a section of {} columns in {} slices", part.cols, part.slices);
      cols += part.cols;
    }
    if (!s.sections.empty() && cols != b.cols) fault("has sections of {} columns in all, and {} columns", cols, b.cols);
    if (s.placement.valid() != s.expert_groups.valid())
      return fault("places experts without groups, or groups without experts");
    if (!sound || !s.placement.valid()) return;
    if (!members_fit(s.expert_groups, s.placement)) return;
    const ExpertPlacement& p = plan_.placements[s.placement.index()];
    if (s.matrix_rows < 1) return fault("holds experts of {} rows", s.matrix_rows);
    for (const std::vector<Rank>& g : plan_.groups[s.expert_groups.index()])
      for (std::size_t j = 0; j < g.size(); ++j)
        if (plan_.rows(b.rows, g[j]) != s.matrix_rows * p.slots_on(Rank(j)))
          return fault("has {} rows on rank {}, which holds {} experts of {} rows", plan_.rows(b.rows, g[j]),
                       g[j].value(), p.slots_on(Rank(j)), s.matrix_rows);
  }

  // A placement is over the members of a group.
  bool members_fit(GroupsId groups, PlacementId placement) {
    const int members = plan_.placements[placement.index()].ranks();
    for (const std::vector<Rank>& g : plan_.groups[groups.index()])
      if (g.size() != static_cast<std::size_t>(members)) {
        fault("places experts on {} members of a group of {}", members, g.size());
        return false;
      }
    return true;
  }

  void op(std::size_t i) {
    const Op& op = plan_.ops[i];
    where_ = fmt::format("op {} '{}'", i, op.name);
    if (!names_.insert(op.name).second) fault("its name is taken by an earlier op");
    between(op.stream, 0, 63, "stream");
    between(op.layer.value(), -1, 100'000, "layer");
    for (const OpId a : op.after)
      if (!a.valid() || a.index() >= i) fault("depends on op {}, which does not come before it", a.value());
    for (const BufferId b : op.reads) in_range(b, plan_.buffers.size(), "buffer");
    for (const BufferId b : op.writes) in_range(b, plan_.buffers.size(), "buffer");
    const std::size_t before = faults_.size();
    std::visit([this](const auto& work) { check(work); }, op.work);
    const auto* collective = std::get_if<Collective>(&op.work);
    if (faults_.size() == before) {
      if (const auto* w = std::get_if<Permute>(&op.work)) moved(*w, op);
      if (const auto* w = std::get_if<Gemm>(&op.work)) multiplied(*w, op);
      if (const auto* w = std::get_if<GroupedGemm>(&op.work)) multiplied(*w, op);
    }
    if (collective != nullptr && faults_.size() == before && op.writes.size() == 1 &&
        op.writes.front().index() < plan_.buffers.size())
      delivered(*collective, plan_.buffer(op.writes.front()));
  }

  // Two operands and a product, by the columns that they have in each form. Attention's heads multiply parts of X, and
  // an X on the wire has scales behind its columns.
  template <class Product>
  void multiplied(const Product& w, const Op& op) {
    if (op.reads.size() < 2 || op.writes.empty()) return;  // a plan of costs alone
    for (const BufferId b : {op.reads[0], op.reads[1], op.writes[0]})
      if (!b.valid() || b.index() >= plan_.buffers.size()) return;  // said already
    const Buffer& a = plan_.buffer(op.reads[0]);
    const Buffer& b = plan_.buffer(op.reads[1]);
    const Buffer& out = plan_.buffer(op.writes[0]);
    std::int64_t batch = 1;
    if constexpr (std::is_same_v<Product, Gemm>) batch = w.batch;
    const auto cols = [&](const Buffer& x, std::int64_t wanted, bool exact, const char* what) {
      if (exact ? x.cols != wanted : x.cols < wanted)
        fault("{} has {} columns in its buffer '{}', and {} in the product", what, x.cols, x.name, wanted);
    };
    const auto rows_of = [&](Rank r) {
      if constexpr (std::is_same_v<Product, Gemm>)
        return plan_.rows(w.m, r);
      else
        return plan_.table(w.rows).row_sum(r.value());
    };
    const auto rows_fit = [&](const Buffer& x) {
      for (int r = 0; r < plan_.ranks; ++r)
        if (plan_.rows(x.rows, Rank(r)) != rows_of(Rank(r)))
          return fault("multiplies {} rows on rank {}, and its buffer '{}' has {}", rows_of(Rank(r)), r, x.name,
                       plan_.rows(x.rows, Rank(r)));
    };
    // A stack of matrices, or a table that is read as its transpose.
    const auto matrices_fit = [&](const Buffer& x) {
      if (x.cols != w.n && (x.cols != w.k || !std::is_same_v<Product, Gemm>))
        fault("its weights have {} columns in '{}', and {} in the product", x.cols, x.name, w.n);
    };
    switch (w.form) {
      case Gemm::Form::forward:
        cols(a, batch * w.k, false, "X");
        cols(out, batch * w.n, true, "Y");
        break;
      case Gemm::Form::input_gradient:
        cols(a, w.n, true, "dY");
        cols(out, w.k, true, "dX");
        break;
      case Gemm::Form::weight_gradient:
        cols(a, w.k, true, "X");
        cols(b, w.n, true, "dY");
        break;
    }
    const bool weight_gradient = w.form == Gemm::Form::weight_gradient;
    const Buffer& weight = weight_gradient ? out : b;
    matrices_fit(weight);
    rows_fit(a);
    rows_fit(weight_gradient ? b : out);
    if (weight.dtype != w.weight)
      fault("multiplies weights of {}, and '{}' holds {}", to_string(w.weight), weight.name, to_string(weight.dtype));
    if constexpr (std::is_same_v<Product, GroupedGemm>) {
      const Table& groups = plan_.table(w.rows);
      for (int r = 0; r < plan_.ranks; ++r) {
        const auto row = groups.row(r);
        for (std::size_t g = 0; g < row.size(); ++g)
          if (row[g] > 0 && (static_cast<std::int64_t>(g) % w.matrices + 1) * w.k > plan_.rows(weight.rows, Rank(r)))
            return fault("group {} has rows on rank {}, whose '{}' has no matrix for it", g, r, weight.name);
      }
    }
  }

  void moved(const Permute& w, const Op& op) {
    const auto known = [&](const std::vector<BufferId>& b) {
      return !b.empty() && b.front().valid() && b.front().index() < plan_.buffers.size();
    };
    if (!known(op.reads) || !known(op.writes)) return;
    if (const Buffer& out = plan_.buffer(op.writes.front()); out.cols != w.cols)
      fault("moves rows of {} columns, and its buffer '{}' has {}", w.cols, out.name, out.cols);
    const auto same = [&](const Rows& work, BufferId buffer, const char* what) {
      const Buffer& b = plan_.buffer(buffer);
      for (int r = 0; r < plan_.ranks; ++r)
        if (plan_.rows(work, Rank(r)) != plan_.rows(b.rows, Rank(r)))
          return fault("{} {} rows on rank {}, and its buffer '{}' has {}", what, plan_.rows(work, Rank(r)), r, b.name,
                       plan_.rows(b.rows, Rank(r)));
    };
    same(w.rows_in, op.reads.front(), "reads");
    same(w.rows_out, op.writes.front(), "writes");
  }

  // What a collective delivers fills its output. The output may shape the elements otherwise (the vocabulary of a
  // head).
  void delivered(const Collective& w, const Buffer& out) {
    if (out.dtype != w.dtype) return fault("delivers {} to a buffer of {}", to_string(w.dtype), to_string(out.dtype));
    for (const std::vector<Rank>& g : plan_.groups[w.groups.index()])
      for (std::size_t j = 0; j < g.size(); ++j) {
        const std::int64_t rows = rows_delivered(w, g, j);
        if (w.kind == Collective::Kind::reduce && j != static_cast<std::size_t>(w.root)) continue;
        if (rows * w.cols == plan_.rows(out.rows, g[j]) * out.cols) continue;
        return fault("delivers {} rows of {} to rank {}, where its output has {} of {}", rows, w.cols, g[j].value(),
                     plan_.rows(out.rows, g[j]), out.cols);
      }
  }

  std::int64_t rows_delivered(const Collective& w, const std::vector<Rank>& g, std::size_t member) {
    std::int64_t sum = 0;
    switch (w.kind) {
      case Collective::Kind::all_to_all_v:
      case Collective::Kind::send_recv:
        for (const Rank r : g) sum += plan_.table(w.counts).at(r.value(), static_cast<int>(member));
        return sum;
      case Collective::Kind::all_gather_v:
        for (const Rank r : g) sum += plan_.table(w.counts).row_sum(r.value());
        return sum;
      case Collective::Kind::reduce:
      case Collective::Kind::broadcast:
      case Collective::Kind::all_reduce:
      case Collective::Kind::reduce_scatter_v:
        return plan_.table(w.counts).row_sum(g[member].value());
      case Collective::Kind::sparse_all_gather:
      case Collective::Kind::sparse_reduce_scatter:
        return plan_.placements[w.to.index()].slots_on(Rank(member));
    }
    return 0;
  }

  void check(const Gemm& w) {
    rows(w.m, "m");
    between(w.batch, 1, 1'000'000, "batch");
    non_negative(w.n, "n");
    non_negative(w.k, "k");
  }
  void check(const GroupedGemm& w) {
    non_negative(w.n, "n");
    non_negative(w.k, "k");
    launch(w.launch);
    if (!in_range(w.rows, plan_.tables.size(), "table")) return;
    const int groups = plan_.table(w.rows).cols();
    if (w.matrices < 1 || groups % w.matrices != 0)
      fault("{} groups of rows do not divide over {} matrices", groups, w.matrices);
  }
  void check(const AttentionCore& w) {
    rows(w.sequences, "sequences");
    if (w.causal && w.kv_len < w.q_len) fault("kv_len {} is below q_len {}", w.kv_len, w.q_len);
    for (const std::int64_t v : {w.q_len, w.kv_len}) between(v, 0, std::int64_t{1} << 30, "a length");
    for (const std::int64_t v : {w.heads, w.kv_heads, w.qk_dim, w.v_dim}) between(v, 1, 1'000'000, "a head's size");
    for (const std::int64_t v : {w.kv_cols, w.window}) non_negative(v, "a size");
  }
  void check(const Elementwise& w) {
    rows(w.rows, "rows");
    non_negative(w.read_cols, "read_cols");
    non_negative(w.write_cols, "write_cols");
    non_negative(w.flops_per_row, "flops_per_row");
  }
  void check(const Copy& w) {
    rows(w.rows, "rows");
    non_negative(w.cols, "cols");
  }
  void check(const HostSync&) {}

  void check(const Permute& w) {
    const bool sound = rows(w.rows_in, "rows_in") && rows(w.rows_out, "rows_out") &&
                       in_range(w.routed, plan_.tables.size(), "table") &&
                       in_range(w.groups, plan_.groups.size(), "groups") &&
                       (!w.placement.valid() || in_range(w.placement, plan_.placements.size(), "placement"));
    non_negative(w.cols, "cols");
    non_negative(w.capacity, "capacity");
    between(w.moe_layer, 0, 100'000, "moe_layer");
    launch(w.launch);
    if (!sound || plan_.ranks < 1) return;
    const Table& routed = plan_.table(w.routed);
    if (w.placement.valid() && plan_.placements[w.placement.index()].slots() != routed.cols())
      return fault("routes to {} slots where the placement has {}", routed.cols(),
                   plan_.placements[w.placement.index()].slots());
    if (w.placement.valid() && !members_fit(w.groups, w.placement)) return;
    if (w.shares < 1) return fault("divides tokens into {} shares", w.shares);
    for (int r = 0; r < plan_.ranks && w.shares > 1; ++r) {
      const int owner = plan_.owner_of_rank[static_cast<std::size_t>(r)];
      if (const auto n = std::ranges::count(plan_.owner_of_rank, owner); n != w.shares)
        return fault("divides the tokens of owner {} into {} shares for its {} ranks", owner, w.shares, n);
    }
    if (w.from != RowOrder::token && w.to != RowOrder::token) return;  // receiver side: checked through the exchange
    // At the token's owner: token rows are the owner's, copies are the routed ones (or the capacity of every slot).
    const bool out = w.from == RowOrder::token;
    const RowOrder copies = out ? w.to : w.from;
    for (int r = 0; r < plan_.ranks; ++r) {
      const Rank rank(r);
      const std::int64_t tokens = plan_.tokens.count(static_cast<std::size_t>(plan_.owner_of_rank[rank.index()]));
      const std::int64_t at_token = plan_.rows(out ? w.rows_in : w.rows_out, rank);
      if (at_token != tokens) return fault("has {} token rows on rank {} which owns {} tokens", at_token, r, tokens);
      if (copies != RowOrder::by_slot) continue;
      const std::int64_t routed_rows = w.capacity > 0 ? w.capacity * routed.cols() : routed.row_sum(r);
      const std::int64_t at_copies = plan_.rows(out ? w.rows_out : w.rows_in, rank);
      if (at_copies != routed_rows)
        return fault("has {} copies on rank {}, but {} are routed", at_copies, r, routed_rows);
    }
  }

  // No more rows cross than there are.
  void check_islands(const Collective& w) {
    if (!in_range(w.island_rows, plan_.tables.size(), "table")) return;
    const Table& counts = plan_.table(w.counts);
    for (const std::vector<Rank>& g : plan_.groups[w.groups.index()])
      for (std::size_t i = 0; i < g.size(); ++i) {
        std::int64_t rows = 0;
        for (std::size_t j = 0; j < g.size(); ++j)
          rows +=
              w.returns ? counts.at(g[j].value(), static_cast<int>(i)) : counts.at(g[i].value(), static_cast<int>(j));
        if (const std::int64_t cross = plan_.table(w.island_rows).row_sum(g[i].value()); cross > rows)
          return fault("{} rows of rank {} cross, but it exchanges {}", cross, g[i].value(), rows);
      }
  }

  // Every chunk that is wanted comes from somebody.
  void owned(const ExpertPlacement& from, const ExpertPlacement& to) {
    const std::set<LogicalExpert> held(from.expert_of_slot.begin(), from.expert_of_slot.end());
    for (int s = 0; s < to.slots(); ++s)
      if (const LogicalExpert e = to.expert_of_slot[static_cast<std::size_t>(s)]; held.count(e) == 0)
        return fault("wants expert {} in slot {}, and no rank holds it before", e.value(), s);
  }

  void check(const Collective& w) {
    if (!in_range(w.groups, plan_.groups.size(), "groups")) return;
    const Groups& groups = plan_.groups[w.groups.index()];
    non_negative(w.cols, "cols");
    switch (w.kind) {
      case Collective::Kind::sparse_all_gather:
      case Collective::Kind::sparse_reduce_scatter:
        if (in_range(w.from, plan_.placements.size(), "placement") && members_fit(w.groups, w.from) &&
            in_range(w.to, plan_.placements.size(), "placement") && members_fit(w.groups, w.to))
          owned(plan_.placements[w.from.index()], plan_.placements[w.to.index()]);
        return;
      case Collective::Kind::all_to_all_v:
      case Collective::Kind::send_recv:
        if (!in_range(w.counts, plan_.tables.size(), "table")) return;
        for (const std::vector<Rank>& g : groups)
          if (g.size() != static_cast<std::size_t>(plan_.table(w.counts).cols()))
            return fault("a group of {} ranks exchanges {} counts", g.size(), plan_.table(w.counts).cols());
        if (w.island_rows.valid()) check_islands(w);
        return;
      case Collective::Kind::all_reduce:
      case Collective::Kind::broadcast:
      case Collective::Kind::reduce:
        if (!in_range(w.counts, plan_.tables.size(), "table")) return;
        for (const std::vector<Rank>& g : groups) {
          if (w.root < 0 || static_cast<std::size_t>(w.root) >= g.size())
            return fault("root {} is not a member of a group of {}", w.root, g.size());
          for (const Rank r : g)
            if (plan_.table(w.counts).row_sum(r.value()) != plan_.table(w.counts).row_sum(g.front().value()))
              return fault("ranks {} and {} of one group have different numbers of rows", g.front().value(), r.value());
        }
        return;
      case Collective::Kind::all_gather_v:
      case Collective::Kind::reduce_scatter_v:
        in_range(w.counts, plan_.tables.size(), "table");
        return;
    }
  }

  const Plan& plan_;
  std::string where_;
  std::set<std::string> names_;
  std::vector<std::string> faults_;
};

}  // namespace

std::vector<std::string> faults(const Plan& plan) { return Checker(plan).run(); }

}  // namespace moesim
