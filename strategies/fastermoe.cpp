// FasterMoE (PPoPP'22): expert parallelism that shadows hot experts. After each gate it sends the hottest experts of
// this very iteration to every GPU where its model says that this pays, and adds their gradients at the owner.
#include "strategies/gathered_experts.hpp"
#include "strategies/hecate.hpp"
#include "strategies/materialization/materialization.hpp"

namespace moesim::strategies {
namespace {

Plan plan_fastermoe(const Input& in) {
  check_gathered(in);
  // A GPU's share of what leaves and enters its node.
  const double network =
      gathering_bandwidth(in.cluster).value() / (in.cluster.nodes > 1 ? in.cluster.gpus_per_node : 1);
  std::vector<LayerPlacement> layers;
  for (const TransformerLayer& layer : in.model.layers) {
    if (!layer.moe) continue;
    const ExpertPlacement owners = contiguous_placement(static_cast<int>(layer.moe->experts), in.cluster.ranks());
    const double row = static_cast<double>(storage(in.model.hidden, in.workload.activations).value());
    const double expert = static_cast<double>(expert_bytes(in, *layer.moe).value());
    const Table counts = current_counts(in, static_cast<int>(layers.size()));
    LayerPlacement p{owners, owners, {}, {}};
    p.after = materialization::shadow(owners, counts,
                                      {3 * seconds_per_copy(in, *layer.moe), 4 * row / network, 2 * expert / network});
    layers.push_back(std::move(p));
  }
  return plan_gathered(in, layers, {});
}

}  // namespace

Strategy fastermoe() {
  return {"fastermoe", "hot experts shadowed on every GPU after each gate (FasterMoE)", {}, plan_fastermoe};
}

}  // namespace moesim::strategies
