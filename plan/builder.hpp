// Builds a Plan: interns tables and groups, and derives dependencies between streams from what ops read and write.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "moesim/plan.hpp"

namespace moesim {

class PlanBuilder {
 public:
  // `header` carries everything but tables, groups, placements, buffers and ops.
  explicit PlanBuilder(Plan header);

  // Equal tables, groups and placements get one id.
  TableId table(Table table);
  GroupsId groups(const Groups& groups);
  PlacementId placement(const ExpertPlacement& placement);

  BufferId buffer(Buffer buffer);
  // Fills in op.after: the last writers of what it reads, and the last writer and readers of what it writes, as far as
  // they run on another stream (ops of one stream run in plan order anyway).
  OpId add(Op op);

  // Adds to the plan's totals of routed and dropped token copies.
  void count_copies(std::int64_t routed, std::int64_t dropped);

  // Adds to the plan's options what a strategy found out by itself.
  void describe(const std::map<std::string, std::string>& facts) { plan_.options.insert(facts.begin(), facts.end()); }

  [[nodiscard]] const Plan& plan() const { return plan_; }
  // The finished plan. Throws std::logic_error with all faults(): a strategy made them.
  [[nodiscard]] Plan finish() &&;

 private:
  struct Uses {
    OpId writer;
    std::vector<OpId> readers;  // since the last write
  };
  Plan plan_;
  std::vector<Uses> uses_;  // by buffer
  std::unordered_map<std::size_t, std::vector<TableId>> tables_by_hash_;
};

}  // namespace moesim
