#include "strategies/placement/problem.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "moesim/error.hpp"

namespace moesim::placement {

std::string_view to_string(Mode mode) { return mode == Mode::return_home ? "return_home" : "stay"; }
std::string_view to_string(Dispatch dispatch) { return dispatch == Dispatch::even ? "even" : "local_first"; }

namespace {

// What every member of the first node achieves at once towards its counterpart `distance` members on.
BytesPerSecond shared_rate(const Topology& topology, std::span<const Rank> members, std::size_t sources,
                           std::size_t distance) {
  std::vector<int> users(topology.links().size());
  for (std::size_t i = 0; i < sources; ++i)
    for (const LinkId link : topology.route(members[i], members[i + distance])) ++users[link.index()];
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < sources; ++i)
    for (const LinkId link : topology.route(members[i], members[i + distance]))
      least = std::min(least, topology.links()[link.index()].capacity.value() / users[link.index()]);
  return BytesPerSecond(least);
}

}  // namespace

ClusterShape shape_of(const Cluster& cluster, std::span<const Rank> members) {
  ClusterShape out;
  out.gpus = static_cast<int>(members.size());
  const auto node_of = [&](std::size_t i) { return members[i].value() / cluster.gpus_per_node; };
  std::size_t each = 1;  // members on the first node
  while (each < members.size() && node_of(each) == node_of(0)) ++each;
  bool even = members.size() % each == 0;
  for (std::size_t i = 0; even && i < members.size(); ++i)
    even = node_of(i) == node_of(i / each * each) && (i / each == 0 || node_of(i) > node_of(i / each * each - 1));
  if (even) out.nodes = static_cast<int>(members.size() / each);
  if (!cluster.topology) return out;
  if (each > 1) out.intra = shared_rate(*cluster.topology, members, 1, 1);
  if (out.nodes > 1) out.inter = shared_rate(*cluster.topology, members, each, each);
  if (each == 1) out.intra = out.inter;
  return out;
}

Loads::Loads(int layers, int experts)
    : layers_(layers),
      experts_(experts),
      cells_(static_cast<std::size_t>(layers) * static_cast<std::size_t>(experts)) {}

std::span<double> Loads::layer(int l) {
  return std::span(cells_).subspan(static_cast<std::size_t>(l) * static_cast<std::size_t>(experts_),
                                   static_cast<std::size_t>(experts_));
}
std::span<const double> Loads::layer(int l) const {
  return std::span(cells_).subspan(static_cast<std::size_t>(l) * static_cast<std::size_t>(experts_),
                                   static_cast<std::size_t>(experts_));
}

Split split(const Routing& routing, double train_share) {
  const std::int64_t tokens = routing.tokens();
  if (tokens < 2)
    throw InputError({}, fmt::format("the routing has {} tokens: too few to plan on some and judge on others", tokens));
  const auto wanted = static_cast<std::int64_t>(std::llround(train_share * static_cast<double>(tokens)));
  const std::int64_t train = std::clamp<std::int64_t>(wanted, 1, tokens - 1);
  return {{0, train}, {train, tokens - train}};
}

namespace {

void check(const Routing& routing, Window window) {
  if (window.count < 1) throw InputError({}, "the window of the routing trace has no tokens");
  if (window.first < 0 || window.first + window.count > routing.tokens())
    throw InputError({}, fmt::format("tokens {} to {} of a routing trace that has {}", window.first,
                                     window.first + window.count - 1, routing.tokens()));
}

// Calls visit(experts of the tokens) for blocks of tokens of one layer; every id is checked.
constexpr std::int64_t block_tokens = 1024;

std::span<const ExpertIndex> fetch(const Routing& routing, int layer, std::int64_t first, std::int64_t tokens,
                                   std::vector<ExpertIndex>& buffer) {
  buffer.resize(static_cast<std::size_t>(tokens * routing.top_k()));
  routing.assign(layer, first, buffer);
  for (std::size_t i = 0; i < buffer.size(); ++i)
    if (buffer[i] >= routing.experts())
      throw InputError(
          {},
          fmt::format("token {} of MoE layer {} uses expert {}; the model's experts are numbered 0 to {}",
                      first + static_cast<std::int64_t>(i) / routing.top_k(), layer, buffer[i], routing.experts() - 1),
          "the trace is of another model, or its ids are not logical experts");
  return buffer;
}

}  // namespace

Loads measure_loads(const Routing& routing, Window window) {
  check(routing, window);
  Loads loads(routing.moe_layers(), routing.experts());
  std::vector<ExpertIndex> buffer;
  for (int l = 0; l < routing.moe_layers(); ++l)
    for (std::int64_t done = 0; done < window.count; done += block_tokens) {
      const std::int64_t tokens = std::min(block_tokens, window.count - done);
      for (const ExpertIndex e : fetch(routing, l, window.first + done, tokens, buffer)) loads.layer(l)[e] += 1;
    }
  return loads;
}

Movement measure_movement(const Routing& routing, Window window, MovementCount count) {
  check(routing, window);
  const auto k = static_cast<std::size_t>(routing.top_k());
  const std::size_t sources = count == MovementCount::from_first ? 1 : k;
  Movement movement(static_cast<std::size_t>(std::max(0, routing.moe_layers() - 1)),
                    Table(routing.experts(), routing.experts()));
  std::vector<ExpertIndex> here;
  std::vector<ExpertIndex> next;
  for (std::int64_t done = 0; done < window.count; done += block_tokens) {
    const std::int64_t tokens = std::min(block_tokens, window.count - done);
    fetch(routing, 0, window.first + done, tokens, here);
    for (std::size_t l = 0; l < movement.size(); ++l) {
      fetch(routing, static_cast<int>(l) + 1, window.first + done, tokens, next);
      for (std::size_t t = 0; t < here.size(); t += k)
        for (std::size_t i = 0; i < sources; ++i)
          for (std::size_t j = 0; j < k; ++j) ++movement[l].at(here[t + i], next[t + j]);
      std::swap(here, next);
    }
  }
  return movement;
}

Movement measure_company(const Routing& routing, Window window) {
  check(routing, window);
  const auto k = static_cast<std::size_t>(routing.top_k());
  Movement company(static_cast<std::size_t>(routing.moe_layers()), Table(routing.experts(), routing.experts()));
  std::vector<ExpertIndex> experts;
  for (std::size_t l = 0; l < company.size(); ++l)
    for (std::int64_t done = 0; done < window.count; done += block_tokens) {
      const std::int64_t tokens = std::min(block_tokens, window.count - done);
      fetch(routing, static_cast<int>(l), window.first + done, tokens, experts);
      for (std::size_t t = 0; t < experts.size(); t += k)
        for (std::size_t j = 1; j < k; ++j) ++company[l].at(experts[t], experts[t + j]);
    }
  return company;
}

}  // namespace moesim::placement
