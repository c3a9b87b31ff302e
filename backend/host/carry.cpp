// What a training step starts from: weights and optimizer states as the step before left them, or the model's own.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "backend/bind.hpp"
#include "backend/host/memory.hpp"

namespace moesim::backend {

void RankMemory::keep(const Plan& plan, const Inputs& inputs, const StepBefore* before) {
  starts_.resize(plan.buffers.size());
  const auto begin = [&](BufferId id) -> Buffer {
    const Buffer b = at_start(plan, id, rank_);
    starts_[id.index()] = allocate(b.dtype, plan.rows(b.rows, rank_), b.cols);
    if (before != nullptr) carry(plan, b, starts_[id.index()], *before);
    return b;
  };
  for (const auto& [weight, state] : updated(plan)) {
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
