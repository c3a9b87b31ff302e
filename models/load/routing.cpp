// Counting: one pass over the decisions, in chunks that fit the cache.
#include "moesim/routing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <stdexcept>

#include "support/parallel.hpp"

namespace moesim {
namespace {

constexpr std::int64_t task_tokens = 1 << 14;   // per parallel task
constexpr std::int64_t block_tokens = 1 << 10;  // per call of assign

void check(const Routing& routing, int moe_layer, const TokenRanges& ranges) {
  if (moe_layer < 0 || moe_layer >= routing.moe_layers())
    throw std::invalid_argument(fmt::format("MoE layer {} of a routing with {}", moe_layer, routing.moe_layers()));
  if (!std::is_sorted(ranges.begin.begin(), ranges.begin.end()) || ranges.begin.empty() || ranges.begin.front() < 0)
    throw std::invalid_argument("token ranges are not in order");
  if (ranges.total() > routing.tokens())
    throw std::invalid_argument(
        fmt::format("token ranges reach {}, the routing has {} tokens", ranges.total(), routing.tokens()));
  for (std::size_t o = 0; o < ranges.owners(); ++o)
    if (ranges.count(o) > std::numeric_limits<std::int32_t>::max())
      throw std::invalid_argument(
          fmt::format("owner {} has {} tokens: more than a table can count", o, ranges.count(o)));
}

// Calls count(experts of some tokens, row) for every token of every owner. A row that one task alone meets is the
// table's own; one that several share is counted aside and added atomically: sums of integers have no order.
template <class MakeCounter>
void for_each_block(const Routing& routing, int moe_layer, const TokenRanges& ranges, Table& table,
                    const MakeCounter& make_counter) {
  const auto k = static_cast<std::size_t>(routing.top_k());
  const std::int64_t begin = ranges.begin.front();
  const auto tasks = static_cast<int>((ranges.total() - begin + task_tokens - 1) / task_tokens);
  parallel_for(tasks, [&](int task) {
    auto count = make_counter();
    std::vector<ExpertIndex> ids(static_cast<std::size_t>(block_tokens) * k);
    std::vector<std::int32_t> aside(static_cast<std::size_t>(table.cols()));
    const std::int64_t from = begin + task * task_tokens;
    const std::int64_t to = std::min(from + task_tokens, ranges.total());
    auto owner = static_cast<std::size_t>(std::upper_bound(ranges.begin.begin(), ranges.begin.end(), from) -
                                          ranges.begin.begin() - 1);
    for (std::int64_t at = from; at < to; ++owner) {
      const std::int64_t end = std::min(to, ranges.begin[owner + 1]);
      const bool whole = ranges.begin[owner] >= from && ranges.begin[owner + 1] <= to;
      const std::span<std::int32_t> row = table.row(static_cast<int>(owner));
      const std::span<std::int32_t> target = whole ? row : std::span(aside);
      while (at < end) {
        const std::int64_t n = std::min(block_tokens, end - at);
        const std::span<ExpertIndex> block(ids.data(), static_cast<std::size_t>(n) * k);
        routing.assign(moe_layer, at, block);
        count(std::span<const ExpertIndex>(block), target);
        at += n;
      }
      if (whole) continue;
      for (std::size_t c = 0; c < aside.size(); ++c)
        std::atomic_ref(row[c]).fetch_add(aside[c], std::memory_order_relaxed);
      std::fill(aside.begin(), aside.end(), 0);
    }
  });
}

}  // namespace

TokenRanges TokenRanges::even(std::int64_t total, std::size_t owners) {
  if (owners == 0 || total < 0)
    throw std::invalid_argument(fmt::format("{} tokens cannot be dealt to {} owners", total, owners));
  TokenRanges out;
  const auto n = static_cast<std::int64_t>(owners);
  for (std::int64_t i = 1; i <= n; ++i) out.begin.push_back(i * (total / n) + std::min(i, total % n));
  return out;
}

Table expert_counts(const Routing& routing, int moe_layer, const TokenRanges& ranges) {
  check(routing, moe_layer, ranges);
  Table table(static_cast<int>(ranges.owners()), routing.experts());
  bool counted = true;
  for (std::size_t o = 0; o < ranges.owners() && counted; ++o)
    counted = routing.count(moe_layer, ranges.begin[o], ranges.count(o), table.row(static_cast<int>(o)));
  if (counted) return table;
  for_each_block(routing, moe_layer, ranges, table, [] {
    return [](std::span<const ExpertIndex> ids, std::span<std::int32_t> row) {
      for (const ExpertIndex e : ids) ++row[e];
    };
  });
  return table;
}

Table distinct_counts(const Routing& routing, int moe_layer, const TokenRanges& ranges, std::span<const int> bin_of,
                      int bins) {
  check(routing, moe_layer, ranges);
  if (bin_of.size() != static_cast<std::size_t>(routing.experts()))
    throw std::invalid_argument(fmt::format("{} bins given for {} experts", bin_of.size(), routing.experts()));
  for (const int b : bin_of)
    if (b < 0 || b >= bins) throw std::invalid_argument(fmt::format("bin {} is not in [0, {})", b, bins));

  const auto k = static_cast<std::size_t>(routing.top_k());
  Table table(static_cast<int>(ranges.owners()), bins);
  for_each_block(routing, moe_layer, ranges, table, [&] {
    // last[bin] is the serial number of the last token that used it, so that nothing has to be cleared per token.
    return [&, k, serial = std::uint32_t{0}, last = std::vector<std::uint32_t>(static_cast<std::size_t>(bins))](
               std::span<const ExpertIndex> ids, std::span<std::int32_t> row) mutable {
      for (std::size_t i = 0; i < ids.size(); i += k) {
        ++serial;  // a task has fewer than 2^32 tokens
        for (const ExpertIndex e : ids.subspan(i, k)) {
          const auto b = static_cast<std::size_t>(bin_of[e]);
          row[b] += last[b] != serial ? 1 : 0;
          last[b] = serial;
        }
      }
    };
  });
  return table;
}

}  // namespace moesim
