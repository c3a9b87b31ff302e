#include "sim/network/water_fill.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace moesim::sim {

WaterFill::WaterFill(std::vector<double> capacity, std::vector<std::uint32_t> begin, std::vector<std::uint32_t> hops,
                     std::vector<double> load, std::vector<double> hop_load, std::vector<double> caps, bool keep_log)
    : capacity_(std::move(capacity)),
      hop_begin_(std::move(begin)),
      hops_(std::move(hops)),
      use_begin_(capacity_.size() + 1),
      uses_(hops_.size()),
      load_(std::move(load)),
      hop_load_(std::move(hop_load)),
      caps_(std::move(caps)),
      keep_log_(keep_log),
      level_(load_.size()),
      gone_(load_.size()),
      link_(capacity_.size()) {
  for (const std::uint32_t l : hops_) ++use_begin_[l + 1];
  for (std::size_t l = 0; l + 1 < use_begin_.size(); ++l) use_begin_[l + 1] += use_begin_[l];
  std::vector<std::uint32_t> cursor(use_begin_.begin(), use_begin_.end() - 1);
  for (std::uint32_t c = 0; c < load_.size(); ++c) {
    for (std::uint32_t i = hop_begin_[c]; i < hop_begin_[c + 1]; ++i) {
      uses_[cursor[hops_[i]]++] = {c, i};
      link_[hops_[i]].total += hop_load_[i];
      ++link_[hops_[i]].live;
    }
    if (caps_[c] < std::numeric_limits<double>::infinity()) capped_.push_back({caps_[c], c});
  }
  std::stable_sort(capped_.begin(), capped_.end(), [](Capped a, Capped b) { return a.level < b.level; });
}

void WaterFill::leave(std::uint32_t c, std::span<const std::uint32_t> links, double left) {
  for (const std::uint32_t l : links) {
    const auto i = static_cast<std::size_t>(std::ranges::find(hops(c), l) - hops(c).begin()) + hop_begin_[c];
    const double before = hop_load_[i];
    hop_load_[i] = before == load_[c] ? left : before - (load_[c] - left);
    link_[l].total -= before - hop_load_[i];
    link_[l].live -= hop_load_[i] == 0 ? 1U : 0U;
  }
  load_[c] = left;
  gone_[c] = left == 0 ? 1 : 0;
}

bool WaterFill::fill() {
  frozen_ = gone_;
  order_.clear();
  log_.clear();
  touched_.clear();
  for (std::size_t l = 0; l < link_.size(); ++l) {
    link_[l].left = capacity_[l];
    link_[l].taken = 0;
    link_[l].frozen = 0;
    link_[l].level = 0;
  }
  return rise(0);
}

std::size_t WaterFill::refill(double level) {
  while (!order_.empty() && level_[order_.back()] >= level) {
    frozen_[order_.back()] = gone_[order_.back()];
    order_.pop_back();
  }
  for (; !log_.empty() && log_.back().level >= level; log_.pop_back()) {
    const Change& was = log_.back();
    link_[was.link].left = was.left;
    link_[was.link].taken = was.taken;
    link_[was.link].frozen = was.frozen;
  }
  const std::size_t kept = order_.size();
  if (!rise(kept == 0 ? 0 : level_[order_.back()])) throw std::logic_error("refill with classes in parts");
  return kept;
}

void WaterFill::push(Entry e) {
  heap_.push_back(e);
  std::push_heap(heap_.begin(), heap_.end(), [](const Entry& a, const Entry& b) { return a.share > b.share; });
}

WaterFill::Entry WaterFill::pop() {
  std::pop_heap(heap_.begin(), heap_.end(), [](const Entry& a, const Entry& b) { return a.share > b.share; });
  const Entry e = heap_.back();
  heap_.pop_back();
  return e;
}

void WaterFill::freeze(std::uint32_t c, double level) {
  frozen_[c] = 1;
  level_[c] = level;
  order_.push_back(c);
  for (std::uint32_t i = hop_begin_[c]; i < hop_begin_[c + 1]; ++i) {
    if (hop_load_[i] == 0) continue;  // those of its flows are gone
    Link& link = link_[hops_[i]];
    if (link.round != round_) {
      link.round = round_;
      link.rising = 0;
      link.freezing = 0;
      touched_.push_back(hops_[i]);
    }
    link.rising += hop_load_[i];
    ++link.freezing;
  }
}

void WaterFill::close_round(double level) {
  for (const std::uint32_t l : touched_) {
    Link& link = link_[l];
    if (keep_log_) log_.push_back({level, link.left, link.taken, l, link.frozen});
    link.left -= level * link.rising;
    link.taken += link.rising;
    link.frozen += link.freezing;
  }
  touched_.clear();
  ++round_;
}

// Levels only rise: a share that rounding puts below the level of the round before is that level.
bool WaterFill::rise(double last) {
  heap_.clear();
  for (std::uint32_t l = 0; l < link_.size(); ++l)
    if (link_[l].frozen < link_[l].live) heap_.push_back({link_[l].share(), l});
  std::make_heap(heap_.begin(), heap_.end(), [](const Entry& a, const Entry& b) { return a.share > b.share; });
  auto cap = capped_.begin();
  ++round_;
  while (!heap_.empty()) {
    const Entry top = pop();
    const Link& link = link_[top.link];
    if (link.frozen == link.live) continue;
    const double share = link.share();
    if (share > top.share) {  // it grew since it was put in
      push({share, top.link});
      continue;
    }
    const double level = std::max(share, last);

    while (cap != capped_.end() && (frozen_[cap->c] != 0 || cap->level < last)) ++cap;
    if (cap != capped_.end() && cap->level < level) {
      push(top);
      last = cap->level;
      for (; cap != capped_.end() && cap->level == last; ++cap)
        if (frozen_[cap->c] == 0) freeze(cap->c, last);
      close_round(last);
      continue;
    }

    saturated_.assign(1, top.link);
    while (!heap_.empty() && heap_.front().share <= level) {
      const Entry other = pop();
      if (link_[other.link].frozen == link_[other.link].live) continue;
      const double now = link_[other.link].share();
      if (now <= level)
        saturated_.push_back(other.link);
      else
        push({now, other.link});
    }
    for (const std::uint32_t l : saturated_) {
      link_[l].level = level;
      for (std::uint32_t i = use_begin_[l]; i < use_begin_[l + 1]; ++i) {
        const auto [c, hop] = uses_[i];
        if (frozen_[c] != 0 || hop_load_[hop] == 0) continue;
        if (hop_load_[hop] != load_[c]) return false;
        freeze(c, level);
      }
    }
    close_round(level);
    last = level;
  }
  return true;
}

}  // namespace moesim::sim
