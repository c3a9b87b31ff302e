#include "backend/cuda/arena.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

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

// Each buffer goes to the lowest gap that fits, among the buffers that are placed and alive together with it.
std::int64_t place_in_order(std::vector<Place>& places, const std::vector<std::size_t>& order) {
  std::vector<const Place*> placed;  // by address
  std::int64_t end = 0;
  for (const std::size_t i : order) {
    Place& p = places[i];
    std::int64_t at = 0;
    for (const Place* other : placed) {
      if (other->location != p.location || !meet(*other, p)) continue;
      if (at + p.bytes <= other->begin) break;
      at = std::max(at, other->begin + other->bytes);
    }
    p.begin = at;
    end = std::max(end, at + p.bytes);
    const auto after = std::upper_bound(placed.begin(), placed.end(), at,
                                        [](std::int64_t v, const Place* other) { return v < other->begin; });
    placed.insert(after, &p);
  }
  return end;
}

// Packing is NP-hard. Large buffers first ("greedy by size", arXiv 2001.03288), or long-lived ones, is where the search
// begins; then the buffer that ends last goes to the front, again and again ("squeaky wheel" optimization).
void lay_out(std::vector<Place>& places) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < places.size(); ++i)
    if (places[i].first.valid()) order.push_back(i);
  // A round compares every pair of buffers.
  const auto n = static_cast<std::int64_t>(order.size());
  const std::int64_t rounds = std::clamp<std::int64_t>(4'000'000 / std::max<std::int64_t>(n * n, 1), 1, 40);
  const auto life = [&](std::size_t i) {
    return static_cast<std::int64_t>(places[i].last.value() - places[i].first.value());
  };
  std::vector<Place> best = places;
  std::int64_t smallest = std::numeric_limits<std::int64_t>::max();
  for (const bool by_life : {false, true}) {
    const auto key = [&](std::size_t i) {
      return by_life ? std::pair(life(i), places[i].bytes) : std::pair(places[i].bytes, life(i));
    };
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return key(a) > key(b); });
    for (std::int64_t round = 0; round < rounds && !order.empty(); ++round) {
      std::vector<Place> tried = places;
      const std::int64_t end = place_in_order(tried, order);
      if (end < smallest) best = tried;
      smallest = std::min(smallest, end);
      const auto last = std::max_element(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return tried[a].begin + tried[a].bytes < tried[b].begin + tried[b].bytes;
      });
      std::rotate(order.begin(), last, last + 1);
    }
  }
  places = std::move(best);
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
