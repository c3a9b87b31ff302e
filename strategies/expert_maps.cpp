#include "strategies/expert_maps.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <stdexcept>

#include "moesim/error.hpp"
#include "strategies/placement/map_file.hpp"
#include "strategies/placement/place.hpp"
#include "strategies/transformer.hpp"
#include "support/parallel.hpp"

namespace moesim::strategies {
namespace {

using placement::Dispatch;
using placement::Method;

std::size_t at(int i) { return static_cast<std::size_t>(i); }

const MoeBlock& first_block(const Model& model) {
  return *std::ranges::find_if(model.layers, [](const TransformerLayer& l) { return l.moe.has_value(); })->moe;
}

// A fault of the request, as the reason why the strategy cannot be used.
[[noreturn]] void refuse(const InputError& e) {
  std::string why;
  for (const Diagnostic& d : e.diagnostics())
    why +=
        fmt::format("{}{}{}", why.empty() ? "" : "; ", d.message, d.hint.empty() ? "" : fmt::format(" ({})", d.hint));
  throw Infeasible(why);
}

// A rank's row in a table of ranks or of token owners.
int source_of(const Plan& plan, int rows, int rank) { return rows == plan.ranks ? rank : plan.owner_of_rank[at(rank)]; }

std::vector<int> nodes_of(const Cluster& cluster, const std::vector<Rank>& members) {
  std::vector<int> out;
  for (const Rank r : members) out.push_back(r.value() / cluster.gpus_per_node);
  return out;
}

class Router {
 public:
  Router(const ExpertPlacement& map, const ExpertMaps& maps, int experts) : maps_(maps), slots_of_(at(experts)) {
    for (int j = 0; j < map.ranks(); ++j)
      for (int s = map.slot_begin[at(j)]; s < map.slot_begin[at(j) + 1]; ++s)
        slots_of_[map.expert_of_slot[at(s)].index()].push_back({s, j});
  }

  void route(int source, int member, std::span<const std::int32_t> copies, std::span<std::int32_t> out) const {
    std::vector<int> allowed;
    for (std::size_t e = 0; e < copies.size(); ++e) {
      if (copies[e] == 0) continue;
      const auto collect = [&](auto&& allow) {
        allowed.clear();
        for (const Slot& s : slots_of_[e])
          if (allow(s)) allowed.push_back(s.slot);
        return !allowed.empty();
      };
      const bool near = maps_.dispatch == Dispatch::local_first &&
                        (collect([&](const Slot& s) { return s.member == member; }) || collect([&](const Slot& s) {
                           return maps_.node_of_member[at(s.member)] == maps_.node_of_member[at(member)];
                         }));
      if (!near && !collect([](const Slot&) { return true; }))
        throw std::invalid_argument("an expert with tokens is on no rank");
      const auto replicas = static_cast<std::int32_t>(allowed.size());
      for (std::int32_t i = 0; i < replicas; ++i) {
        const auto rotated = (i + source) % replicas;
        out[at(allowed[at(i)])] = copies[e] / replicas + (rotated < copies[e] % replicas ? 1 : 0);
      }
    }
  }

 private:
  struct Slot {
    int slot;
    int member;
  };
  const ExpertMaps& maps_;
  std::vector<std::vector<Slot>> slots_of_;
};

}  // namespace

std::vector<OptionSpec> expert_map_option_specs() {
  std::vector<std::string> names;
  for (const placement::MethodInfo& m : placement::methods()) names.emplace_back(m.name);
  return {
      {"placement", std::string("contiguous"), "which experts a rank holds (moesim place, docs/placement.md)", 0, 0,
       names},
      {"map", std::string(), "instead: a file of moesim place, SGLang or vLLM", 0, 0, {}, true},
      {"replicas", std::int64_t{0}, "slots of a layer beyond one per expert", 0, 1e6, {}},
      {"replica_choice",
       std::string("even"),
       "which replica a copy takes: any, or of its own GPU, else its own node",
       0,
       0,
       {"even", "local_first"}},
  };
}

ExpertMaps expert_maps(const Input& in, const Groups& groups) {
  const MoeBlock& block = first_block(in.model);
  const auto experts = static_cast<int>(block.experts);
  const std::vector<Rank>& members = groups.front();
  const auto gpus = static_cast<int>(members.size());
  const int layers = in.model.moe_layers();
  ExpertMaps out;
  out.dispatch = in.options.text("replica_choice") == "even" ? Dispatch::even : Dispatch::local_first;
  out.node_of_member = nodes_of(in.cluster, members);

  if (in.maps != nullptr) {
    out.layers = *in.maps;
    return out;
  }
  const std::string& file = in.options.text("map");
  const Method method = *placement::parse_method(in.options.text("placement"));
  const auto replicas = static_cast<int>(in.options.integer("replicas"));
  if (!file.empty()) {
    if (method != Method::contiguous || replicas != 0)
      throw Infeasible("a map file says itself where experts and replicas are: leave out placement and replicas");
    const placement::MapRead read =
        placement::read_map(file, placement::info_of(in.model, placement::shape_of(in.cluster, members)));
    out.layers = read.maps;
    return out;
  }
  // In order, numbers of experts and ranks need not divide.
  if (replicas == 0 && (method == Method::contiguous || method == Method::round_robin)) {
    const ExpertPlacement map =
        method == Method::contiguous ? contiguous_placement(experts, gpus) : round_robin_placement(experts, gpus);
    out.layers.assign(at(layers), map);
    return out;
  }
  if (replicas > 0 && method == Method::moetuner) throw Infeasible("moetuner makes no replicas");
  try {
    placement::ClusterShape shape = placement::shape_of(in.cluster, members);
    shape.slots_per_gpu =
        method == Method::moetuner ? (experts + gpus - 1) / gpus : placement::slots_for(experts, gpus, replicas);
    const Routing& history = in.history != nullptr ? *in.history : in.routing;
    const std::int64_t tokens =
        in.history != nullptr ? history.tokens() : in.workload.sequences * in.workload.new_tokens();
    placement::PlaceRequest request;
    request.method = method;
    request.loads = placement::measure_loads(history, {0, tokens});
    request.shape = shape;
    request.dispatch = out.dispatch;
    request.groups = static_cast<int>(block.expert_groups);
    request.moetuner.programs = false;  // CBC's answers depend on how long it may run
    placement::PlaceResult found = placement::place(request);
    out.layers = std::move(found.maps);
    out.origin["planned_on"] = in.history != nullptr ? fmt::format("{} other tokens: {}", tokens, history.description())
                                                     : fmt::format("the {} tokens of the workload itself", tokens);
    if (!found.path.empty()) out.origin["placement_path"] = found.path;
    out.origin["planned_max_over_mean"] = fmt::format("{:.4f}", found.max_over_mean());
  } catch (const InputError& e) {
    refuse(e);
  }
  return out;
}

Table route_to_slots(const Table& counts, const Plan& plan, const Groups& groups, const ExpertPlacement& map,
                     const ExpertMaps& maps) {
  const Router router(map, maps, counts.cols());
  Table out(plan.ranks, map.slots());
  for (const std::vector<Rank>& group : groups)
    for (int m = 0; m < static_cast<int>(group.size()); ++m) {
      const int rank = group[at(m)].value();
      const int source = source_of(plan, counts.rows(), rank);
      router.route(source, m, counts.row(source), out.row(rank));
    }
  return out;
}

Table route_to_slots(const Table& counts, const ExpertPlacement& map, const ExpertMaps& maps) {
  const Router router(map, maps, counts.cols());
  Table out(counts.rows(), map.slots());
  for (int r = 0; r < counts.rows(); ++r) router.route(r, r, counts.row(r), out.row(r));
  return out;
}

Table tokens_to_bins(const Routing& routing, int moe_layer, const TokenRanges& sources, const Plan& plan,
                     const Groups& groups, const ExpertPlacement& map, const Table& routed,
                     const std::vector<int>& bin_of_member) {
  const int bins = *std::ranges::max_element(bin_of_member) + 1;
  std::vector<int> bin_of_slot(at(map.slots()));
  std::vector<std::vector<int>> slots_of(at(routing.experts()));
  for (int j = 0; j < map.ranks(); ++j)
    for (int s = map.slot_begin[at(j)]; s < map.slot_begin[at(j) + 1]; ++s) {
      bin_of_slot[at(s)] = bin_of_member[at(j)];
      slots_of[map.expert_of_slot[at(s)].index()].push_back(s);
    }
  if (map.slots() == routing.experts()) {
    std::vector<int> bin_of(at(routing.experts()));
    for (std::size_t e = 0; e < bin_of.size(); ++e) bin_of[e] = bin_of_slot[at(slots_of[e].front())];
    const Table of_sources = distinct_counts(routing, moe_layer, sources, bin_of, bins);
    return of_sources.rows() == plan.ranks ? of_sources : by_rank(of_sources, plan);
  }
  // With replicas a token's way depends on how many copies the replicas before have taken.
  std::vector<Rank> ranks;
  for (const std::vector<Rank>& group : groups) ranks.insert(ranks.end(), group.begin(), group.end());
  Table out(plan.ranks, bins);
  parallel_for(static_cast<int>(ranks.size()), [&](int i) {
    const int rank = ranks[at(i)].value();
    const auto source = at(source_of(plan, static_cast<int>(sources.owners()), rank));
    const auto k = static_cast<std::size_t>(routing.top_k());
    constexpr std::int64_t block_tokens = 1024;
    std::vector<ExpertIndex> ids(static_cast<std::size_t>(block_tokens) * k);
    std::vector<std::int32_t> left(routed.row(rank).begin(), routed.row(rank).end());
    std::vector<std::size_t> replica(slots_of.size());
    std::vector<std::int64_t> last(at(bins), -1);  // token that a bin has been sent last
    for (std::int64_t t = sources.begin[source]; t < sources.begin[source + 1]; t += block_tokens) {
      const std::int64_t n = std::min(block_tokens, sources.begin[source + 1] - t);
      const std::span<ExpertIndex> block(ids.data(), static_cast<std::size_t>(n) * k);
      routing.assign(moe_layer, t, block);
      for (std::size_t c = 0; c < block.size(); ++c) {
        const std::vector<int>& slots = slots_of[block[c]];
        std::size_t& r = replica[block[c]];
        while (left[at(slots[r])] == 0) ++r;
        --left[at(slots[r])];
        const int bin = bin_of_slot[at(slots[r])];
        const std::int64_t token = t + static_cast<std::int64_t>(c / k);
        if (last[at(bin)] != token) ++out.at(rank, bin);
        last[at(bin)] = token;
      }
    }
  });
  return out;
}

}  // namespace moesim::strategies
