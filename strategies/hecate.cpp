// Hecate (arXiv 2502.02581): parameters and optimizer states of experts are sharded over all GPUs by load; each
// iteration gathers copies of the experts that are expected to be hot while attention runs, corrects the choice after
// the gate where that pays, and adds the copies' gradients at their owners while the attention's backward pass runs.
#include "strategies/hecate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "strategies/expert_maps.hpp"
#include "strategies/gathered_experts.hpp"
#include "strategies/materialization/materialization.hpp"

namespace moesim::strategies {
namespace {

using materialization::Loads;

struct HecateState final : StrategyState {
  std::vector<ExpertPlacement> owners;  // by MoE layer
};

const MoeBlock& first_block(const Model& model) {
  return *std::ranges::find_if(model.layers, [](const TransformerLayer& l) { return l.moe.has_value(); })->moe;
}

// How long one layer takes with a placement, as far as placements differ: the slowest device's experts, forward and
// backward, and four exchanges through the busiest node's NICs.
class LayerEstimate {
 public:
  LayerEstimate(const Input& in, const MoeBlock& block) : in_(in), expert_(expert_bytes(in, block)) {
    maps_.dispatch = placement::Dispatch::local_first;
    for (int r = 0; r < in.cluster.ranks(); ++r) maps_.node_of_member.push_back(r / in.cluster.gpus_per_node);
    per_copy_ = 3 * seconds_per_copy(in, block);
    const double row = static_cast<double>(storage(in.model.hidden, in.workload.activations).value());
    per_crossing_ = 4 * row / gathering_bandwidth(in.cluster).value();
  }

  [[nodiscard]] double seconds(const ExpertPlacement& placement, const Table& counts) const {
    const int per_node = in_.cluster.gpus_per_node;
    const Table routed = route_to_slots(counts, placement, maps_);
    std::vector<double> device(static_cast<std::size_t>(placement.ranks()));
    std::vector<double> crossing(static_cast<std::size_t>(in_.cluster.nodes));
    for (int d = 0; d < placement.ranks(); ++d)
      for (int s = placement.slot_begin[static_cast<std::size_t>(d)];
           s < placement.slot_begin[static_cast<std::size_t>(d) + 1]; ++s)
        for (int r = 0; r < routed.rows(); ++r) {
          device[static_cast<std::size_t>(d)] += routed.at(r, s);
          const bool crosses = in_.cluster.nodes > 1 ? d / per_node != r / per_node : d != r;
          if (crosses) crossing[static_cast<std::size_t>(d / per_node)] += routed.at(r, s);
        }
    return per_copy_ * *std::ranges::max_element(device) + per_crossing_ * *std::ranges::max_element(crossing);
  }

  // What gathering more adds when nothing hides it.
  [[nodiscard]] double exposed(const ExpertPlacement& from, const ExpertPlacement& to) const {
    const Table moved = materialization::moves(from, to);
    double most = 0;
    for (int d = 0; d < moved.cols(); ++d) {
      double here = 0;
      for (int r = 0; r < moved.rows(); ++r) here += moved.at(r, d);
      most = std::max(most, here);
    }
    return most * static_cast<double>(expert_.value()) / gathering_bandwidth(in_.cluster).value();
  }

 private:
  const Input& in_;
  Bytes expert_;
  ExpertMaps maps_;
  double per_copy_ = 0;
  double per_crossing_ = 0;
};

// Free slots per device and layer: the memory that may hold copies, over the layers whose copies are there at once.
std::int64_t free_slots(const Input& in, std::int64_t t) {
  const double budget = in.options.real("budget_gib");
  if (budget <= 0) return t;
  const MoeBlock& block = first_block(in.model);
  const std::int64_t layers =
      in.options.flag("gather_again") ? std::min(2, in.model.moe_layers()) : in.model.moe_layers();
  const double expert = static_cast<double>(expert_bytes(in, block).value());
  const auto slots = static_cast<std::int64_t>(budget * 1073741824.0 / (expert * static_cast<double>(layers)));
  if (slots < 1)
    throw Infeasible(fmt::format(
        "budget_gib = {} holds no copy of an expert: {} layers of {} bytes are there at once, "
        "at least {:.6f} are needed",
        budget, layers, expert_bytes(in, block).value(), expert * static_cast<double>(layers) / 1073741824.0));
  return slots;
}

}  // namespace

DecisionKernels::DecisionKernels(const Input& in)
    : own_(in.kernels == nullptr ? cost::make_roofline(in.cluster.gpu) : nullptr),
      kernels_(in.kernels == nullptr ? own_.get() : in.kernels) {}

double seconds_per_copy(const Input& in, const MoeBlock& block) {
  const DecisionKernels kernels(in);
  const std::int64_t copies = in.workload.sequences * in.workload.new_tokens() * block.top_k;
  const auto mean = static_cast<std::int32_t>(std::max<std::int64_t>(1, copies / block.experts));
  const std::vector<std::int32_t> rows(
      static_cast<std::size_t>(std::max<std::int64_t>(1, block.experts / in.cluster.ranks())), mean);
  const DType act = in.workload.activations;
  const Math math = in.workload.math.value_or(natural_math(in.model.expert_weights));
  const auto product = [&](std::int64_t n, std::int64_t k) {
    return to_seconds(kernels
                          ->grouped_gemm({rows, static_cast<std::int64_t>(rows.size()), n, k, act,
                                          in.model.expert_weights, act, math})
                          .duration);
  };
  const std::int64_t f = block.expert.intermediate;
  return (product(block.expert.gated ? 2 * f : f, in.model.hidden) + product(in.model.hidden, f)) /
         (static_cast<double>(mean) * static_cast<double>(rows.size()));
}

Picoseconds attention_time(const Input& in) {
  const Model& m = in.model;
  const auto layer = std::ranges::find_if(m.layers, [](const TransformerLayer& l) { return l.moe && l.attention; });
  if (layer == m.layers.end()) return Picoseconds(0);
  const Attention& a = *layer->attention;
  const DecisionKernels kernels(in);
  const DType act = in.workload.activations;
  const Math math = in.workload.math.value_or(natural_math(m.weights));
  const std::int64_t sequences = in.workload.sequences / in.cluster.ranks();
  const std::int64_t tokens = sequences * in.workload.sequence_length;
  const std::int64_t qkv = a.heads * a.qk_head_dim + a.kv_heads * (a.qk_head_dim + a.v_head_dim);
  cost::AttentionShape core{sequences,
                            in.workload.sequence_length,
                            in.workload.sequence_length,
                            a.heads,
                            a.qk_head_dim,
                            a.v_head_dim,
                            a.kv_heads * (a.qk_head_dim + a.v_head_dim)};
  core.causal = layer->decoder;
  core.dtype = act;
  core.math = math;
  // The norm's rows, and without learned positions those that rotate.
  const Bytes rows = storage(tokens * (m.hidden * 4 + (m.positions > 0 ? 0 : 2 * qkv)), act);
  return kernels->gemm({tokens, qkv, m.hidden, 1, act, m.weights, act, math}).duration +
         kernels->gemm({tokens, m.hidden, a.heads * a.v_head_dim, 1, act, m.weights, act, math}).duration +
         kernels->attention(core).duration + kernels->streaming(rows, Flops(0)).duration;
}

BytesPerSecond gathering_bandwidth(const Cluster& cluster) {
  const Topology& topology = *cluster.topology;
  const auto slowest = [&](Rank from, Rank to) {
    const auto route = topology.route(from, to);
    return *std::ranges::min_element(route, {}, [&](LinkId l) { return topology.links()[l.index()].capacity; });
  };
  if (cluster.nodes == 1) return topology.links()[slowest(Rank(1), Rank(0)).index()].capacity;
  std::set<LinkId> cards;
  for (int g = 0; g < cluster.gpus_per_node; ++g) cards.insert(slowest(Rank(cluster.gpus_per_node + g), Rank(g)));
  BytesPerSecond sum;
  for (const LinkId l : cards) sum = sum + topology.links()[l.index()].capacity;
  return sum;
}

Plan plan_hecate(const Input& in, const HecateParts& parts) {
  check_gathered(in);
  const MoeBlock& block = first_block(in.model);
  const int ranks = in.cluster.ranks();
  const int per_node = in.cluster.gpus_per_node;
  const auto layers = static_cast<std::size_t>(in.model.moe_layers());
  LoadHistory none;
  LoadHistory& past = in.past != nullptr ? *in.past : none;
  const std::vector<Loads> load = past.estimate(in.routing);

  std::int64_t t = 0;
  std::int64_t slots = 0;
  bool again = false;
  bool calibrate = false;
  if (parts.materialization) {
    t = in.options.integer("overlap_degree");
    if (t < 0)
      t = materialization::overlap_degree(attention_time(in), gathering_bandwidth(in.cluster), expert_bytes(in, block));
    slots = free_slots(in, t);
    again = in.options.flag("gather_again");
    calibrate = in.options.flag("calibrate");
  }

  std::vector<LayerPlacement> placements(layers);
  auto* state = dynamic_cast<HecateState*>(past.state.get());
  const ExpertPlacement contiguous = contiguous_placement(static_cast<int>(block.experts), ranks);
  const std::vector<ExpertPlacement> before =
      state != nullptr ? state->owners : std::vector<ExpertPlacement>(layers, contiguous);
  std::vector<ExpertPlacement> owners = before;
  // The first loads are known after the first iteration.
  const bool due =
      parts.sharding && past.iterations() > 0 && (past.iterations() - 1) % in.options.integer("reshard_every") == 0;
  if (due) owners = materialization::shard_heterogeneously(load, t, ranks, per_node);

  for (std::size_t l = 0; l < layers; ++l) {
    LayerPlacement& p = placements[l];
    p.owners = owners[l];
    if (owners[l] != before[l]) p.moved_from = before[l];
    p.before = materialization::materialize(p.owners, load[l], t, slots, per_node);
    if (!calibrate) continue;
    // The same again on the true loads, on top of what is there already; taken where the layer gets faster by more than
    // the gathering costs.
    const Table counts = current_counts(in, static_cast<int>(l));
    Loads truth(static_cast<std::size_t>(counts.cols()));
    for (int r = 0; r < counts.rows(); ++r)
      for (int e = 0; e < counts.cols(); ++e) truth[static_cast<std::size_t>(e)] += counts.at(r, e);
    const ExpertPlacement better = materialization::materialize(p.before, truth, t, slots, per_node);
    const LayerEstimate estimate(in, block);
    if (estimate.seconds(better, counts) + estimate.exposed(p.before, better) < estimate.seconds(p.before, counts))
      p.after = better;
  }
  if (state == nullptr) {
    auto fresh = std::make_unique<HecateState>();
    state = fresh.get();
    past.state = std::move(fresh);
  }
  state->owners = std::move(owners);
  return plan_gathered(in, placements, {again, false, true});
}

std::vector<OptionSpec> hecate_options(const HecateParts& parts) {
  std::vector<OptionSpec> out;
  if (parts.materialization) {
    out.push_back({"overlap_degree",
                   std::int64_t{-1},
                   "hottest experts that are gathered; -1 = as many as the attention block hides",
                   -1,
                   65535,
                   {}});
    out.push_back(
        {"budget_gib", 0.0, "memory of a rank for copies, which limits them per layer; 0 = no limit", 0, 1e6, {}});
    out.push_back({"gather_again", false, "re-materialization: drop copies after the forward pass", 0, 0, {}});
    out.push_back({"calibrate", true, "gather more after the gate where that pays", 0, 0, {}});
  }
  if (parts.sharding)
    out.push_back({"reshard_every", std::int64_t{100}, "iterations between two shardings by load", 1, 1e9, {}});
  return out;
}

Strategy hecate() {
  return {"hecate", "fully sharded experts by load, hot ones gathered beside attention (FSSDP)", hecate_options({}),
          [](const Input& in) { return plan_hecate(in, {}); }};
}

}  // namespace moesim::strategies
