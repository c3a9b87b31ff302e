#include "sim/network/exact.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace moesim::sim {

namespace {
constexpr double per_ps = 1e-12;
}

ExactComponent::ExactComponent(Surroundings& around, Picoseconds now, std::vector<Entry>& entries)
    : Component(around, now, entries, true, false),
      updated_(goal_.size(), now.value()),
      finish_(goal_.size()),
      least_(goal_.size()) {
  if (!fill_->fill()) throw std::logic_error("a path is a class of its own");
  follow(0);
  start();
}

double ExactComponent::served_at(std::uint32_t c, Picoseconds now) const {
  return served_[c] + rate_[c] * (static_cast<double>(now.value() - updated_[c]) * per_ps);
}

// finish = now + ceil((goal - served) / rate): rounded up, so that no flow beats its links.
void ExactComponent::follow(std::size_t kept) {
  const auto order = fill_->order();
  std::int64_t least = kept == 0 ? std::numeric_limits<std::int64_t>::max() : least_[kept - 1];
  for (std::size_t i = kept; i < order.size(); ++i) {
    const std::uint32_t c = order[i];
    if (const double rate = rate_of(c); rate != rate_[c]) {
      served_[c] = served_at(c, time_);
      updated_[c] = time_.value();
      rate_[c] = rate;
      const double left = std::max(goal_[c] - served_[c], 0.0);
      finish_[c] = detail::checked_add(time_.value(), detail::checked_round_up(left / per_ps / rate));
    }
    least_[i] = least = std::min(least, finish_[c]);
  }
}

void ExactComponent::plan() {
  end_ = Picoseconds(least_[fill_->order().size() - 1]);
  batch_.clear();
  for (std::uint32_t c = 0; c < finish_.size(); ++c) {
    if (finish_[c] != end_.value() || fill_->gone(c)) continue;
    // Flows of a class that end with the first: of equal size, or within the picosecond.
    const double served = std::max(served_at(c, end_), goal_[c]);
    for (std::uint32_t m = first_[c]; m < end_of_[c] && members_[m].target <= served; ++m)
      batch_.push_back({end_, c, m});
  }
}

void ExactComponent::commit() {
  count_full(end_);
  time_ = end_;
  double level = std::numeric_limits<double>::infinity();
  for (const Ending& e : batch_) {
    level = std::min(level, fill_->level(e.c));
    retire(e);
    served_[e.c] = std::max(served_at(e.c, end_), members_[e.member].target);
    updated_[e.c] = end_.value();
    rate_[e.c] = 0;  // follow() takes up the next flow of the class
  }
  if (live_ > 0) follow(fill_->refill(level));
}

}  // namespace moesim::sim
