// Models and placements of training steps that are small enough to compute many times.
#pragma once

#include <random>

#include "strategies/materialization/holders.hpp"
#include "tests/common/cases.hpp"

namespace moesim::test {

inline Model tiny(DType dtype, int layers, std::int64_t experts, std::int64_t top_k, bool gated, bool tied,
                  std::int64_t intermediate = 12) {
  Model m;
  m.name = "tiny";
  m.hidden = 8;
  m.vocabulary = 11;
  m.tied_embeddings = tied;
  m.weights = m.expert_weights = dtype;
  for (int i = 0; i < layers; ++i) {
    TransformerLayer layer;
    layer.attention = Attention{};
    layer.attention->heads = 2;
    layer.attention->kv_heads = i == 0 ? 2 : 1;
    layer.attention->qk_head_dim = layer.attention->v_head_dim = 4;
    MoeBlock moe;
    moe.experts = experts;
    moe.top_k = top_k;
    moe.expert = {intermediate, gated, false, gated ? Activation::silu : Activation::gelu};
    layer.moe = moe;
    m.layers.push_back(layer);
  }
  return m;
}

inline Workload train(std::int64_t sequences, std::int64_t length, DType activations = DType::f32,
                      bool recompute = false) {
  Workload w = moesim::testing::prefill(sequences, length, activations);
  w.phase = Workload::Phase::train;
  w.recompute = recompute;
  return w;
}

inline ExpertPlacement random_owners(int experts, int ranks, std::mt19937& random) {
  materialization::Holders held(experts, ranks);
  for (int e = 0; e < experts; ++e) held.set(e, static_cast<int>(random() % static_cast<unsigned>(ranks)), true);
  return held.placement();
}

inline ExpertPlacement with_copies(const ExpertPlacement& owners, int experts, std::mt19937& random) {
  materialization::Holders held(owners, experts);
  for (int e = 0; e < experts; ++e)
    for (int d = 0; d < held.devices(); ++d)
      if (random() % 3 == 0) held.set(e, d, true);
  return held.placement();
}

}  // namespace moesim::test
