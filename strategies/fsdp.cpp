// Fully sharded data parallelism of the experts (ZeRO stage 3, arXiv 1910.02054): every expert is gathered on every
// GPU before its layer, dropped, gathered again in the backward pass, and gradients go back to the owners; tokens stay
// where they are. Dense parameters are replicated: of E experts of two matrices they are 1 part in E + 1.
#include "strategies/gathered_experts.hpp"

namespace moesim::strategies {
namespace {

Plan plan_fsdp(const Input& in) {
  check_gathered(in);
  std::vector<LayerPlacement> layers;
  const int ranks = in.cluster.ranks();
  for (const TransformerLayer& layer : in.model.layers) {
    if (!layer.moe) continue;
    const auto experts = static_cast<int>(layer.moe->experts);
    LayerPlacement p{contiguous_placement(experts, ranks), {}, {}, {}};
    for (int r = 0; r < ranks; ++r) {
      for (int e = 0; e < experts; ++e) p.before.expert_of_slot.emplace_back(e);
      p.before.slot_begin.push_back(p.before.slots());
    }
    layers.push_back(std::move(p));
  }
  return plan_gathered(in, layers, {in.options.flag("gather_again"), true});
}

}  // namespace

Strategy fsdp() {
  return {"fsdp",
          "every expert gathered on every GPU, tokens stay (ZeRO-3)",
          {{"gather_again", true, "drop parameters after the forward pass and gather them again", 0, 0, {}}},
          plan_fsdp};
}

}  // namespace moesim::strategies
