// Expert parallelism's MoE layer: dispatch token copies to the ranks that hold their experts, compute, combine
// (GShard, arXiv 2006.16668; DeepSpeed-MoE, arXiv 2201.05596). Shared by the strategies that exchange tokens.
#pragma once

#include <cstdint>
#include <functional>

#include "strategies/expert_maps.hpp"
#include "strategies/transformer.hpp"

namespace moesim::strategies {

struct ExchangeOptions {
  // Tokens per (source rank, expert) are cut or padded to max(min_capacity, ceil(tokens * top_k / experts * factor)),
  // as DeepSpeed-MoE does, and never to more than the source's tokens; 0 = dropless.
  double capacity_factor = 0;
  std::int64_t min_capacity = 0;
  bool once_per_rank = false;      // a token goes once to each rank, however many of its experts are there
  bool once_per_node = false;      // and crosses once to each node, forwarded there (DeepEP)
  bool launch_per_expert = false;  // a GEMM per expert instead of one grouped GEMM
  bool host_sync = true;           // the host reads the counts before it can size the exchange
  int permute_kernels = 1;
  // Ranks that replicate tokens each send a share of them and gather what arrives, instead of all sending all
  // (duplicate token dropping: DeepSpeed-TED, arXiv 2303.06318, section 5.1).
  bool drop_duplicates = false;
  Collective::Algorithm algorithm = Collective::Algorithm::automatic;
  DType dispatch = DType::bf16;  // format on the wire on the way out; the way back is in the activations' format
};

// Options that every exchanging strategy offers, and their values.
std::vector<OptionSpec> exchange_option_specs();
ExchangeOptions exchange_options(const Input& in);

// Where experts come from, when they are not weights that simply live where the placement says.
struct ExpertSource {
  std::function<BufferId(std::size_t part)> weights;  // [slots]: 0 = up (and gate), 1 = down
  std::function<void(BufferId choice)> after_gate;    // adds ops that depend on the gate's choice
  bool local = false;                                 // every rank has every expert: nothing is exchanged
};

// The routed experts of one layer, exchanged inside `groups`; each expert's columns are sliced over `slices` ranks.
// Every group places the experts by `maps` over its members. Returns [token rows, hidden].
BufferId exchange(Transformer& t, const MoeLayer& moe, const Groups& groups, const ExpertMaps& maps, int slices,
                  const ExchangeOptions& options, const ExpertSource& source = {});

}  // namespace moesim::strategies
