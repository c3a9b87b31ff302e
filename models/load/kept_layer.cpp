#include "models/load/kept_layer.hpp"

#include <algorithm>

#include "support/parallel.hpp"

namespace moesim::load {

KeptLayer::KeptLayer(const Routing& routing, int moe_layer, std::int64_t tokens)
    : routing_(routing), layer_(moe_layer) {
  constexpr std::int64_t most = std::int64_t{1} << 27;  // decisions
  constexpr std::int64_t task_tokens = 1 << 14;
  const std::int64_t k = routing.top_k();
  if (tokens > most / k) return;
  kept_.resize(static_cast<std::size_t>(tokens * k));
  parallel_for(static_cast<int>((tokens + task_tokens - 1) / task_tokens), [&](int task) {
    const std::int64_t from = task * task_tokens, n = std::min(task_tokens, tokens - from);
    routing.assign(layer_, from,
                   std::span(kept_).subspan(static_cast<std::size_t>(from * k), static_cast<std::size_t>(n * k)));
  });
}

void KeptLayer::assign(int moe_layer, std::int64_t first, std::span<ExpertIndex> out) const {
  const std::size_t begin = static_cast<std::size_t>(first) * static_cast<std::size_t>(top_k());
  if (moe_layer != layer_ || begin + out.size() > kept_.size()) return routing_.assign(moe_layer, first, out);
  std::copy_n(kept_.begin() + static_cast<std::ptrdiff_t>(begin), out.size(), out.begin());
}

}  // namespace moesim::load
