// Network: transfers in, completions out; components of flows that share links in between.
#include "sim/network/network.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <stdexcept>
#include <tuple>

#include "sim/network/component.hpp"

namespace moesim::sim {

namespace {

constexpr auto none = std::numeric_limits<std::uint32_t>::max();

// Sets of components-to-be, over dense numbers.
class DisjointSets {
 public:
  explicit DisjointSets(std::size_t n) : parent_(n) { std::iota(parent_.begin(), parent_.end(), 0U); }
  std::uint32_t find(std::uint32_t x) {
    while (parent_[x] != x) x = parent_[x] = parent_[parent_[x]];
    return x;
  }
  // The smaller root stays, so that sets are named by their first member.
  void join(std::uint32_t a, std::uint32_t b) {
    a = find(a);
    b = find(b);
    parent_[std::max(a, b)] = std::min(a, b);
  }

 private:
  std::vector<std::uint32_t> parent_;
};

class FluidNetwork final : public Network {
 public:
  FluidNetwork(const Topology& topology, Fidelity fidelity)
      : around_{topology,
                fidelity,
                RouteBook(topology),
                Transfers(topology.ranks()),
                LinkLedger(topology.links().size()),
                std::vector<std::uint32_t>(topology.links().size(), none)},
        owner_(topology.links().size(), none) {}

  TransferId start(Picoseconds now, std::span<const Flow> flows) override;
  [[nodiscard]] std::optional<Picoseconds> next() override;
  void advance(Picoseconds until, std::vector<Completion>& out) override;
  [[nodiscard]] std::vector<LinkTotals> totals() const override;
  [[nodiscard]] Bracket bracket(TransferId transfer) const override;

 private:
  std::vector<Flow> checked(std::span<const Flow> flows) const;
  void run_to(Picoseconds until);
  void run_components(Picoseconds until);
  void activate(Picoseconds now, std::vector<Entry> entries);
  void place(Picoseconds now, std::vector<Entry> entries);
  void take_out(std::uint32_t component, Picoseconds now, std::vector<Entry>& out);

  Surroundings around_;
  Picoseconds now_;                                     // of the last start or advance
  Picoseconds handed_out_;                              // of the last advance
  std::map<Picoseconds, std::vector<Entry>> waiting_;   // for the latency of their routes, by when it is over
  std::vector<std::unique_ptr<Component>> components_;  // null = free
  std::vector<std::uint32_t> free_;
  std::vector<std::uint32_t> owner_;  // [links] component
  std::vector<Completion> done_;      // not handed out yet
};

// Flows in (from, to, weight, cap, bytes) order, whatever order they came in.
std::vector<Flow> FluidNetwork::checked(std::span<const Flow> flows) const {
  const int ranks = around_.topology.ranks();
  for (const Flow& f : flows) {
    if (f.from.value() < 0 || f.from.value() >= ranks || f.to.value() < 0 || f.to.value() >= ranks)
      throw std::invalid_argument(
          fmt::format("a flow from rank {} to {} among {} ranks", f.from.value(), f.to.value(), ranks));
    if (f.bytes.value() < 0) throw std::invalid_argument(fmt::format("a flow of {} bytes", f.bytes.value()));
    if (!(f.weight >= 1e-6 && f.weight <= 1e6) || !(f.cap.value() >= 0))
      throw std::invalid_argument(fmt::format("a flow of weight {} and cap {}", f.weight, f.cap.value()));
  }
  const auto before = [](const Flow& a, const Flow& b) {
    return std::tie(a.from, a.to, a.weight, a.cap, a.bytes) < std::tie(b.from, b.to, b.weight, b.cap, b.bytes);
  };
  std::vector<Flow> out(flows.begin(), flows.end());
  if (!std::ranges::is_sorted(out, before)) std::ranges::sort(out, before);
  return out;
}

TransferId FluidNetwork::start(Picoseconds now, std::span<const Flow> flows) {
  if (now < now_) throw std::invalid_argument("a transfer starts before the network's time");
  std::vector<Flow> sorted = checked(flows);
  run_to(now);

  const auto moves = [](const Flow& f) { return f.from != f.to && f.bytes.value() > 0; };
  std::vector<Rank> idle;
  for (const Flow& f : sorted)
    if (!moves(f)) idle.insert(idle.end(), {f.from, f.to});
  std::erase_if(sorted, [&](const Flow& f) { return !moves(f); });
  const std::uint32_t id = around_.transfers.open(now, sorted);
  std::ranges::sort(idle);
  idle.erase(std::unique(idle.begin(), idle.end()), idle.end());
  for (const Rank r : idle)
    if (!std::ranges::binary_search(around_.transfers.at(id).places, r, {}, &Transfers::Place::rank))
      done_.push_back({now, id, r});

  std::map<Picoseconds, std::vector<Entry>> by_latency;
  std::vector<double> bytes(around_.topology.links().size(), 0);
  for (const Flow& f : sorted) {
    const std::uint32_t route = around_.routes.number(f.from, f.to);
    for (const LinkId l : around_.routes.links(route)) bytes[l.index()] += static_cast<double>(f.bytes.value());
    const double cap = f.cap.value() > 0 ? f.cap.value() : std::numeric_limits<double>::infinity();
    by_latency[around_.routes.latency(route)].push_back({route, f.weight, cap, around_.transfers.member(f)});
  }
  double least = 0;
  for (std::size_t l = 0; l < bytes.size(); ++l)
    least = std::max(least, bytes[l] / around_.topology.links()[l].capacity.value());
  around_.transfers.at(id).least = Picoseconds(static_cast<std::int64_t>(least * 1e12));

  for (auto& [latency, entries] : by_latency) {
    if (latency.value() == 0) {
      activate(now, std::move(entries));
    } else {
      std::vector<Entry>& waiting = waiting_[now + latency];
      waiting.insert(waiting.end(), entries.begin(), entries.end());
    }
  }
  return id;
}

void FluidNetwork::activate(Picoseconds now, std::vector<Entry> entries) {
  for (const Entry& e : entries) around_.ledger.begin(around_.routes.links(e.route), now);
  place(now, std::move(entries));
}

void FluidNetwork::take_out(std::uint32_t component, Picoseconds now, std::vector<Entry>& out) {
  std::unique_ptr<Component> taken = std::move(components_[component]);
  free_.push_back(component);
  for (const LinkId l : taken->links()) owner_[l.index()] = none;
  taken->dissolve(now, out);
}

// Joins the flows with those they meet, and makes a component of every set that shares links.
void FluidNetwork::place(Picoseconds now, std::vector<Entry> entries) {
  for (std::size_t i = 0, fresh = entries.size(); i < fresh; ++i)
    for (const LinkId l : around_.routes.links(entries[i].route))
      if (owner_[l.index()] != none) take_out(owner_[l.index()], now, entries);

  DisjointSets sets(owner_.size());
  for (const Entry& e : entries) {
    const auto links = around_.routes.links(e.route);
    for (const LinkId l : links)
      sets.join(static_cast<std::uint32_t>(links[0].value()), static_cast<std::uint32_t>(l.value()));
  }
  const auto root = [&](const Entry& e) {
    return sets.find(static_cast<std::uint32_t>(around_.routes.links(e.route)[0].value()));
  };
  std::map<std::uint32_t, std::vector<Entry>> parts;
  const std::uint32_t first = entries.empty() ? none : root(entries[0]);
  if (std::ranges::all_of(entries, [&](const Entry& e) { return root(e) == first; })) {
    if (!entries.empty()) parts.emplace(first, std::move(entries));
  } else {
    for (const Entry& e : entries) parts[root(e)].push_back(e);
  }
  for (auto& [name, part] : parts) {
    std::uint32_t slot = static_cast<std::uint32_t>(components_.size());
    if (free_.empty()) {
      components_.emplace_back();
    } else {
      slot = free_.back();
      free_.pop_back();
    }
    components_[slot] = make_component(around_, now, std::move(part));
    for (const LinkId l : components_[slot]->links()) owner_[l.index()] = slot;
  }
}

void FluidNetwork::run_components(Picoseconds until) {
  for (bool again = true; again;) {
    again = false;
    for (std::uint32_t i = 0; i < components_.size(); ++i) {
      if (!components_[i] || components_[i]->due() > until) continue;
      components_[i]->run(until, done_);
      if (!components_[i]->worn()) continue;
      const Picoseconds time = components_[i]->time();
      std::vector<Entry> left;
      take_out(i, time, left);
      place(time, std::move(left));
      again = true;
    }
  }
}

void FluidNetwork::run_to(Picoseconds until) {
  while (!waiting_.empty() && waiting_.begin()->first <= until) {
    auto first = waiting_.extract(waiting_.begin());
    run_components(first.key());
    activate(first.key(), std::move(first.mapped()));
  }
  run_components(until);
  now_ = until;
}

std::optional<Picoseconds> FluidNetwork::next() {
  std::optional<Picoseconds> out;
  const auto consider = [&](Picoseconds t) { out = out ? std::min(*out, t) : t; };
  for (const Completion& c : done_) consider(c.time);
  for (const auto& component : components_)
    if (component) consider(component->next());
  if (!waiting_.empty()) consider(waiting_.begin()->first);
  return out;
}

void FluidNetwork::advance(Picoseconds until, std::vector<Completion>& out) {
  if (until < handed_out_) throw std::invalid_argument("the network's time does not run backward");
  handed_out_ = until;
  run_to(std::max(until, now_));
  std::ranges::sort(done_, {}, [](const Completion& c) { return std::tuple(c.time, c.transfer, c.rank); });
  const auto later = std::ranges::upper_bound(done_, until, {}, &Completion::time);
  out.insert(out.end(), done_.begin(), later);
  done_.erase(done_.begin(), later);
}

std::vector<LinkTotals> FluidNetwork::totals() const {
  std::vector<double> moved(around_.ledger.links(), 0);
  for (const auto& component : components_)
    if (component) component->add_moved(now_, moved);
  std::vector<LinkTotals> out;
  for (std::size_t l = 0; l < moved.size(); ++l) {
    out.push_back(around_.ledger.total(l, now_));
    out.back().bytes += Bytes(static_cast<std::int64_t>(moved[l]));
  }
  return out;
}

Bracket FluidNetwork::bracket(TransferId transfer) const {
  if (transfer >= around_.transfers.size()) throw std::invalid_argument("no such transfer");
  return around_.transfers.at(static_cast<std::uint32_t>(transfer)).bracket;
}

}  // namespace

std::unique_ptr<Network> make_network(const Topology& topology, Fidelity fidelity) {
  return std::make_unique<FluidNetwork>(topology, fidelity);
}

}  // namespace moesim::sim
