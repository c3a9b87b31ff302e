// Which experts each token uses: the router's decisions, synthetic or recorded, as an input to everything else.
//
// Tokens are numbered globally and belong to ranks in contiguous ranges (TokenRanges). A Routing is a pure function of
// (MoE layer, token): any range can be produced at any time, on any thread, with the same result. So 10^9 decisions
// need no memory, and counts are sums over one pass.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "moesim/ids.hpp"
#include "moesim/table.hpp"

namespace moesim {

using ExpertIndex = std::uint16_t;  // a LogicalExpert, packed; models have fewer than 65,536 experts

// Token ranges of the token owners: owner i holds tokens [begin[i], begin[i + 1]). Ranks that replicate the same tokens
// (tensor parallelism) share one owner.
struct TokenRanges {
  std::vector<std::int64_t> begin{0};
  [[nodiscard]] std::size_t owners() const { return begin.size() - 1; }
  [[nodiscard]] std::int64_t count(std::size_t owner) const { return begin[owner + 1] - begin[owner]; }
  [[nodiscard]] std::int64_t total() const { return begin.back(); }
  static TokenRanges even(std::int64_t total, std::size_t owners);  // earlier owners get the remainder
  friend bool operator==(const TokenRanges&, const TokenRanges&) = default;
};

class Routing {
 public:
  virtual ~Routing() = default;
  [[nodiscard]] virtual int moe_layers() const = 0;
  [[nodiscard]] virtual int experts() const = 0;
  [[nodiscard]] virtual int top_k() const = 0;
  [[nodiscard]] virtual std::int64_t tokens() const = 0;  // how many the routing can answer for
  [[nodiscard]] virtual bool synthetic() const = 0;       // reports label synthetic routing as such
  [[nodiscard]] virtual std::string description() const = 0;
  // Writes the top_k distinct experts of tokens [first, first + out.size() / top_k) of one MoE layer (counted over MoE
  // layers only), by falling gate weight. Thread-safe. out.size() is a multiple of top_k.
  virtual void assign(int moe_layer, std::int64_t first, std::span<ExpertIndex> out) const = 0;
  // Adds the copies of tokens [first, first + count) to row[expert] where that needs no pass over the tokens; false
  // where it does.
  [[nodiscard]] virtual bool count(int /*moe_layer*/, std::int64_t /*first*/, std::int64_t /*count*/,
                                   std::span<std::int32_t> /*row*/) const {
    return false;
  }
};

// tokens[owner, expert]: token copies that each owner sends to each logical expert at one layer.
// Row sums are count(owner) * top_k.
Table expert_counts(const Routing& routing, int moe_layer, const TokenRanges& ranges);

// tokens[owner, bin]: tokens of each owner that use at least one expert of the bin, each counted once.
// bin_of[expert] is in [0, bins) (a rank, a node); this is what a dispatch without duplicates sends.
Table distinct_counts(const Routing& routing, int moe_layer, const TokenRanges& ranges, std::span<const int> bin_of,
                      int bins);

}  // namespace moesim
