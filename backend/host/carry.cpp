// What a training step starts from: weights and optimizer states as the step before left them, or the model's own.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "backend/bind.hpp"
#include "backend/host/memory.hpp"

namespace moesim::backend {
namespace {

// Where the plan's experts are when it starts: an op that moves them says so.
Buffer at_start(const Plan& plan, BufferId id, Rank rank) {
  Buffer b = plan.buffer(id);
  for (const Op& op : plan.ops) {
    const auto* c = std::get_if<Collective>(&op.work);
    if (c == nullptr || c->kind != Collective::Kind::send_recv || !c->from.valid()) continue;
    if (std::find(op.writes.begin(), op.writes.end(), id) == op.writes.end()) continue;
    b.shard.placement = c->from;
    const auto member = static_cast<int>(membership(plan.groups[c->groups.index()], rank).member);
    b.rows = {plan.placements[c->from.index()].slots_on(Rank(member)) * b.shard.matrix_rows, {}};
  }
  return b;
}

// The experts of a rank's slots; empty for what is no placed stack.
std::vector<LogicalExpert> experts_of(const Plan& plan, const Buffer& b, Rank rank) {
  if (!b.shard.placement.valid()) return {};
  const ExpertPlacement& p = plan.placements[b.shard.placement.index()];
  const auto member = membership(plan.groups[b.shard.expert_groups.index()], rank).member;
  return {p.expert_of_slot.begin() + p.slot_begin[member], p.expert_of_slot.begin() + p.slot_begin[member + 1]};
}

}  // namespace

void RankMemory::keep(const Plan& plan, const Inputs& inputs, const StepBefore* before) {
  starts_.resize(plan.buffers.size());
  const auto begin = [&](BufferId id) -> Buffer {
    const Buffer b = at_start(plan, id, rank_);
    starts_[id.index()] = allocate(b.dtype, plan.rows(b.rows, rank_), b.cols);
    if (before != nullptr) carry(plan, b, starts_[id.index()], *before);
    return b;
  };
  for (const Op& op : plan.ops) {
    const auto* adam = std::get_if<Elementwise>(&op.work);
    if (adam == nullptr || adam->fn != Elementwise::Fn::adam) continue;
    for (std::size_t i = 0; i < op.reads.size() && i + op.reads.size() < op.writes.size(); ++i) {
      const BufferId weight = op.writes[i];
      const BufferId state = op.writes[i + op.reads.size()];
      const Buffer b = begin(weight);
      begin(state);
      const Tensor& w = starts_[weight.index()];
      const Tensor& s = starts_[state.index()];
      if (before != nullptr) continue;
      fill(plan, inputs, weight, b, w);
      if (w.dtype == DType::f32) continue;
      for (std::int64_t r = 0; r < w.rows; ++r)  // the master weight, in front of the moments
        to_float(w.at(r), w.dtype, w.cols, reinterpret_cast<float*>(s.at(r)));
    }
  }
  reset(plan);
}

void RankMemory::carry(const Plan& plan, const Buffer& b, const Tensor& t, const StepBefore& before) const {
  for (std::size_t i = 0; i < before.plan.buffers.size(); ++i) {
    const Buffer& old = before.plan.buffers[i];
    const Tensor& from = before.memory.tensor(BufferId(i));
    if (old.name != b.name || old.role != b.role) continue;
    if (from.rows != t.rows || from.cols != t.cols || from.dtype != t.dtype ||
        experts_of(before.plan, old, rank_) != experts_of(plan, b, rank_))
      throw Refused(fmt::format("rank {} starts the step with another part of '{}' than the step before left it",
                                rank_.value(), b.name));
    if (t.bytes() > 0) std::memcpy(t.data, from.data, static_cast<std::size_t>(t.bytes()));
    return;
  }
  throw Refused(fmt::format("the step before has no '{}'", b.name));
}

// Experts that come from elsewhere are not numbers until they are there.
void RankMemory::reset(const Plan& plan) {
  for (std::size_t i = 0; i < starts_.size(); ++i) {
    const Tensor& from = starts_[i];
    const Tensor& to = tensors_[i];
    if (from.data == nullptr || to.bytes() == 0) continue;
    const Buffer now = plan.buffers[i];
    const Buffer start = at_start(plan, BufferId(i), rank_);
    if (now.shard.placement == start.shard.placement) {
      std::memcpy(to.data, from.data, static_cast<std::size_t>(to.bytes()));
      continue;
    }
    const std::vector<LogicalExpert> here = experts_of(plan, now, rank_);
    const std::vector<LogicalExpert> had = experts_of(plan, start, rank_);
    const std::int64_t rows = now.shard.matrix_rows;
    const auto bytes = static_cast<std::size_t>(to.at(rows) - to.at(0));
    for (std::size_t s = 0; s < here.size(); ++s) {
      std::byte* slot = to.at(static_cast<std::int64_t>(s) * rows);
      const auto at = std::find(had.begin(), had.end(), here[s]);
      if (at == had.end()) {
        std::memset(slot, 0xff, bytes);
      } else {
        std::memcpy(slot, from.at((at - had.begin()) * rows), bytes);
      }
    }
  }
}

}  // namespace moesim::backend
