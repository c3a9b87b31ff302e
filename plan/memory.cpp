// Peak memory by liveness: a buffer of a persistent role lives through the whole plan, any other from the first op that
// writes it to the last op that touches it. Peak = max over ops of the sum of what is alive during the op.
#include <algorithm>
#include <vector>

#include "moesim/plan.hpp"

namespace moesim {
namespace {

bool persistent(const Buffer& b) {
  return b.role == BufferRole::weight || b.role == BufferRole::optimizer || b.role == BufferRole::kv_cache;
}

struct Lifetime {
  OpId first;
  OpId last;
};

std::vector<Lifetime> lifetimes(const Plan& plan) {
  std::vector<Lifetime> out(plan.buffers.size());
  for (std::size_t i = 0; i < plan.ops.size(); ++i) {
    const OpId id(i);
    const auto touch = [&](const std::vector<BufferId>& buffers) {
      for (const BufferId b : buffers) {
        Lifetime& life = out[b.index()];
        if (!life.first.valid()) life.first = id;
        life.last = id;
      }
    };
    touch(plan.ops[i].reads);
    touch(plan.ops[i].writes);
  }
  return out;
}

// By buffer: where a gathered stack came from. Invalid for others.
std::vector<PlacementId> sources(const Plan& plan) {
  std::vector<PlacementId> out(plan.buffers.size());
  for (const Op& op : plan.ops) {
    const auto* c = std::get_if<Collective>(&op.work);
    if (c == nullptr || c->kind != Collective::Kind::sparse_all_gather || op.reads.empty()) continue;
    for (const BufferId b : op.writes)
      if (plan.buffer(b).role == BufferRole::gathered) out[b.index()] = plan.buffer(op.reads.front()).shard.placement;
  }
  return out;
}

// A gathered stack is pointers to matrices: the rank's own experts stay where they are, and copies take room.
Bytes room(const Plan& plan, const Buffer& b, PlacementId source, Rank rank) {
  const Bytes all = plan.bytes(b, rank);
  if (!source.valid() || !b.shard.placement.valid()) return all;
  std::size_t member = 0;
  for (const std::vector<Rank>& g : plan.groups[b.shard.expert_groups.index()])
    if (const auto at = std::find(g.begin(), g.end(), rank); at != g.end())
      member = static_cast<std::size_t>(at - g.begin());
  const ExpertPlacement& own = plan.placements[source.index()];
  const ExpertPlacement& stack = plan.placements[b.shard.placement.index()];
  const auto slots = [member](const ExpertPlacement& p) {
    return std::pair(p.expert_of_slot.begin() + p.slot_begin[member],
                     p.expert_of_slot.begin() + p.slot_begin[member + 1]);
  };
  const auto [first, last] = slots(stack);
  const auto [own_first, own_last] = slots(own);
  const auto here = std::count_if(first, last, [own_first = own_first, own_last = own_last](LogicalExpert e) {
    return std::find(own_first, own_last, e) != own_last;
  });
  return last == first ? all : all - all / (last - first) * here;
}

MemoryPeak peak_of(const Plan& plan, const std::vector<Lifetime>& lives, const std::vector<PlacementId>& from,
                   Rank rank) {
  Bytes resident;
  std::vector<std::int64_t> delta(plan.ops.size() + 1);
  std::vector<Bytes> size(plan.buffers.size());
  for (std::size_t i = 0; i < plan.buffers.size(); ++i) {
    const Buffer& b = plan.buffers[i];
    if (b.location != Location::device) continue;
    size[i] = room(plan, b, from[i], rank);
    if (persistent(b)) {
      resident += size[i];
    } else if (lives[i].first.valid()) {
      delta[lives[i].first.index()] += size[i].value();
      delta[lives[i].last.index() + 1] -= size[i].value();
    }
  }
  std::int64_t alive = 0;
  std::int64_t best = 0;
  MemoryPeak peak;
  for (std::size_t i = 0; i < plan.ops.size(); ++i) {
    alive += delta[i];
    if (alive > best || !peak.at.valid()) {
      best = alive;
      peak.at = OpId(i);
    }
  }
  peak.total = resident + Bytes(best);
  for (std::size_t i = 0; i < plan.buffers.size(); ++i) {
    const bool alive_at_peak = persistent(plan.buffers[i]) || (peak.at.valid() && lives[i].first.valid() &&
                                                               lives[i].first <= peak.at && peak.at <= lives[i].last);
    if (alive_at_peak && size[i] > Bytes(0)) peak.by_role[plan.buffers[i].role] += size[i];
  }
  return peak;
}

}  // namespace

MemoryPeak memory_peak(const Plan& plan, Rank rank) { return peak_of(plan, lifetimes(plan), sources(plan), rank); }

MemoryPeak worst_memory_peak(const Plan& plan) {
  const std::vector<Lifetime> lives = lifetimes(plan);
  const std::vector<PlacementId> from = sources(plan);
  MemoryPeak worst;
  for (int r = 0; r < plan.ranks; ++r) {
    MemoryPeak p = peak_of(plan, lives, from, Rank(r));
    if (p.total > worst.total || r == 0) worst = std::move(p);
  }
  return worst;
}

MemoryPeak memory_of_all_ranks(const Plan& plan) {
  const std::vector<Lifetime> lives = lifetimes(plan);
  const std::vector<PlacementId> from = sources(plan);
  MemoryPeak sum;
  for (int r = 0; r < plan.ranks; ++r) {
    const MemoryPeak p = peak_of(plan, lives, from, Rank(r));
    sum.total += p.total;
    for (const auto& [role, bytes] : p.by_role) sum.by_role[role] += bytes;
  }
  return sum;
}

}  // namespace moesim
