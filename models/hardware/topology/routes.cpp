// Routes: fewest hops between nodes, then fewest hops inside them; equal paths by a hash of (from, to), as ECMP does.
//
// The routes from a rank to the ranks of one node are worked out when the first of them is asked for, so that a cluster
// whose traffic is sparse (two-level all-to-all, rings) never holds all pairs.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <limits>
#include <mutex>

#include "models/hardware/topology/wiring.hpp"

namespace moesim::hardware {

namespace {

// One hop on the network outweighs any path inside a node (at most 5 hops, PCIe switch to PCIe switch).
constexpr std::uint32_t hop_cost(LinkKind kind) { return kind == LinkKind::nvlink || kind == LinkKind::pcie ? 1 : 16; }

// Sebastiano Vigna's splitmix64 finalizer: a well mixed 64-bit permutation.
constexpr std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// All shortest paths from one rank: the last edges of them, by vertex.
struct Paths {
  struct Step {
    std::uint32_t vertex;  // before
    LinkId link;
  };
  std::vector<std::uint32_t> begin;  // [vertices + 1] into steps
  std::vector<Step> steps;
};

// The graph, flat: searched once per rank.
class Router {
 public:
  explicit Router(Wiring wiring) : w_(std::move(wiring)), begin_(boost::num_vertices(w_.graph) + 1) {
    for (std::size_t v = 0; v + 1 < begin_.size(); ++v) {
      for (auto [e, end] = boost::in_edges(v, w_.graph); e != end; ++e) {
        const LinkId link = w_.graph[*e].link;
        in_.push_back(
            {static_cast<std::uint32_t>(boost::source(*e, w_.graph)), hop_cost(w_.links[link.index()].kind), link});
      }
      begin_[v + 1] = static_cast<std::uint32_t>(in_.size());
    }
  }

  [[nodiscard]] const Wiring& wiring() const { return w_; }

  // Dijkstra with buckets (Dial): costs are small integers.
  [[nodiscard]] Paths paths(Rank from) const {
    constexpr auto unreached = std::numeric_limits<std::uint32_t>::max();
    const std::size_t vertices = begin_.size() - 1;
    std::vector<std::uint32_t> distance(vertices, unreached);
    std::vector<std::vector<VertexId>> bucket(1, {w_.ports[from.index()].out});
    distance[w_.ports[from.index()].out] = 0;
    for (std::uint32_t d = 0; d < bucket.size(); ++d)
      for (std::size_t i = 0; i < bucket[d].size(); ++i) {
        const VertexId v = bucket[d][i];
        if (distance[v] != d) continue;
        for (auto [e, end] = boost::out_edges(v, w_.graph); e != end; ++e) {
          const VertexId next = boost::target(*e, w_.graph);
          const std::uint32_t far = d + hop_cost(w_.links[w_.graph[*e].link.index()].kind);
          if (far >= distance[next]) continue;
          distance[next] = far;
          if (bucket.size() <= far) bucket.resize(far + 1);
          bucket[far].push_back(next);
        }
      }
    Paths out;
    out.begin.assign(vertices + 1, 0);
    for (std::size_t v = 0; v < vertices; ++v) {
      for (std::uint32_t e = begin_[v]; distance[v] != unreached && e < begin_[v + 1]; ++e)
        if (distance[in_[e].vertex] != unreached && distance[in_[e].vertex] + in_[e].cost == distance[v])
          out.steps.push_back({in_[e].vertex, in_[e].link});
      out.begin[v + 1] = static_cast<std::uint32_t>(out.steps.size());
    }
    return out;
  }

  [[nodiscard]] bool reaches(const Paths& paths, Rank to) const {
    const VertexId v = w_.ports[to.index()].in;
    return paths.begin[v] < paths.begin[v + 1];
  }

  // Appends the links of one of the paths, walking back from `to`; false when there is none.
  bool walk(const Paths& paths, Rank from, Rank to, std::vector<LinkId>& out) const {
    if (!reaches(paths, to)) return false;
    const VertexId source = w_.ports[from.index()].out;
    const auto first = static_cast<std::ptrdiff_t>(out.size());
    std::uint64_t hash = mix(static_cast<std::uint64_t>(from.value()) << 32 | static_cast<std::uint64_t>(to.value()));
    for (VertexId at = w_.ports[to.index()].in; at != source;) {
      const std::uint32_t choices = paths.begin[at + 1] - paths.begin[at];
      std::size_t chosen = paths.begin[at];
      if (choices > 1) {
        chosen += hash % choices;
        hash = mix(hash);
      }
      out.push_back(paths.steps[chosen].link);
      at = paths.steps[chosen].vertex;
    }
    std::reverse(out.begin() + first, out.end());
    return true;
  }

 private:
  struct InEdge {
    std::uint32_t vertex;
    std::uint32_t cost;
    LinkId link;
  };
  Wiring w_;
  std::vector<std::uint32_t> begin_{0};
  std::vector<InEdge> in_;
};

class GraphTopology final : public Topology {
 public:
  GraphTopology(Wiring wiring, std::optional<Wiring> detour)
      : router_(std::move(wiring)),
        gpus_per_node_(ranks() / nodes()),
        blocks_(static_cast<std::size_t>(ranks()) * static_cast<std::size_t>(nodes())) {
    if (!detour) return;
    detour_.emplace(std::move(*detour));
    require_connected();
  }
  GraphTopology(const GraphTopology&) = delete;
  GraphTopology& operator=(const GraphTopology&) = delete;
  ~GraphTopology() override {
    for (auto& block : blocks_) delete block.load(std::memory_order_relaxed);
  }

  [[nodiscard]] int ranks() const override { return static_cast<int>(router_.wiring().ports.size()); }
  [[nodiscard]] int nodes() const override { return router_.wiring().nodes; }
  [[nodiscard]] Node node_of(Rank rank) const override { return Node(rank.value() / gpus_per_node_); }
  [[nodiscard]] std::span<const Link> links() const override { return router_.wiring().links; }

  [[nodiscard]] std::span<const LinkId> route(Rank from, Rank to) const override {
    if (from == to) return {};
    const std::size_t node = node_of(to).index();
    std::atomic<const Block*>& slot = blocks_[from.index() * static_cast<std::size_t>(nodes()) + node];
    const Block* block = slot.load(std::memory_order_acquire);
    if (block == nullptr) {
      auto made = routes_to_node(from, node);
      if (slot.compare_exchange_strong(block, made.get(), std::memory_order_acq_rel)) block = made.release();
    }
    const auto i = static_cast<std::size_t>(to.value() % gpus_per_node_);
    return std::span(block->links).subspan(block->begin[i], block->begin[i + 1] - block->begin[i]);
  }

 private:
  // Routes from one rank to the ranks of one node.
  struct Block {
    std::vector<std::uint32_t> begin;
    std::vector<LinkId> links;
  };
  // Routes are mostly asked for source by source; the search of the last few is kept.
  struct Search {
    std::mutex mutex;
    Rank from;
    Paths paths, detour;
  };

  [[nodiscard]] std::unique_ptr<Block> routes_to_node(Rank from, std::size_t node) const {
    Search& search = searches_[from.index() % searches_.size()];
    const std::lock_guard lock(search.mutex);
    if (search.from != from) {
      search.paths = router_.paths(from);
      if (detour_) search.detour = detour_->paths(from);
      search.from = from;
    }
    auto block = std::make_unique<Block>();
    block->begin.reserve(static_cast<std::size_t>(gpus_per_node_) + 1);
    block->begin.push_back(0);
    for (int i = 0; i < gpus_per_node_; ++i) {
      const Rank to(static_cast<int>(node) * gpus_per_node_ + i);
      if (from != to && !router_.walk(search.paths, from, to, block->links) &&
          !(detour_ && detour_->walk(search.detour, from, to, block->links)))
        throw InputError({}, fmt::format("no link leads from rank {} to rank {}", from.value(), to.value()));
      block->begin.push_back(static_cast<std::uint32_t>(block->links.size()));
    }
    block->links.shrink_to_fit();
    return block;
  }

  // A removed link may cut the cluster in two: said when it is read, not in the middle of a simulation.
  void require_connected() const {
    const auto n = static_cast<std::size_t>(ranks());
    for (std::size_t from = 0; from < n; ++from) {
      const Paths near = router_.paths(Rank(from)), far = detour_->paths(Rank(from));
      for (std::size_t to = 0; to < n; ++to)
        if (from != to && !router_.reaches(near, Rank(to)) && !detour_->reaches(far, Rank(to)))
          throw InputError({}, fmt::format("the removed links leave no way from rank {} to rank {}", from, to),
                           "keep part of their capacity instead (a factor above 0)");
    }
  }

  Router router_;
  std::optional<Router> detour_;
  int gpus_per_node_;
  mutable std::vector<std::atomic<const Block*>> blocks_;  // [ranks, nodes], each published once
  mutable std::array<Search, 16> searches_;
};

}  // namespace

std::shared_ptr<const Topology> route_over(Wiring wiring, std::optional<Wiring> detour) {
  return std::make_shared<GraphTopology>(std::move(wiring), std::move(detour));
}

}  // namespace moesim::hardware
