// What a Permute does to rows, worked out from the routing: for every row of the output, which rows of the input it is
// the weighted sum of. docs/plan_format.md, "Row orders", is the definition.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "backend/executor.hpp"
#include "moesim/plan.hpp"

namespace moesim::backend {

struct RowMap {
  std::vector<std::int64_t> begin{0};  // output row i sums terms [begin[i], begin[i + 1]); none = zeros
  std::vector<std::int32_t> from;      // input rows
  std::vector<float> weight;           // of each term; empty: all 1
  std::vector<std::int32_t> gate;  // of each weighted term: which element of the choice [tokens, 2 top_k] weights it
  [[nodiscard]] std::int64_t rows() const { return static_cast<std::int64_t>(begin.size()) - 1; }
};

class RowMaps {
 public:
  // The plan and the routing outlive it.
  RowMaps(const Plan& plan, const Inputs& inputs) : plan_(plan), inputs_(inputs) {}
  // Throws Refused, naming the op, when the routing's counts are not the plan's.
  RowMap of(const Op& op, const Permute& work, Rank rank);

  // What `rank` tells its group when it exchanges the counts of a Permute's routing: a row for each member with the
  // copies for its slots, `cols` wide; or (per_slot = false) one row with the copies for every slot.
  [[nodiscard]] std::vector<std::int32_t> counts(const Permute& work, Rank rank, std::int64_t cols,
                                                 bool per_member) const;

 private:
  // One copy of a token on its way to an expert.
  struct Copy {
    int member;          // whose token it is
    int slot;            // where it goes
    std::int64_t token;  // of the member's tokens
    std::int64_t index;  // among the copies of this member for this slot
    float gate;
    std::int32_t element;  // of the choice, that holds its gate
  };
  // Choices of one owner's tokens at one MoE layer: [tokens, top_k].
  const std::vector<ExpertIndex>& choices(int moe_layer, int owner);
  // The copies of one rank's tokens, without those past the capacity; checks them against the plan's counts.
  std::vector<Copy> copies(const Op& op, const Permute& work, Rank rank, int member);

  const Plan& plan_;
  const Inputs inputs_;
  std::map<std::pair<int, int>, std::vector<ExpertIndex>> choices_;
};

}  // namespace moesim::backend
