#include "sim/network/classes.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>

namespace moesim::sim {

namespace {

constexpr auto none = std::numeric_limits<std::uint32_t>::max();
constexpr double infinite = std::numeric_limits<double>::infinity();
// A link is far from full for a path when evenly shared by all its flows it would give each so many times what the
// scarcest link of the path does. Too low: classes have to be sorted again; too high: fewer flows join.
constexpr double far_from_full = 4;

auto key(const Entry& e) { return std::tuple(e.route, e.weight, e.cap); }

std::uint64_t mix(std::uint64_t x) {  // splitmix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// One class per path, weight and cap; paths are repeated where weights or caps differ.
void sort_by_path(Classes& out, std::vector<Entry>& entries, const RouteBook& routes, const Topology& topology,
                  std::vector<std::uint32_t>& local_link) {
  const auto before = [](const Entry& a, const Entry& b) {
    return std::tuple(a.route, a.weight, a.cap, a.member.target) <
           std::tuple(b.route, b.weight, b.cap, b.member.target);
  };
  if (!std::ranges::is_sorted(entries, before)) std::ranges::stable_sort(entries, before);
  out.members.reserve(entries.size());
  for (std::size_t i = 0; i < entries.size();) {
    const Entry& e = entries[i];
    const std::size_t start = i;
    Entry worst = e;
    for (; i < entries.size() && key(entries[i]) == key(e); ++i) {
      out.members.push_back(entries[i].member);
      out.members.back().path = static_cast<std::uint32_t>(out.route.size());
      if (std::abs(entries[i].early) > std::abs(worst.early)) worst.early = entries[i].early;
      if (std::abs(entries[i].late) > std::abs(worst.late)) worst.late = entries[i].late;
      worst.lost = std::max(worst.lost, entries[i].lost);
    }
    out.route.push_back(e.route);
    out.weight.push_back(e.weight);
    out.caps.push_back(e.cap / e.weight);
    out.early.push_back(worst.early);
    out.late.push_back(worst.late);
    out.lost.push_back(worst.lost);
    out.load.push_back(e.weight * static_cast<double>(i - start));
    out.first.push_back(static_cast<std::uint32_t>(start));
    out.end.push_back(static_cast<std::uint32_t>(i));
    for (const LinkId l : routes.links(e.route)) {
      std::uint32_t& local = local_link[l.index()];
      if (local == none) {
        local = static_cast<std::uint32_t>(out.links.size());
        out.links.push_back(l);
        out.capacity.push_back(topology.links()[l.index()].capacity.value());
      }
      out.path_hops.push_back(local);
    }
    out.path_begin.push_back(static_cast<std::uint32_t>(out.path_hops.size()));
  }
  for (const LinkId l : out.links) local_link[l.index()] = none;
}

// Links that carry the same flows are one link of the least capacity: a GPU's PCIe link and its NIC, say. The set of
// paths is compared by the sum of their random numbers (64 bits) and their count.
// Returns the new numbers.
std::vector<std::uint32_t> merge_links(std::vector<double>& capacity, std::vector<std::uint32_t>& begin,
                                       std::vector<std::uint32_t>& hops) {
  struct Signature {
    std::uint64_t sum = 0;
    std::uint32_t count = 0;
    std::uint32_t link = 0;
  };
  std::vector<Signature> all(capacity.size());
  std::uint64_t state = 0;
  for (std::size_t c = 0; c + 1 < begin.size(); ++c) {
    state += 0x9e3779b97f4a7c15;
    const std::uint64_t r = mix(state);
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
  std::vector<std::uint32_t> stands_for(capacity.size());  // the first link with the same flows
  for (std::size_t i = 0; i < all.size();) {
    const std::uint32_t first = all[i].link;
    keep[first] = 1;
    const Signature s = all[i];
    for (; i < all.size() && all[i].sum == s.sum && all[i].count == s.count; ++i) {
      capacity[first] = std::min(capacity[first], capacity[all[i].link]);
      stands_for[all[i].link] = first;
    }
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
  for (std::uint32_t& l : stands_for) l = renumbered[l];
  return stands_for;
}

// Joins classes that share all links that are not far from full.
class Joiner {
 public:
  explicit Joiner(Classes& classes) : all_(classes) {}

  void run() {
    find_cores();
    if (!number_groups()) return;
    Classes joined;
    std::vector<std::uint32_t> at(all_.capacity.size(), none);  // hop of the class that is being built
    for (std::size_t g = 0; g + 1 < group_begin_.size(); ++g) append(joined, members_of(g), at);
    joined.links = std::move(all_.links);
    joined.merged = std::move(all_.merged);
    joined.capacity = std::move(all_.capacity);
    joined.route = std::move(all_.route);
    joined.path_begin = std::move(all_.path_begin);
    joined.path_hops = std::move(all_.path_hops);
    joined.early = std::move(all_.early);
    joined.late = std::move(all_.late);
    joined.lost = std::move(all_.lost);
    all_ = std::move(joined);
  }

 private:
  std::span<const std::uint32_t> core(std::uint32_t c) const {
    return std::span(core_).subspan(core_begin_[c], core_begin_[c + 1] - core_begin_[c]);
  }
  std::span<const std::uint32_t> path(std::uint32_t c) const {
    return std::span(all_.path_hops).subspan(all_.path_begin[c], all_.path_begin[c + 1] - all_.path_begin[c]);
  }
  std::span<const std::uint32_t> members_of(std::size_t group) const {
    return std::span(grouped_).subspan(group_begin_[group], group_begin_[group + 1] - group_begin_[group]);
  }
  bool joins(std::uint32_t c) const { return all_.weight[c] == 1 && all_.caps[c] == infinite; }

  void find_cores() {
    std::vector<double> share(all_.capacity.size(), 0);  // first the load
    for (std::uint32_t c = 0; c < all_.size(); ++c)
      for (const std::uint32_t l : path(c)) share[l] += all_.load[c];
    for (std::size_t l = 0; l < share.size(); ++l) share[l] = all_.capacity[l] / share[l];
    for (std::uint32_t c = 0; c < all_.size(); ++c) {
      double least = infinite;
      for (const std::uint32_t l : path(c)) least = std::min(least, share[l]);
      for (const std::uint32_t l : path(c))
        if (!joins(c) || share[l] <= far_from_full * least) core_.push_back(l);
      core_begin_.push_back(static_cast<std::uint32_t>(core_.size()));
    }
  }

  // Groups in the order of their first classes. False when they are not worth it.
  bool number_groups() {
    const std::size_t n = all_.size();
    std::size_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    std::vector<std::uint32_t> table(slots, none), group(n);  // open addressing over first classes
    std::vector<std::uint32_t> firsts;
    for (std::uint32_t c = 0; c < n; ++c) {
      std::uint64_t hash = joins(c) ? 0 : c + 1;
      for (const std::uint32_t l : core(c)) hash = mix(hash + l + 0x9e3779b97f4a7c15);
      std::size_t slot = hash & (slots - 1);
      const auto same = [&](std::uint32_t other) {
        return joins(c) && joins(other) && std::ranges::equal(core(c), core(other));
      };
      while (table[slot] != none && !same(firsts[table[slot]])) slot = (slot + 1) & (slots - 1);
      if (table[slot] == none) {
        table[slot] = static_cast<std::uint32_t>(firsts.size());
        firsts.push_back(c);
      }
      group[c] = table[slot];
    }
    if (2 * firsts.size() > n) return false;
    group_begin_.assign(firsts.size() + 1, 0);
    for (const std::uint32_t g : group) ++group_begin_[g + 1];
    std::partial_sum(group_begin_.begin(), group_begin_.end(), group_begin_.begin());
    std::vector<std::uint32_t> cursor(group_begin_.begin(), group_begin_.end() - 1);
    grouped_.resize(n);
    for (std::uint32_t c = 0; c < n; ++c) grouped_[cursor[group[c]]++] = c;
    return true;
  }

  void append(Classes& out, std::span<const std::uint32_t> group, std::vector<std::uint32_t>& at) const {
    const auto hop_begin = static_cast<std::uint32_t>(out.hops.size());
    const auto first = static_cast<std::uint32_t>(out.members.size());
    double load = 0;
    for (const std::uint32_t c : group) {
      load += all_.load[c];
      out.members.insert(out.members.end(), all_.members.begin() + all_.first[c], all_.members.begin() + all_.end[c]);
      for (const std::uint32_t l : path(c)) {
        if (at[l] == none) {
          at[l] = static_cast<std::uint32_t>(out.hops.size());
          out.hops.push_back(l);
          out.hop_load.push_back(0);
        }
        out.hop_load[at[l]] += all_.load[c];
      }
    }
    for (std::size_t i = hop_begin; i < out.hops.size(); ++i) at[out.hops[i]] = none;
    if (group.size() > 1)
      std::stable_sort(out.members.begin() + first, out.members.end(),
                       [](const Member& a, const Member& b) { return a.target < b.target; });
    out.begin.push_back(static_cast<std::uint32_t>(out.hops.size()));
    out.load.push_back(load);
    out.caps.push_back(all_.caps[group[0]]);
    out.weight.push_back(all_.weight[group[0]]);
    out.first.push_back(first);
    out.end.push_back(static_cast<std::uint32_t>(out.members.size()));
  }

  Classes& all_;
  std::vector<std::uint32_t> core_, core_begin_{0};      // by class
  std::vector<std::uint32_t> grouped_, group_begin_{0};  // classes by group
};

}  // namespace

Classes classify(std::vector<Entry>& entries, const RouteBook& routes, const Topology& topology,
                 std::vector<std::uint32_t>& scratch, bool join) {
  Classes out;
  sort_by_path(out, entries, routes, topology, scratch);
  out.merged = merge_links(out.capacity, out.path_begin, out.path_hops);
  if (join) Joiner(out).run();
  if (out.hops.empty()) {  // nothing was joined
    out.begin = out.path_begin;
    out.hops = out.path_hops;
    for (std::size_t c = 0; c < out.size(); ++c)
      out.hop_load.insert(out.hop_load.end(), out.begin[c + 1] - out.begin[c], out.load[c]);
  }
  return out;
}

}  // namespace moesim::sim
