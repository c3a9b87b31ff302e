// Routing with closed counts: the copies of a block of n tokens lie expert by expert on a line of n k places, and token
// t of the block takes places t, t + n, ... . No expert has more than n, so a token's experts are distinct.
#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

#include "models/load/apportion.hpp"
#include "models/load/counter_rng.hpp"
#include "models/load/inclusion.hpp"
#include "models/load/load_sequence.hpp"

namespace moesim::load {
namespace {

class BlockRouting final : public Routing {
 public:
  explicit BlockRouting(BlockSpec spec) : spec_(std::move(spec)), blocks_(spec_.shape.tokens / spec_.sequence) {
    assert(spec_.shape.tokens % spec_.sequence == 0);
    counts_.resize(spec_.shares.size());
    order_.resize(spec_.shares.size());
    for (std::size_t l = 0; l < counts_.size(); ++l) fill(l);
  }
  [[nodiscard]] int moe_layers() const override { return spec_.shape.moe_layers; }
  [[nodiscard]] int experts() const override { return spec_.shape.experts; }
  [[nodiscard]] int top_k() const override { return spec_.shape.top_k; }
  [[nodiscard]] std::int64_t tokens() const override { return spec_.shape.tokens; }
  [[nodiscard]] bool synthetic() const override { return spec_.synthetic; }
  [[nodiscard]] std::string description() const override { return spec_.description; }

  void assign(int moe_layer, std::int64_t first, std::span<ExpertIndex> out) const override {
    const auto k = static_cast<std::size_t>(top_k());
    std::vector<ExpertIndex> line;
    std::int64_t block = -1;
    for (std::size_t i = 0; i * k < out.size(); ++i) {
      const std::int64_t token = first + static_cast<std::int64_t>(i);
      if (token / spec_.sequence != block) {
        block = token / spec_.sequence;
        line = copies(static_cast<std::size_t>(moe_layer), block);
      }
      for (std::size_t j = 0; j < k; ++j)
        out[i * k + j] =
            line[static_cast<std::size_t>(token % spec_.sequence) + j * static_cast<std::size_t>(spec_.sequence)];
    }
  }

  [[nodiscard]] bool count(int moe_layer, std::int64_t first, std::int64_t count,
                           std::span<std::int32_t> row) const override {
    if (first % spec_.sequence != 0 || count % spec_.sequence != 0) return false;
    for (std::int64_t b = first / spec_.sequence; b < (first + count) / spec_.sequence; ++b) {
      const auto counts = of_block(static_cast<std::size_t>(moe_layer), b);
      for (std::size_t e = 0; e < row.size(); ++e) row[e] += counts[e];
    }
    return true;
  }

 private:
  void fill(std::size_t layer) {
    const auto experts = static_cast<std::size_t>(spec_.shape.experts);
    order_[layer].resize(experts);
    std::iota(order_[layer].begin(), order_[layer].end(), ExpertIndex{0});
    const int l = static_cast<int>(layer);
    Draws shuffling(key_of(spec_.seed, Purpose::order, l), 0);
    shuffle(std::span(order_[layer]), shuffling);
    const std::int64_t different = spec_.spread > 0 ? blocks_ : std::min<std::int64_t>(blocks_, 1);
    counts_[layer].reserve(static_cast<std::size_t>(different) * experts);
    for (std::int64_t b = 0; b < different; ++b) {
      std::vector<double> weights = spec_.shares[layer];
      if (spec_.spread > 0) {
        Draws draws(key_of(spec_.seed, Purpose::spread, l), static_cast<std::uint64_t>(b));
        for (double& w : weights) w *= std::exp(spec_.spread * normal(draws));
      }
      std::vector<double> quotas = capped(weights, spec_.shape.top_k);
      for (double& q : quotas) q *= static_cast<double>(spec_.sequence);
      for (const std::int64_t n : apportion(quotas, spec_.sequence * spec_.shape.top_k))
        counts_[layer].push_back(static_cast<std::int32_t>(n));
    }
  }

  [[nodiscard]] std::span<const std::int32_t> of_block(std::size_t layer, std::int64_t block) const {
    const auto experts = static_cast<std::size_t>(spec_.shape.experts);
    const std::size_t at = counts_[layer].size() == experts ? 0 : static_cast<std::size_t>(block) * experts;
    return std::span(counts_[layer]).subspan(at, experts);
  }

  [[nodiscard]] std::vector<ExpertIndex> copies(std::size_t layer, std::int64_t block) const {
    const auto counts = of_block(layer, block);
    std::vector<ExpertIndex> line;
    for (const ExpertIndex e : order_[layer]) line.insert(line.end(), static_cast<std::size_t>(counts[e]), e);
    return line;
  }

  BlockSpec spec_;
  std::int64_t blocks_;
  std::vector<std::vector<std::int32_t>> counts_;  // [layer][block, expert]; one block where all are the same
  std::vector<std::vector<ExpertIndex>> order_;    // [layer]: of the experts on the line
};

}  // namespace

std::unique_ptr<const Routing> make_block_routing(const BlockSpec& spec) {
  return std::make_unique<BlockRouting>(spec);
}

}  // namespace moesim::load
