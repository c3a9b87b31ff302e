#include "sim/collectives/group.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <tuple>

#include "models/hardware/islands.hpp"

namespace moesim::sim {

Group::Group(const Plan& plan, const Collective& collective, std::size_t group, const Cluster& cluster)
    : plan_(plan),
      collective_(collective),
      cluster_(cluster),
      ranks_(plan.groups[collective.groups.index()][group]),
      islands_(hardware::islands(*cluster.topology, ranks_)),
      island_of_(ranks_.size()) {
  for (std::size_t i = 0; i < islands_.size(); ++i)
    for (const std::size_t place : islands_[i]) island_of_[place] = i;
  if (!islands_.empty()) width_ = islands_[0].size();
  for (const auto& island : islands_)
    if (island.size() != width_) width_ = 0;
}

Bytes Group::bytes(std::int64_t rows) const {
  return storage(detail::checked_mul(rows, collective_.cols), collective_.dtype);
}
Bytes Group::contribution(std::size_t place) const {
  return bytes(plan_.table(collective_.counts).row_sum(ranks_[place].value()));
}
Bytes Group::for_member(std::size_t from, std::size_t to) const {
  return bytes(plan_.table(collective_.counts).at(ranks_[from].value(), static_cast<int>(to)));
}
Picoseconds Group::steps(std::int64_t intra, std::int64_t inter) const {
  return costs().intra_message * intra + costs().inter_message * inter;
}

// ---- flows

void FlowList::add(std::size_t from, std::size_t to, Bytes bytes, BytesPerSecond cap) {
  if (from == to || bytes.value() == 0) return;
  flows_.push_back({.from = group_.rank(from), .to = group_.rank(to), .bytes = bytes, .cap = cap});
}

Stage FlowList::stage(Picoseconds latency, std::int64_t messages) && {
  const auto pair = [](const Flow& f) { return std::tuple(f.from, f.to, f.cap); };
  if (!std::ranges::is_sorted(flows_, {}, pair)) std::ranges::stable_sort(flows_, {}, pair);
  std::size_t kept = 0;
  for (std::size_t i = 0; i < flows_.size(); ++i) {
    if (kept > 0 && pair(flows_[kept - 1]) == pair(flows_[i]))
      flows_[kept - 1].bytes += flows_[i].bytes;
    else
      flows_[kept++] = flows_[i];
  }
  flows_.resize(kept);

  Bytes most;
  std::int64_t sends = 0;
  for (std::size_t i = 0; i < flows_.size();) {
    Bytes sent;
    const std::size_t first = i;
    for (; i < flows_.size() && flows_[i].from == flows_[first].from; ++i) sent += flows_[i].bytes;
    most = std::max(most, sent);
    sends = std::max(sends, static_cast<std::int64_t>(i - first));
  }
  if (flows_.empty()) return {latency, {}};
  if (messages > 0) sends = messages;
  const CollectiveCosts& costs = group_.costs();
  latency += costs.message_gap * (sends - 1);
  if (costs.ramp.value() > 0)
    latency += scale(costs.ramp, static_cast<double>(most.value()) / (static_cast<double>(most.value()) +
                                                                      static_cast<double>(costs.ramp_half.value())));
  return {latency, std::move(flows_)};
}

// ---- rings

namespace {

// What one hop between two GPUs carries that are wired to each other; 0 = they are not.
class PointToPoint {
 public:
  PointToPoint(const Group& group, const std::vector<std::size_t>& places) : n_(places.size()), capacity_(n_ * n_, 0) {
    const Topology& topology = *group.cluster().topology;
    for (std::size_t a = 0; a < n_; ++a)
      for (std::size_t b = 0; b < n_; ++b) {
        const auto route = topology.route(group.rank(places[a]), group.rank(places[b]));
        if (route.size() == 1) at(a, b) = topology.links()[route[0].index()].capacity.value();
      }
  }
  [[nodiscard]] bool wired() const {
    return std::ranges::any_of(capacity_, [](double c) { return c > 0; });
  }

  // The cycle through all whose thinnest hop is widest, first in lexicographic order; taken off what is left. Trying
  // all of them is for 8 GPUs (5,040 cycles).
  double take_widest(std::vector<std::size_t>& cycle) {
    std::vector<std::size_t> order(n_);
    std::iota(order.begin(), order.end(), std::size_t{0});
    double best = 0;
    do {
      double width = std::numeric_limits<double>::infinity();
      for (std::size_t i = 0; i < n_ && width > best; ++i) width = std::min(width, at(order[i], order[(i + 1) % n_]));
      if (width > best) {
        best = width;
        cycle = order;
      }
    } while (std::next_permutation(order.begin() + 1, order.end()));
    for (std::size_t i = 0; best > 0 && i < n_; ++i) at(cycle[i], cycle[(i + 1) % n_]) -= best;
    return best;
  }

 private:
  double& at(std::size_t a, std::size_t b) { return capacity_[a * n_ + b]; }
  std::size_t n_;
  std::vector<double> capacity_;
};

// Rings inside one island: as many as point-to-point wires allow (NCCL searches for them too); one where a switch joins
// all, because any ring then uses every GPU's whole link.
std::vector<Ring> island_rings(const Group& group, const std::vector<std::size_t>& places) {
  std::vector<Ring> out;
  PointToPoint wires(group, places);
  if (places.size() > 2 && places.size() <= 8 && wires.wired()) {
    std::vector<std::size_t> cycle;
    double total = 0;
    while (const double width = wires.take_widest(cycle)) {
      Ring ring{{}, width};
      for (const std::size_t i : cycle) ring.places.push_back(places[i]);
      out.push_back(std::move(ring));
      total += width;
    }
    for (Ring& ring : out) ring.share /= total;
  }
  if (out.empty()) out.push_back({places, 1.0});
  return out;
}

// The ring of an island that covers `at` of the shares.
const Ring& ring_at(const std::vector<Ring>& all, double at) {
  for (const Ring& ring : all) {
    at -= ring.share;
    if (at < 0) return ring;
  }
  return all.back();
}

}  // namespace

// Between islands every ring uses another member's NIC, and the same rail on both sides where it can: it leaves an
// island just before the place where it entered, and enters the next one there.
std::vector<Ring> rings(const Group& group) {
  const auto& islands = group.islands();
  if (islands.size() == 1) return island_rings(group, islands[0]);
  const std::size_t count = std::max<std::size_t>(group.width(), 1);
  std::vector<Ring> out(count);
  std::vector<std::vector<Ring>> local;
  for (const auto& island : islands) local.push_back(island_rings(group, island));
  for (std::size_t r = 0; r < count; ++r) {
    out[r].share = 1.0 / static_cast<double>(count);
    std::size_t entry = r;  // index in the island
    for (std::size_t i = 0; i < islands.size(); ++i) {
      const Ring& ring = ring_at(local[i], (static_cast<double>(r) + 0.5) / static_cast<double>(count));
      const auto start = std::ranges::find(ring.places, islands[i][entry % islands[i].size()]) - ring.places.begin();
      for (std::size_t k = 0; k < ring.places.size(); ++k)
        out[r].places.push_back(ring.places[(static_cast<std::size_t>(start) + k) % ring.places.size()]);
      const auto exit = std::ranges::find(islands[i], out[r].places.back()) - islands[i].begin();
      entry = static_cast<std::size_t>(exit);
    }
  }
  return out;
}

Bytes part(Bytes bytes, const std::vector<Ring>& rings, std::size_t r) {
  double before = 0;
  for (std::size_t i = 0; i < r; ++i) before += rings[i].share;
  const auto upto = [&](double share, bool all) {
    return all ? bytes.value() : static_cast<std::int64_t>(static_cast<double>(bytes.value()) * share);
  };
  return Bytes(upto(before + rings[r].share, r + 1 == rings.size()) - upto(before, false));
}

}  // namespace moesim::sim
