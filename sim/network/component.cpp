#include "sim/network/component.hpp"

#include <algorithm>

namespace moesim::sim {

Component::Component(Surroundings& around, Picoseconds now, std::vector<Entry>& entries, bool keep_log, bool join)
    : around_(around),
      classes_(classify(entries, around.routes, around.topology, around.local_link, join)),
      first_(std::move(classes_.first)),
      end_of_(std::move(classes_.end)),
      served_(classes_.size(), 0),
      rate_(classes_.size(), 0),
      early_(classes_.size(), 0),
      late_(classes_.size(), 0),
      members_(std::move(classes_.members)),
      live_(classes_.size()),
      time_(now) {
  for (const std::uint32_t m : first_) goal_.push_back(members_[m].target);
  fill_.emplace(std::move(classes_.capacity), std::move(classes_.begin), std::move(classes_.hops),
                std::move(classes_.load), std::move(classes_.hop_load), std::move(classes_.caps), keep_log);
}

Picoseconds Component::next() {
  if (as_of_ != around_.transfers.decided()) {
    as_of_ = around_.transfers.decided();
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
  decisive_ = 0;
}

void Component::dissolve(Picoseconds now, std::vector<Entry>& out) {
  for (std::size_t i = ended_; i < batch_.size(); ++i) around_.transfers.take_back(members_[batch_[i].member]);
  cut(now);
  for (std::uint32_t c = 0; c < goal_.size(); ++c) {
    if (fill_->gone(c)) continue;
    const double served = served_at(c, now);
    const double weight = classes_.weight[c], idle = idled(c);
    for (std::uint32_t m = first_[c]; m < end_of_[c]; ++m) {
      const std::uint32_t p = members_[m].path;
      Entry e{classes_.route[p],
              weight,
              fill_->cap(c) * weight,
              members_[m],
              classes_.early[p] + early_[c],
              classes_.late[p] + late_[c],
              classes_.lost[p] + idle};
      e.member.target = std::max(e.member.target - served, 0.0);
      out.push_back(e);
    }
  }
}

void Component::retire(const Ending& e) {
  const Member& m = members_[e.member];
  around_.ledger.end(route(m), m.bytes, e.time);
  around_.transfers.close(m, e.time - Picoseconds(static_cast<std::int64_t>(sooner(e.c, m.path) + e.sooner)),
                          e.time + Picoseconds(static_cast<std::int64_t>(later(e.c, m.path))));
  const std::uint32_t left = end_of_[e.c] - ++first_[e.c];
  fill_->leave(e.c, path(m), classes_.weight[e.c] * left);
  if (left > 0)
    goal_[e.c] = members_[first_[e.c]].target;
  else
    --live_;
}

// Of merged links only those of the least capacity are full.
void Component::count_full(Picoseconds until) {
  for (std::size_t i = 0; i < classes_.links.size(); ++i) {
    const std::uint32_t l = classes_.merged[i];
    const LinkId link = classes_.links[i];
    if (fill_->full(l) && around_.topology.links()[link.index()].capacity.value() <= fill_->capacity(l))
      around_.ledger.full(link, until - time_ - Picoseconds(static_cast<std::int64_t>(idle(l, until))));
  }
}

void Component::add_moved(Picoseconds now, std::vector<double>& by_link) const {
  for (std::uint32_t c = 0; c < goal_.size(); ++c) {
    if (fill_->gone(c)) continue;
    const double served = served_at(c, now);
    for (std::uint32_t m = first_[c]; m < end_of_[c]; ++m) {
      const double left = std::max(members_[m].target - served, 0.0);
      for (const LinkId l : route(members_[m]))
        by_link[l.index()] += std::max(static_cast<double>(members_[m].bytes) - left, 0.0);
    }
  }
}

}  // namespace moesim::sim
