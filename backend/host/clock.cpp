#include "backend/host/clock.hpp"

#include <algorithm>

namespace moesim::backend {
namespace {

constexpr std::int64_t picoseconds = 1000;  // per nanosecond

std::size_t streams_of(const Plan& plan) {
  int most = 0;
  for (const Op& op : plan.ops) most = std::max(most, op.stream);
  return static_cast<std::size_t>(most) + 1;
}

void finish(Timeline& t) {
  std::sort(t.spans.begin(), t.spans.end(),
            [](const Span& a, const Span& b) { return std::pair(a.op, a.rank) < std::pair(b.op, b.rank); });
  for (const Span& s : t.spans) t.makespan = std::max(t.makespan, s.end);
}

Picoseconds ps(Nanoseconds t) { return Picoseconds(t * picoseconds); }

}  // namespace

Timeline wall_timeline(const Plan& plan, const std::vector<Marks>& marks) {
  Timeline out;
  out.kind = Timeline::Kind::measured_wall;
  out.ranks = plan.ranks;
  for (std::size_t r = 0; r < marks.size(); ++r) {
    std::vector<Nanoseconds> stream(streams_of(plan));
    for (std::size_t i = 0; i < plan.ops.size(); ++i) {
      const Op& op = plan.ops[i];
      const Mark& m = marks[r][i];
      if (m.end < 0) continue;
      Nanoseconds& last = stream[static_cast<std::size_t>(op.stream)];
      Nanoseconds ready = last;
      for (const OpId a : op.after) ready = std::max(ready, marks[r][a.index()].end);
      ready = std::min(ready, m.begun);
      out.spans.push_back(
          {OpId(i), Rank(r), ps(ready), ps(m.met), ps(m.end), ps(m.begun - ready), ps(m.met - m.begun)});
      last = m.end;
    }
  }
  finish(out);
  return out;
}

Timeline composed_timeline(const Plan& plan, const std::vector<std::vector<Nanoseconds>>& durations) {
  Timeline out;
  out.kind = Timeline::Kind::measured_composed;
  out.ranks = plan.ranks;
  const std::size_t ranks = durations.size();
  std::vector<std::vector<Nanoseconds>> stream(ranks, std::vector<Nanoseconds>(streams_of(plan)));
  std::vector<std::vector<Nanoseconds>> end(ranks, std::vector<Nanoseconds>(plan.ops.size()));
  std::vector<Nanoseconds> host(ranks);  // nothing is issued before it
  for (std::size_t i = 0; i < plan.ops.size(); ++i) {
    const Op& op = plan.ops[i];
    const auto s = static_cast<std::size_t>(op.stream);
    std::vector<Nanoseconds> ready(ranks);
    for (std::size_t r = 0; r < ranks; ++r) {
      ready[r] = std::max(stream[r][s], host[r]);
      for (const OpId a : op.after) ready[r] = std::max(ready[r], end[r][a.index()]);
      if (std::holds_alternative<HostSync>(op.work))
        ready[r] = std::max(ready[r], *std::max_element(stream[r].begin(), stream[r].end()));
    }
    std::vector<Nanoseconds> met = ready;
    if (const auto* c = std::get_if<Collective>(&op.work))
      for (const std::vector<Rank>& g : plan.groups[c->groups.index()]) {
        Nanoseconds last = 0;
        for (const Rank r : g) last = std::max(last, ready[r.index()]);
        for (const Rank r : g) met[r.index()] = last;
      }
    for (std::size_t r = 0; r < ranks; ++r) {
      if (durations[r][i] < 0) continue;
      end[r][i] = met[r] + durations[r][i];
      stream[r][s] = end[r][i];
      if (std::holds_alternative<HostSync>(op.work)) host[r] = end[r][i];
      out.spans.push_back(
          {OpId(i), Rank(r), ps(ready[r]), ps(met[r]), ps(end[r][i]), Picoseconds(0), ps(met[r] - ready[r])});
    }
  }
  finish(out);
  return out;
}

}  // namespace moesim::backend
