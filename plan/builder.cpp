#include "plan/builder.hpp"

#include <algorithm>
#include <stdexcept>

namespace moesim {
namespace {

std::size_t hash(const Table& t) {
  std::uint64_t h = 0xcbf29ce484222325ULL;  // FNV-1a
  const auto mix = [&h](std::int64_t v) { h = (h ^ static_cast<std::uint64_t>(v)) * 0x100000001b3ULL; };
  mix(t.rows());
  mix(t.cols());
  for (const std::int32_t c : t.cells()) mix(c);
  return static_cast<std::size_t>(h);
}

template <class Id, class T>
Id intern(std::vector<T>& all, const T& item) {
  const auto found = std::find(all.begin(), all.end(), item);
  if (found != all.end()) return Id(static_cast<std::size_t>(found - all.begin()));
  all.push_back(item);
  return Id(all.size() - 1);
}

}  // namespace

PlanBuilder::PlanBuilder(Plan header) : plan_(std::move(header)) {}

TableId PlanBuilder::table(Table table) {
  std::vector<TableId>& same_hash = tables_by_hash_[hash(table)];
  for (const TableId id : same_hash)
    if (plan_.table(id) == table) return id;
  plan_.tables.push_back(std::move(table));
  same_hash.emplace_back(plan_.tables.size() - 1);
  return same_hash.back();
}

GroupsId PlanBuilder::groups(const Groups& groups) { return intern<GroupsId>(plan_.groups, groups); }

PlacementId PlanBuilder::placement(const ExpertPlacement& placement) {
  return intern<PlacementId>(plan_.placements, placement);
}

BufferId PlanBuilder::buffer(Buffer buffer) {
  plan_.buffers.push_back(std::move(buffer));
  uses_.emplace_back();
  return BufferId(plan_.buffers.size() - 1);
}

OpId PlanBuilder::add(Op op) {
  const OpId id(plan_.ops.size());
  const auto depend = [&](OpId on) {
    if (on.valid() && plan_.op(on).stream != op.stream) op.after.push_back(on);
  };
  for (const BufferId b : op.reads) depend(uses_[b.index()].writer);
  for (const BufferId b : op.writes) {
    depend(uses_[b.index()].writer);
    for (const OpId reader : uses_[b.index()].readers) depend(reader);
  }
  std::sort(op.after.begin(), op.after.end());
  op.after.erase(std::unique(op.after.begin(), op.after.end()), op.after.end());
  for (const BufferId b : op.reads) uses_[b.index()].readers.push_back(id);
  for (const BufferId b : op.writes) uses_[b.index()] = Uses{id, {}};
  plan_.ops.push_back(std::move(op));
  return id;
}

void PlanBuilder::count_copies(std::int64_t routed, std::int64_t dropped) {
  plan_.routed_copies += routed;
  plan_.dropped_copies += dropped;
}

Plan PlanBuilder::finish() && {
  const std::vector<std::string> found = faults(plan_);
  if (!found.empty()) {
    std::string message = "strategy '" + plan_.strategy + "' made an unsound plan:";
    for (const std::string& f : found) message += "\n  " + f;
    throw std::logic_error(message);
  }
  return std::move(plan_);
}

}  // namespace moesim
