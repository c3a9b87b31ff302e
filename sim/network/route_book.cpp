#include "sim/network/route_book.hpp"

#include <algorithm>
#include <limits>

namespace moesim::sim {

namespace {
constexpr auto none = std::numeric_limits<std::uint32_t>::max();

std::uint64_t hash(std::span<const LinkId> route) {  // FNV-1a over the link numbers
  std::uint64_t h = 0xcbf29ce484222325;
  for (const LinkId l : route) h = (h ^ static_cast<std::uint64_t>(l.value())) * 0x100000001b3;
  return h ^ (h >> 32);
}
}  // namespace

RouteBook::RouteBook(const Topology& topology)
    : topology_(topology), by_pair_(static_cast<std::size_t>(topology.ranks())), slots_(64, none) {}

std::uint32_t RouteBook::number(Rank from, Rank to) {
  std::vector<std::uint32_t>& row = by_pair_[from.index()];
  if (row.empty()) row.assign(by_pair_.size(), none);
  std::uint32_t& n = row[to.index()];
  if (n == none) n = intern(topology_.route(from, to));
  return n;
}

std::uint32_t RouteBook::intern(std::span<const LinkId> route) {
  if (2 * (size() + 1) > slots_.size()) grow();
  std::size_t slot = hash(route) & (slots_.size() - 1);
  for (; slots_[slot] != none; slot = (slot + 1) & (slots_.size() - 1))
    if (std::ranges::equal(links(slots_[slot]), route)) return slots_[slot];
  slots_[slot] = static_cast<std::uint32_t>(size());
  Picoseconds latency;
  for (const LinkId l : route) latency += topology_.links()[l.index()].latency;
  latency_.push_back(latency);
  links_.insert(links_.end(), route.begin(), route.end());
  begin_.push_back(links_.size());
  return slots_[slot];
}

void RouteBook::grow() {
  slots_.assign(slots_.size() * 2, none);
  for (std::uint32_t r = 0; r < size(); ++r) {
    std::size_t slot = hash(links(r)) & (slots_.size() - 1);
    while (slots_[slot] != none) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = r;
  }
}

}  // namespace moesim::sim
