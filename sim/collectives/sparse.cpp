// sparse_all_gather and sparse_reduce_scatter (Hecate, arXiv 2502.02581, section 3): every expert's chunk from its
// holder to the members that lack it, as grouped broadcasts; and the sum of its holders' partial chunks to those that
// keep it, as grouped reduces. With lambda = (chunks that arrive) / (all chunks) and S the bytes of all chunks, lambda
// S moves.
//
// One broadcast is a chain: holder -> a -> b -> ..., piece by piece, so nobody sends or receives a chunk twice; it
// visits its own island first and every other island once. A reduce is the chain backward. All experts' chains run at
// once.
//   t = launch + longest chain's steps + max over links of bytes / bandwidth
#include <algorithm>

#include "sim/collectives/group.hpp"

namespace moesim::sim {

namespace {

std::vector<std::vector<std::size_t>> holders(const ExpertPlacement& placement) {
  std::vector<std::vector<std::size_t>> out;
  for (int r = 0; r < placement.ranks(); ++r)
    for (int s = placement.slot_begin[static_cast<std::size_t>(r)];
         s < placement.slot_begin[static_cast<std::size_t>(r) + 1]; ++s) {
      const std::size_t expert = placement.expert_of_slot[static_cast<std::size_t>(s)].index();
      if (out.size() <= expert) out.resize(expert + 1);
      if (out[expert].empty() || out[expert].back() != static_cast<std::size_t>(r))
        out[expert].push_back(static_cast<std::size_t>(r));
    }
  return out;
}

class Chains {
 public:
  explicit Chains(const Group& group) : group_(group), flows_(group) {}

  // From `root` through the others, or toward it.
  void add(std::size_t root, std::vector<std::size_t> others, Bytes bytes, bool toward) {
    const auto far = [&](std::size_t place) {
      const std::size_t islands = group_.islands().size();
      return (group_.island_of(place) + islands - group_.island_of(root)) % islands;
    };
    std::ranges::stable_sort(others, {}, far);
    std::int64_t intra = 0, inter = 0;
    std::size_t at = root;
    for (const std::size_t next : others) {
      flows_.add(toward ? next : at, toward ? at : next, bytes);
      ++(group_.crosses(at, next) ? inter : intra);
      at = next;
    }
    longest_ = std::max(longest_, group_.steps(intra, inter));
  }
  std::vector<Stage> stages() && { return {std::move(flows_).stage(longest_, 1)}; }

 private:
  const Group& group_;
  FlowList flows_;
  Picoseconds longest_;
};

std::vector<std::size_t> lacking(const std::vector<std::size_t>& wanted, const std::vector<std::size_t>& held) {
  std::vector<std::size_t> out;
  std::ranges::set_difference(wanted, held, std::back_inserter(out));
  return out;
}

}  // namespace

std::vector<Stage> sparse_all_gather(const Group& group) {
  const auto from = holders(group.plan().placements[group.collective().from.index()]);
  const auto to = holders(group.plan().placements[group.collective().to.index()]);
  Chains chains(group);
  for (std::size_t e = 0; e < from.size() && e < to.size(); ++e)
    if (!from[e].empty()) chains.add(from[e].front(), lacking(to[e], from[e]), group.bytes(1), false);
  return std::move(chains).stages();
}

// The sum goes to the first that keeps the chunk, and on to the others that do.
std::vector<Stage> sparse_reduce_scatter(const Group& group) {
  const auto from = holders(group.plan().placements[group.collective().from.index()]);
  const auto to = holders(group.plan().placements[group.collective().to.index()]);
  Chains chains(group);
  for (std::size_t e = 0; e < from.size() && e < to.size(); ++e) {
    if (from[e].empty() || to[e].empty()) continue;
    const std::size_t root = to[e].front();
    chains.add(root, lacking(from[e], {root}), group.bytes(1), true);
    chains.add(root, lacking(to[e], {root}), group.bytes(1), false);
  }
  return std::move(chains).stages();
}

}  // namespace moesim::sim
