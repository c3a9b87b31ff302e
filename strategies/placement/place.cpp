#include "strategies/placement/place.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "moesim/error.hpp"
#include "strategies/placement/affinity_search.hpp"
#include "strategies/placement/eplb.hpp"
#include "strategies/placement/local_search.hpp"
#include "strategies/placement/moving.hpp"
#include "strategies/placement/packing.hpp"

namespace moesim::placement {

namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

// ---- the request
// -----------------------------------------------------------------------------------------------------

void check(const PlaceRequest& r) {
  std::vector<Diagnostic> faults;
  const auto fault = [&](std::string message, std::string hint = {}) {
    faults.push_back({{}, std::move(message), std::move(hint)});
  };
  const int experts = r.loads.experts();
  if (r.loads.layers() < 1 || experts < 1) fault("there are no loads to place experts by");
  if (r.shape.gpus < 1 || r.shape.nodes < 1 || r.shape.gpus % std::max(1, r.shape.nodes) != 0)
    fault(fmt::format("{} GPUs on {} nodes: equal numbers are needed", r.shape.gpus, r.shape.nodes));
  else if (r.shape.slots() < experts)
    fault(fmt::format("{} slots ({} on each of {} GPUs) for {} experts", r.shape.slots(), r.shape.slots_per_gpu,
                      r.shape.gpus, experts),
          fmt::format("every expert needs a slot: at least {} a GPU", (experts + r.shape.gpus - 1) / r.shape.gpus));
  if (r.shape.slots_per_gpu > experts && r.shape.slots() >= experts)
    fault(fmt::format("{} slots a GPU for {} experts: a GPU holds each expert once", r.shape.slots_per_gpu, experts));
  if (!(r.shape.intra.value() > 0) || !(r.shape.inter.value() > 0)) fault("bandwidths have to be greater than zero");
  if (r.groups < 1 || (experts > 0 && experts % r.groups != 0))
    fault(fmt::format("{} experts in {} groups: groups of equal size are needed", experts, r.groups));
  for (int l = 0; l < r.loads.layers(); ++l)
    for (const double load : r.loads.layer(l))
      if (!std::isfinite(load) || load < 0) {
        fault(fmt::format("MoE layer {} has a load of {}", l, load), "loads are numbers of tokens: zero or more");
        break;
      }
  const auto fits = [&](const Movement& m, int layers, const char* name) {
    const bool sound = static_cast<int>(m.size()) == layers && std::all_of(m.begin(), m.end(), [&](const Table& t) {
                         return t.rows() == experts && t.cols() == experts;
                       });
    if (!m.empty() && !sound)
      fault(fmt::format("{} is not of {} tables of {} x {} experts", name, layers, experts, experts));
  };
  fits(r.movement, r.loads.layers() - 1, "movement");
  fits(r.company, r.loads.layers(), "company");
  if (r.mode == Mode::stay && r.movement.empty() && r.loads.layers() > 1)
    fault("mode stay needs the movement of tokens between layers", "measure it from a routing trace");
  if (!faults.empty()) throw InputError(std::move(faults));
}

// Fewer slots where memory asks for it.
void fit_memory(PlaceRequest& r, PlaceResult& out) {
  if (!r.memory_per_gpu || r.expert_bytes.value() <= 0) return;
  const std::int64_t fit = r.memory_per_gpu->value() / r.expert_bytes.value() / r.loads.layers();
  if (fit >= r.shape.slots_per_gpu) return;
  const int least = (r.loads.experts() + r.shape.gpus - 1) / r.shape.gpus;
  if (fit < least)
    throw InputError({},
                     fmt::format("a GPU has memory for {} experts a layer; {} experts on {} GPUs need {}", fit,
                                 r.loads.experts(), r.shape.gpus, least),
                     "use more GPUs, or a smaller number format for experts");
  out.fallback = "fewer_replicas";
  out.notes.push_back(fmt::format("memory allows {} slots a GPU and layer instead of {}", fit, r.shape.slots_per_gpu));
  r.shape.slots_per_gpu = static_cast<int>(fit);
}

// ---- simple methods
// --------------------------------------------------------------------------------------------------

// Experts in order over and over: GPU by GPU, or one to each GPU in turn. In turn, every round through the experts
// begins one GPU later, so that replicas do not meet.
ExpertPlacement dealt(int experts, const ClusterShape& shape, bool in_turn) {
  ExpertPlacement map;
  for (int g = 0; g < shape.gpus; ++g) {
    for (int s = 0; s < shape.slots_per_gpu; ++s) {
      const int i = in_turn ? s * shape.gpus + g : g * shape.slots_per_gpu + s;
      map.expert_of_slot.emplace_back((in_turn ? i + i / experts : i) % experts);
    }
    map.slot_begin.push_back(map.slots());
  }
  return map;
}

ExpertPlacement longest_first(std::span<const double> loads, const ClusterShape& shape) {
  std::vector<int> count(loads.size(), 1);
  for (int left = shape.slots() - static_cast<int>(loads.size()); left > 0; --left) {
    std::size_t largest = loads.size();
    for (std::size_t e = 0; e < loads.size(); ++e)
      if (count[e] < shape.gpus && (largest == loads.size() || loads[e] / count[e] > loads[largest] / count[largest]))
        largest = e;
    ++count[largest];
  }
  std::vector<Replica> replicas;
  for (std::size_t e = 0; e < loads.size(); ++e)
    for (int i = 0; i < count[e]; ++i) replicas.push_back({static_cast<int>(e), 0, loads[e] / count[e]});
  ClusterShape flat = shape;
  flat.nodes = 1;
  Packing packing(static_cast<int>(loads.size()), flat);
  packing.fill(replicas);
  return packing.placement();
}

// ---- dispatch on the method
// ------------------------------------------------------------------------------------------

void place_by_layer(const PlaceRequest& r, PlaceResult& out) {
  int exchanges = 0;
  SearchOptions search{.dispatch = r.dispatch, .groups = r.groups};
  if (r.tolerance >= 0) search.tolerance = r.tolerance;
  for (int l = 0; l < r.loads.layers(); ++l) {
    const auto loads = r.loads.layer(l);
    switch (r.method) {
      case Method::contiguous:
        out.maps.push_back(dealt(r.loads.experts(), r.shape, false));
        break;
      case Method::round_robin:
        out.maps.push_back(dealt(r.loads.experts(), r.shape, true));
        break;
      case Method::lpt:
        out.maps.push_back(longest_first(loads, r.shape));
        break;
      case Method::eplb:
        out.maps.push_back(eplb(loads, r.shape, r.groups));
        break;
      case Method::local_search:
        out.maps.push_back(search_layer(loads, r.shape, search));
        break;
      case Method::moetuner:
        break;
    }
    if (r.method != Method::local_search) exchanges += distinct_replicas(out.maps.back(), loads, r.shape);
  }
  if (exchanges > 0)
    out.notes.push_back(
        fmt::format("{} replicas shared a GPU with another of their expert and were exchanged", exchanges));
  if (r.method == Method::eplb)
    out.path =
        eplb_policy(r.groups, r.shape.nodes) == EplbPolicy::hierarchical ? "hierarchical policy" : "global policy";
}

void place_moetuner(const PlaceRequest& r, PlaceResult& out) {
  MoetunerOptions options = r.moetuner;
  options.mode = r.mode;
  MoetunerResult result = moetuner(r.loads, r.movement, r.shape, options);
  out.maps = std::move(result.maps);
  std::vector<std::pair<std::string, int>> paths;  // of the first program, with the number of layers
  for (const SolveReport& report : result.balance) {
    const auto known = std::find_if(paths.begin(), paths.end(), [&](const auto& p) { return p.first == report.path; });
    if (known == paths.end())
      paths.emplace_back(report.path, 1);
    else
      ++known->second;
  }
  for (const auto& [path, layers] : paths)
    out.path += fmt::format("{}balance: {} ({} layers)", out.path.empty() ? "" : "; ", path, layers);
  if (!result.chain.path.empty()) out.path += fmt::format("; communication: {}", result.chain.path);
  out.gap = result.chain.gap;
  for (const SolveReport& report : result.balance) out.gap = std::max(out.gap, report.gap);
  if (r.mode == Mode::return_home)
    out.notes.emplace_back(
        "the second program was not solved: tokens that return home after every layer travel as far under any "
        "placement "
        "of the clusters");
  if (r.shape.slots() > r.loads.experts()) out.notes.emplace_back("moetuner makes no replicas: spare slots stay empty");
  if (result.fallback.empty()) return;
  out.fallback = result.fallback;
  out.notes.push_back("clusters of equal size instead of the best balanced ones: " + result.reason);
}

void place_affinity(const PlaceRequest& r, PlaceResult& out) {
  AffinityOptions options;
  if (r.tolerance >= 0) options.tolerance = r.tolerance;
  out.maps = affinity_search(r.loads, r.movement, r.company, r.shape, options);
  out.path = "exchanges over all layers";
}

void add_figures(const PlaceRequest& r, PlaceResult& out) {
  ClusterShape unreplicated = r.shape;
  unreplicated.slots_per_gpu = r.loads.experts() / r.shape.gpus;
  const bool free_sizes = r.method == Method::moetuner;
  double all = 0;
  for (int l = 0; l < r.loads.layers(); ++l) {
    const auto loads = r.loads.layer(l);
    const double sum = std::accumulate(loads.begin(), loads.end(), 0.0);
    const double mean = sum / r.shape.gpus;
    LayerFigures figures;
    if (mean > 0) {
      // Experts that do not divide by the GPUs leave slots empty, and empty slots keep no cold experts company.
      const double alone = r.loads.experts() % r.shape.gpus == 0 ? lower_bound(loads, unreplicated)
                                                                 : lower_bound_free_sizes(loads, r.shape.gpus);
      figures.max_over_mean = max_over_mean(gpu_loads(loads, out.maps[at(l)], r.shape, r.dispatch));
      figures.bound = (free_sizes ? lower_bound_free_sizes(loads, r.shape.gpus) : lower_bound(loads, r.shape)) / mean;
      figures.bound_unreplicated = (free_sizes ? lower_bound_free_sizes(loads, r.shape.gpus) : alone) / mean;
      const CopyShares shares = copy_shares(loads, out.maps[at(l)], r.shape, r.dispatch);
      out.copies.own_gpu += sum * shares.own_gpu;
      out.copies.own_node += sum * shares.own_node;
      out.copies.other_nodes += sum * shares.other_nodes;
      all += sum;
    }
    if (r.method != Method::moetuner) out.gap = std::max(out.gap, figures.max_over_mean / figures.bound - 1);
    out.layers.push_back(figures);
  }
  if (all > 0) {
    out.copies.own_gpu /= all;
    out.copies.own_node /= all;
    out.copies.other_nodes /= all;
  }
  if (!r.movement.empty()) out.movement_cost = movement_cost(out.maps, r.movement, r.company, r.shape);
}

double mean_of(const std::vector<LayerFigures>& layers, double LayerFigures::* figure) {
  double sum = 0;
  for (const LayerFigures& l : layers) sum += l.*figure;
  return layers.empty() ? 1 : sum / static_cast<double>(layers.size());
}

}  // namespace

const std::vector<MethodInfo>& methods() {
  static const std::vector<MethodInfo> all{
      {Method::contiguous, "contiguous", "expert ids in order"},
      {Method::round_robin, "round_robin", "expert e on GPU e mod G"},
      {Method::lpt, "lpt", "replicate the largest shares, then longest processing time first"},
      {Method::eplb, "eplb", "DeepSeek's EPLB as published; hierarchical where nodes divide groups, else global"},
      {Method::moetuner, "moetuner", "MoETuner's integer programs: balance, then communication; no replicas"},
      {Method::local_search, "local_search", "replicas and packing together, traffic between nodes in the objective"},
  };
  return all;
}

std::string_view to_string(Method method) {
  for (const MethodInfo& m : methods())
    if (m.method == method) return m.name;
  return "";
}

std::optional<Method> parse_method(std::string_view name) {
  for (const MethodInfo& m : methods())
    if (m.name == name) return m.method;
  return std::nullopt;
}

double PlaceResult::max_over_mean() const { return mean_of(layers, &LayerFigures::max_over_mean); }
double PlaceResult::bound() const { return mean_of(layers, &LayerFigures::bound); }
double PlaceResult::bound_unreplicated() const { return mean_of(layers, &LayerFigures::bound_unreplicated); }
double PlaceResult::worst_max_over_mean() const {
  double worst = 1;
  for (const LayerFigures& l : layers) worst = std::max(worst, l.max_over_mean);
  return worst;
}

PlaceResult place(const PlaceRequest& asked) {
  const auto start = std::chrono::steady_clock::now();
  check(asked);
  PlaceRequest request = asked;
  PlaceResult out;
  out.method = request.method;
  fit_memory(request, out);
  out.shape = request.shape;
  if (request.method == Method::moetuner)
    place_moetuner(request, out);
  else if (request.method == Method::local_search && request.mode == Mode::stay && request.loads.layers() > 1)
    place_affinity(request, out);
  else
    place_by_layer(request, out);
  if (!request.current.empty() && request.mode == Mode::return_home)
    out.maps = align(out.maps, request.current, request.shape);
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  add_figures(request, out);
  return out;
}

PlaceResult judge(const PlaceRequest& asked, const LayerMaps& maps) {
  PlaceRequest request = asked;
  int most = 0;
  for (const ExpertPlacement& map : maps)
    for (int g = 0; g < map.ranks(); ++g) most = std::max(most, map.slots_on(Rank(g)));
  request.shape.slots_per_gpu = most;
  check(request);
  PlaceResult out;
  out.method = request.method;
  out.maps = maps;
  out.shape = request.shape;
  add_figures(request, out);
  return out;
}

int slots_for(int experts, int gpus, int replicas) {
  if (gpus < 1) throw InputError({}, fmt::format("{} GPUs", gpus));
  if (replicas < 0) throw InputError({}, fmt::format("{} replicas: zero or more", replicas));
  const int slots = experts + replicas;
  if (slots % gpus == 0) return slots / gpus;
  const int more = gpus - slots % gpus;
  const int fewer = replicas - slots % gpus;
  throw InputError({}, fmt::format("{} experts and {} replicas do not divide by {} GPUs", experts, replicas, gpus),
                   fewer >= 0 ? fmt::format("{} or {} replicas do", fewer, replicas + more)
                              : fmt::format("{} replicas do", replicas + more));
}

}  // namespace moesim::placement
