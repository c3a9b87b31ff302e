// Experts cut by columns of their first and rows of their second matrix (expert tensor sharding): every rank holds a
// slice of every expert and computes a partial sum for all rows it is given.
#pragma once

#include <string>

#include "strategies/transformer.hpp"

namespace moesim::strategies {

class SlicedExperts {
 public:
  enum class Kernel {
    per_group,     // a GEMM per group of rows
    fused,         // one grouped GEMM
    block_sparse,  // one launch over 128 x 128 blocks (MegaBlocks, arXiv 2211.15841)
  };
  // rows: [ranks or 1, groups], groups a multiple of the experts: the same experts again for every source.
  // A rank's slice is its position in its group of `groups`.
  SlicedExperts(Transformer& t, const MoeLayer& moe, GroupsId groups, TableId rows, Kernel kernel);

  // x [sum of rows, hidden] in the order of the groups -> partial sums [sum of rows, hidden].
  [[nodiscard]] BufferId compute(BufferId x) const;

 private:
  [[nodiscard]] BufferId gemm(const char* name, BufferId x, std::int64_t n, std::int64_t k, Shard shard) const;

  Transformer& t_;
  const MoeLayer& moe_;
  GroupsId groups_;
  int slices_;
  std::int64_t columns_;  // of one expert on one rank
  TableId rows_;
  Kernel kernel_;
};

}  // namespace moesim::strategies
