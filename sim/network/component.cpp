#include "sim/network/component.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>

namespace moesim::sim {

namespace {
constexpr auto none = std::numeric_limits<std::uint32_t>::max();

auto key(const Entry& e) { return std::tuple(e.route, e.weight, e.cap); }
}  // namespace

Component::Component(Surroundings& around, Picoseconds now, std::vector<Entry>& entries, bool keep_log)
    : around_(around), time_(now) {
  const auto before = [](const Entry& a, const Entry& b) {
    return std::tuple(a.route, a.weight, a.cap, a.member.target) <
           std::tuple(b.route, b.weight, b.cap, b.member.target);
  };
  if (!std::ranges::is_sorted(entries, before)) std::ranges::stable_sort(entries, before);

  std::vector<double> capacity, load, caps;
  std::vector<std::uint32_t> begin{0}, hops;
  members_.reserve(entries.size());
  for (std::size_t i = 0; i < entries.size();) {
    const Entry& e = entries[i];
    route_.push_back(e.route);
    weight_.push_back(e.weight);
    first_.push_back(static_cast<std::uint32_t>(i));
    goal_.push_back(e.member.target);
    caps.push_back(e.cap / e.weight);
    const std::size_t start = i;
    Entry worst = e;
    for (; i < entries.size() && key(entries[i]) == key(e); ++i) {
      members_.push_back(entries[i].member);
      if (std::abs(entries[i].early) > std::abs(worst.early)) worst.early = entries[i].early;
      if (std::abs(entries[i].late) > std::abs(worst.late)) worst.late = entries[i].late;
      worst.lost = std::max(worst.lost, entries[i].lost);
    }
    early_.push_back(worst.early);
    late_.push_back(worst.late);
    lost_.push_back(worst.lost);
    load.push_back(e.weight * static_cast<double>(i - start));
    end_of_.push_back(static_cast<std::uint32_t>(i));
    for (const LinkId l : around_.routes.links(e.route)) {
      std::uint32_t& local = around_.local_link[l.index()];
      if (local == none) {
        local = static_cast<std::uint32_t>(links_.size());
        links_.push_back(l);
        capacity.push_back(around_.topology.links()[l.index()].capacity.value());
      }
      hops.push_back(local);
    }
    begin.push_back(static_cast<std::uint32_t>(hops.size()));
  }
  for (const LinkId l : links_) around_.local_link[l.index()] = none;
  live_ = goal_.size();
  served_.assign(live_, 0);
  rate_.assign(live_, 0);
  merge_links(capacity, begin, hops);
  fill_.emplace(std::move(capacity), std::move(begin), std::move(hops), std::move(load), std::move(caps), keep_log);
}

// Links that carry the same classes are one link of the least capacity: a GPU's PCIe link and its NIC, say. The set of
// classes is compared by the sum of their random numbers (64 bits) and their count.
void Component::merge_links(std::vector<double>& capacity, std::vector<std::uint32_t>& begin,
                            std::vector<std::uint32_t>& hops) {
  struct Signature {
    std::uint64_t sum = 0;
    std::uint32_t count = 0;
    std::uint32_t link = 0;
  };
  std::vector<Signature> all(capacity.size());
  std::uint64_t state = 0;
  for (std::size_t c = 0; c + 1 < begin.size(); ++c) {
    state += 0x9e3779b97f4a7c15;  // splitmix64
    std::uint64_t r = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9;
    r = (r ^ (r >> 27)) * 0x94d049bb133111eb;
    r ^= r >> 31;
    for (std::uint32_t i = begin[c]; i < begin[c + 1]; ++i) {
      all[hops[i]].sum += r;
      ++all[hops[i]].count;
    }
  }
  for (std::uint32_t l = 0; l < all.size(); ++l) all[l].link = l;
  std::ranges::sort(all, [](const Signature& a, const Signature& b) {
    return std::tie(a.sum, a.count, a.link) < std::tie(b.sum, b.count, b.link);
  });
  std::vector<std::uint8_t> keep(capacity.size(), 0);
  for (std::size_t i = 0; i < all.size();) {
    const std::uint32_t first = all[i].link;
    keep[first] = 1;
    const Signature s = all[i];
    for (; i < all.size() && all[i].sum == s.sum && all[i].count == s.count; ++i)
      capacity[first] = std::min(capacity[first], capacity[all[i].link]);
  }
  std::vector<std::uint32_t> renumbered(capacity.size());
  std::uint32_t kept = 0;
  for (std::size_t l = 0; l < capacity.size(); ++l) {
    renumbered[l] = kept;
    if (keep[l] != 0) capacity[kept++] = capacity[l];
  }
  capacity.resize(kept);
  std::uint32_t out = 0;
  for (std::size_t c = 0, i = 0; c + 1 < begin.size(); ++c) {
    for (; i < begin[c + 1]; ++i)
      if (keep[hops[i]] != 0) hops[out++] = renumbered[hops[i]];
    begin[c + 1] = out;
  }
  hops.resize(out);
}

Picoseconds Component::next() {
  if (as_of_ != around_.plans) {
    as_of_ = around_.plans;
    decisive_ = ended_;
  }
  decisive_ = std::max(decisive_, ended_);
  while (decisive_ < batch_.size() && !around_.transfers.decides(members_[batch_[decisive_].member])) ++decisive_;
  return decisive_ < batch_.size() ? batch_[decisive_].time : end_;
}

void Component::run(Picoseconds until, std::vector<Completion>& out) {
  while (true) {
    for (; ended_ < batch_.size() && batch_[ended_].time <= until; ++ended_)
      around_.transfers.end(members_[batch_[ended_].member], batch_[ended_].time, out);
    if (end_ > until) return;
    commit();
    batch_.clear();
    ended_ = 0;
    if (worn()) return;
    start();
  }
}

void Component::start() {
  plan();
  for (const Ending& e : batch_) around_.transfers.plan(members_[e.member]);
  ++around_.plans;
}

void Component::dissolve(Picoseconds now, std::vector<Entry>& out) {
  for (std::size_t i = ended_; i < batch_.size(); ++i) around_.transfers.take_back(members_[batch_[i].member]);
  ++around_.plans;
  cut(now);
  for (std::uint32_t c = 0; c < goal_.size(); ++c) {
    if (fill_->gone(c)) continue;
    const double served = served_at(c, now);
    const double weight = weight_[c];
    for (std::uint32_t m = first_[c]; m < end_of_[c]; ++m) {
      Entry e{route_[c], weight, fill_->cap(c) * weight, members_[m], early_[c], late_[c], lost(c)};
      e.member.target = std::max(e.member.target - served, 0.0);
      out.push_back(e);
    }
  }
}

void Component::retire(const Ending& e) {
  const Member& m = members_[e.member];
  around_.ledger.end(around_.routes.links(route_[e.c]), m.bytes, e.time);
  around_.transfers.close(m, e.time - Picoseconds(static_cast<std::int64_t>(sooner(e.c) + e.sooner + lost(e.c))),
                          e.time + Picoseconds(static_cast<std::int64_t>(later(e.c))));
  const std::uint32_t left = end_of_[e.c] - ++first_[e.c];
  fill_->set_load(e.c, weight_[e.c] * left);
  if (left > 0)
    goal_[e.c] = members_[first_[e.c]].target;
  else
    --live_;
}

void Component::add_moved(Picoseconds now, std::vector<double>& by_link) const {
  for (std::uint32_t c = 0; c < goal_.size(); ++c) {
    if (fill_->gone(c)) continue;
    const double served = served_at(c, now);
    for (std::uint32_t m = first_[c]; m < end_of_[c]; ++m) {
      const double left = std::max(members_[m].target - served, 0.0);
      for (const LinkId l : around_.routes.links(route_[c]))
        by_link[l.index()] += std::max(static_cast<double>(members_[m].bytes) - left, 0.0);
    }
  }
}

}  // namespace moesim::sim
