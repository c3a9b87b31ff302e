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

MemoryPeak peak_of(const Plan& plan, const std::vector<Lifetime>& lives, Rank rank) {
  Bytes resident;
  std::vector<std::int64_t> delta(plan.ops.size() + 1);
  std::vector<Bytes> size(plan.buffers.size());
  for (std::size_t i = 0; i < plan.buffers.size(); ++i) {
    const Buffer& b = plan.buffers[i];
    if (b.location != Location::device) continue;
    size[i] = plan.bytes(b, rank);
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

MemoryPeak memory_peak(const Plan& plan, Rank rank) { return peak_of(plan, lifetimes(plan), rank); }

MemoryPeak worst_memory_peak(const Plan& plan) {
  const std::vector<Lifetime> lives = lifetimes(plan);
  MemoryPeak worst;
  for (int r = 0; r < plan.ranks; ++r) {
    MemoryPeak p = peak_of(plan, lives, Rank(r));
    if (p.total > worst.total || r == 0) worst = std::move(p);
  }
  return worst;
}

}  // namespace moesim
