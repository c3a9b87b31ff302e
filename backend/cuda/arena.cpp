#include "backend/cuda/arena.hpp"

#include <algorithm>
#include <map>
#include <numeric>

namespace moesim::backend::gpu {
namespace {

bool persistent(const Buffer& b) {
  return b.role == BufferRole::weight || b.role == BufferRole::optimizer || b.role == BufferRole::kv_cache;
}

bool meet(const Place& a, const Place& b) { return a.first <= b.last && b.first <= a.last; }
bool overlap(const Place& a, const Place& b) {
  return a.location == b.location && a.begin < b.begin + b.bytes && b.begin < a.begin + a.bytes;
}

std::vector<Place> lifetimes(const Plan& plan, Rank rank) {
  std::vector<Place> out(plan.buffers.size());
  for (std::size_t i = 0; i < plan.ops.size(); ++i)
    for (const auto* touched : {&plan.ops[i].reads, &plan.ops[i].writes})
      for (const BufferId b : *touched) {
        Place& p = out[b.index()];
        if (!p.first.valid()) p.first = OpId(i);
        p.last = OpId(i);
      }
  for (std::size_t b = 0; b < out.size(); ++b) {
    const Buffer& buffer = plan.buffers[b];
    out[b].location = buffer.location;
    if (!out[b].first.valid()) continue;
    constexpr std::int64_t a = Arena::alignment;
    out[b].bytes = (plan.bytes(buffer, rank).value() + a - 1) / a * a;
    if (persistent(buffer)) {
      out[b].first = OpId(0);
      out[b].last = OpId(plan.ops.size() - 1);
    }
  }
  return out;
}

// The lowest gap that fits, among the buffers that are placed and alive together with this one. Larger buffers first
// ("greedy by size", arXiv 2001.03288).
void lay_out(std::vector<Place>& places) {
  std::vector<std::size_t> order(places.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto always = [&](std::size_t i) { return places[i].last.value() - places[i].first.value(); };
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(places[a].bytes, always(a)) > std::pair(places[b].bytes, always(b));
  });
  std::vector<const Place*> placed;  // by address
  for (const std::size_t i : order) {
    Place& p = places[i];
    if (!p.first.valid()) continue;
    std::int64_t at = 0;
    for (const Place* other : placed) {
      if (other->location != p.location || !meet(*other, p)) continue;
      if (at + p.bytes <= other->begin) break;
      at = std::max(at, other->begin + other->bytes);
    }
    p.begin = at;
    const auto after = std::upper_bound(placed.begin(), placed.end(), at,
                                        [](std::int64_t v, const Place* other) { return v < other->begin; });
    placed.insert(after, &p);
  }
}

}  // namespace

Arena arena_of(const Plan& plan, Rank rank) {
  Arena out;
  out.places = lifetimes(plan, rank);
  lay_out(out.places);
  for (const Place& p : out.places) {
    if (p.begin < 0) continue;
    std::int64_t& size = p.location == Location::device ? out.device_bytes : out.host_bytes;
    size = std::max(size, p.begin + p.bytes);
  }

  // The last op of every stream that touches a buffer.
  std::vector<std::map<int, OpId>> last_on(plan.buffers.size());
  for (std::size_t i = 0; i < plan.ops.size(); ++i)
    for (const auto* touched : {&plan.ops[i].reads, &plan.ops[i].writes})
      for (const BufferId b : *touched) last_on[b.index()][plan.ops[i].stream] = OpId(i);
  out.reuse.resize(plan.ops.size());
  for (std::size_t later = 0; later < out.places.size(); ++later) {
    const Place& p = out.places[later];
    if (p.begin < 0 || persistent(plan.buffers[later])) continue;
    std::map<int, OpId> before;
    for (std::size_t earlier = 0; earlier < out.places.size(); ++earlier) {
      const Place& e = out.places[earlier];
      if (e.begin < 0 || e.bytes == 0 || p.bytes == 0 || !(e.last < p.first) || !overlap(e, p)) continue;
      for (const auto& [stream, op] : last_on[earlier])
        if (stream != plan.op(p.first).stream) before[stream] = std::max(before[stream], op);
    }
    for (const auto& [stream, op] : before) out.reuse[p.first.index()].push_back(op);
  }
  return out;
}

}  // namespace moesim::backend::gpu
