// A Plan for people: what one rank does, in order, and what it holds.
#include <fmt/format.h>

#include <iterator>

#include "moesim/plan.hpp"
#include "plan/names.hpp"
#include "support/text.hpp"

namespace moesim {
namespace {

// The shape of an op's work on one rank.
class Shape {
 public:
  Shape(const Plan& plan, Rank rank) : plan_(plan), rank_(rank) {}

  std::string operator()(const Gemm& w) const {
    return fmt::format("[{}, {}] x [{}, {}] {}", rows(w.m), w.k, w.k, w.n, to_string(w.math));
  }
  std::string operator()(const GroupedGemm& w) const {
    const auto m = plan_.table(w.rows).row(rank_.value());
    std::int64_t active = 0;
    for (const std::int32_t rows : m) active += rows > 0 ? 1 : 0;
    return fmt::format("{} rows in {} of {} groups, [., {}] x [{}, {}] {}{}{}",
                       plan_.table(w.rows).row_sum(rank_.value()), active, m.size(), w.k, w.k, w.n, to_string(w.math),
                       w.block_sparse ? ", block-sparse" : "",
                       w.launch.per_group ? fmt::format(", {} kernels a group", w.launch.kernels) : "");
  }
  std::string operator()(const AttentionCore& w) const {
    return fmt::format("{} sequences, {} queries on {} keys{}, {} heads of {}/{}", rows(w.sequences), w.q_len, w.kv_len,
                       w.causal ? " (causal)" : "", w.heads, w.qk_dim, w.v_dim);
  }
  std::string operator()(const Elementwise& w) const {
    return fmt::format("{} rows, {} in, {} out, {}", rows(w.rows), w.read_cols, w.write_cols, to_string(w.dtype));
  }
  std::string operator()(const Permute& w) const {
    return fmt::format("{} -> {}, {} -> {} rows of {} {}{}{}{}", name_of(row_order_names, w.from),
                       name_of(row_order_names, w.to), rows(w.rows_in), rows(w.rows_out), w.cols, to_string(w.dtype),
                       w.capacity > 0 ? fmt::format(", capacity {}", w.capacity) : "",
                       w.shares > 1 ? fmt::format(", a {}th of the tokens", w.shares) : "",
                       w.launch.per_group ? fmt::format(", {} kernels a group", w.launch.kernels) : "");
  }
  std::string operator()(const Copy& w) const {
    return fmt::format("{}, {} rows of {} {}", name_of(copy_direction_names, w.direction), rows(w.rows), w.cols,
                       to_string(w.dtype));
  }
  std::string operator()(const HostSync&) const { return "the host waits for the device"; }
  std::string operator()(const Collective& w) const {
    const Traffic t = traffic(plan_, w, rank_);
    const Groups& groups = plan_.groups[w.groups.index()];
    return fmt::format("{} group{} of {}, {} out, {} in", groups.size(), groups.size() == 1 ? "" : "s",
                       groups.front().size(), human(t.sent), human(t.received));
  }

 private:
  [[nodiscard]] std::int64_t rows(const Rows& r) const { return plan_.rows(r, rank_); }
  const Plan& plan_;
  Rank rank_;
};

}  // namespace

std::string describe(const Plan& plan, Rank rank) {
  std::string out;
  const auto line = std::back_inserter(out);
  fmt::format_to(line, "plan of {} for {} on {} ranks: {}\n", plan.strategy, plan.model, plan.ranks, plan.workload);
  fmt::format_to(line, "routing: {}{}\n", plan.routing, plan.routing_synthetic ? " (synthetic)" : "");
  for (const auto& [key, value] : plan.options) fmt::format_to(line, "option {} = {}\n", key, value);
  fmt::format_to(line, "{} ops, {} buffers, {} tables; what rank {} does:\n\n", plan.ops.size(), plan.buffers.size(),
                 plan.tables.size(), rank.value());
  std::size_t width = 0;
  for (const Op& op : plan.ops) width = std::max(width, op.name.size());
  for (std::size_t i = 0; i < plan.ops.size(); ++i) {
    const Op& op = plan.ops[i];
    fmt::format_to(line, "{:>5}  s{}  {:<{}}  {:<16} {}", i, op.stream, op.name, width, to_string(op.work),
                   std::visit(Shape(plan, rank), op.work));
    for (std::size_t a = 0; a < op.after.size(); ++a)
      fmt::format_to(line, "{}{}", a == 0 ? "  after " : ",", op.after[a].value());
    out += '\n';
  }
  const MemoryPeak peak = memory_peak(plan, rank);
  fmt::format_to(line, "\npeak memory of rank {}: {}{}\n", rank.value(), human_binary(peak.total),
                 peak.at.valid() ? fmt::format(", during {}", plan.op(peak.at).name) : "");
  for (const auto& [role, bytes] : peak.by_role)
    fmt::format_to(line, "  {:<14} {:>12}\n", to_string(role), human_binary(bytes));
  return out;
}

}  // namespace moesim
