#include "sim/network/transfers.hpp"

#include <algorithm>

namespace moesim::sim {

std::uint32_t Transfers::open(Picoseconds now, std::span<const Flow> flows) {
  Transfer t;
  t.start = now;
  t.bracket = {now, now};
  t.flows = static_cast<std::uint32_t>(flows.size());
  std::fill(place_.begin(), place_.end(), 0U);
  for (const Flow& f : flows) {
    ++place_[f.from.index()];
    ++place_[f.to.index()];
  }
  for (std::size_t r = 0; r < place_.size(); ++r) {
    if (place_[r] == 0) continue;
    t.places.push_back({.rank = Rank(r), .left = place_[r], .planned = 0, .latest = now});
    place_[r] = static_cast<std::uint32_t>(t.places.size() - 1);
  }
  all_.push_back(std::move(t));
  return static_cast<std::uint32_t>(all_.size() - 1);
}

Member Transfers::member(const Flow& flow) const {
  return {.target = static_cast<double>(flow.bytes.value()),
          .bytes = flow.bytes.value(),
          .transfer = static_cast<std::uint32_t>(all_.size() - 1),
          .from = place_[flow.from.index()],
          .to = place_[flow.to.index()]};
}

void Transfers::plan(const Member& m) {
  for (const std::uint32_t p : {m.from, m.to}) {
    Place& place = all_[m.transfer].places[p];
    if (++place.planned == place.left) ++decided_;
  }
}

void Transfers::take_back(const Member& m) {
  for (const std::uint32_t p : {m.from, m.to}) --all_[m.transfer].places[p].planned;
}

bool Transfers::decides(const Member& m) const {
  const std::vector<Place>& places = all_[m.transfer].places;
  return places[m.from].left == places[m.from].planned || places[m.to].left == places[m.to].planned;
}

void Transfers::end(const Member& m, Picoseconds time, std::vector<Completion>& out) {
  for (const std::uint32_t p : {m.from, m.to}) {
    Place& place = all_[m.transfer].places[p];
    place.latest = std::max(place.latest, time);
    --place.planned;
    if (--place.left == 0) out.push_back({place.latest, m.transfer, place.rank});
  }
}

void Transfers::close(const Member& m, Picoseconds low, Picoseconds high) {
  Transfer& t = all_[m.transfer];
  t.bracket.low = std::max(t.bracket.low, std::max(low, t.start + t.least));
  t.bracket.high = std::max(t.bracket.high, high);
  if (--t.flows == 0) t.places = {};
}

void LinkLedger::begin(std::span<const LinkId> route, Picoseconds time) {
  for (const LinkId l : route)
    if (Use& use = use_[l.index()]; use.flows++ == 0) use.since = time;
}

void LinkLedger::end(std::span<const LinkId> route, std::int64_t bytes, Picoseconds time) {
  for (const LinkId l : route) {
    Use& use = use_[l.index()];
    LinkTotals& total = totals_[l.index()];
    total.bytes += Bytes(bytes);
    use.last = std::max(use.last, time);
    if (--use.flows == 0) total.busy += use.last - use.since;
  }
}

LinkTotals LinkLedger::total(std::size_t link, Picoseconds now) const {
  LinkTotals out = totals_[link];
  if (use_[link].flows > 0) out.busy += std::max(now, use_[link].since) - use_[link].since;
  return out;
}

}  // namespace moesim::sim
