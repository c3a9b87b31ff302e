#include "models/load/load_sequence.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "models/load/counter_rng.hpp"
#include "models/load/counts.hpp"

namespace moesim::load {
namespace {

// The share at upper-tail probability u: shares by falling popularity stand at (i + 1/2) / n.
double quantile(const std::vector<double>& falling, double u) {
  const double last = static_cast<double>(falling.size()) - 1;
  const double at = std::clamp(u * static_cast<double>(falling.size()) - 0.5, 0.0, last);
  const auto i = static_cast<std::size_t>(at);
  const std::size_t j = std::min(i + 1, falling.size() - 1);
  constexpr double least = 1e-12;  // a law may leave an expert without tokens
  const double low = std::log(std::max(falling[i], least));
  const double high = std::log(std::max(falling[j], least));
  return std::exp(low + (at - static_cast<double>(i)) * (high - low));
}

class Drifting final : public LoadSequence {
 public:
  Drifting(const RoutingShape& shape, std::int64_t sequence, const Law& law, const Dynamics& dynamics,
           std::uint64_t seed)
      : shape_(shape), sequence_(sequence), dynamics_(dynamics), seed_(seed) {
    const auto layers = static_cast<std::size_t>(shape.moe_layers);
    latents_.assign(layers, std::vector<double>(static_cast<std::size_t>(shape.experts)));
    shares_ = latents_;
    for (std::size_t l = 0; l < layers; ++l) {
      falling_.push_back(falling_shares(law, shape, seed, static_cast<int>(l)));
      draw(l, 1, 0);
      update(l);
    }
    description_ = law.name;
    for (const auto& [name, value] : law.parameters) description_ += fmt::format(", {} = {:g}", name, value);
    description_ += fmt::format("; drift {:g} iterations, jump {:g}, spread {:g}, seed {}", dynamics.drift,
                                dynamics.jump, dynamics.spread, seed);
  }

  void advance() override {
    ++iteration_;
    const double rho = std::exp(-1 / dynamics_.drift);
    for (std::size_t l = 0; l < latents_.size(); ++l) {
      Draws coin(key_of(seed_, Purpose::jump, static_cast<int>(l)), iteration_);
      const bool jumps = coin.uniform() < dynamics_.jump;
      draw(l, jumps ? 1 : std::sqrt(1 - rho * rho), jumps ? 0 : rho);
      update(l);
    }
  }
  [[nodiscard]] std::span<const double> shares(int moe_layer) const override {
    return shares_[static_cast<std::size_t>(moe_layer)];
  }
  [[nodiscard]] std::unique_ptr<const Routing> routing() const override {
    return make_block_routing(
        {shape_, sequence_, shares_, dynamics_.spread, mix(seed_ + iteration_), true, "synthetic " + description_});
  }

 private:
  void draw(std::size_t layer, double fresh, double kept) {
    const std::uint64_t key = key_of(seed_, Purpose::drift, static_cast<int>(layer));
    std::vector<double>& g = latents_[layer];
    for (std::size_t e = 0; e < g.size(); ++e) {
      Draws draws(key, iteration_ * g.size() + e);
      g[e] = kept * g[e] + fresh * normal(draws);
    }
  }
  void update(std::size_t layer) {
    double sum = 0;
    for (std::size_t e = 0; e < latents_[layer].size(); ++e) {
      const double tail = 0.5 * std::erfc(latents_[layer][e] / std::numbers::sqrt2);
      sum += shares_[layer][e] = quantile(falling_[layer], tail);
    }
    for (double& s : shares_[layer]) s /= sum;
  }

  RoutingShape shape_;
  std::int64_t sequence_;
  Dynamics dynamics_;
  std::uint64_t seed_;
  std::uint64_t iteration_ = 0;
  std::vector<std::vector<double>> falling_;  // [layer]: the law's
  std::vector<std::vector<double>> latents_;  // [layer][expert]
  std::vector<std::vector<double>> shares_;
  std::string description_;
};

class Recorded final : public LoadSequence {
 public:
  Recorded(const RoutingShape& shape, std::int64_t sequence, const RecordedLoads& recorded)
      : shape_(shape),
        sequence_(sequence),
        iterations_(read_iterations(recorded.path, shape.experts, recorded.window)),
        description_("recorded counts of " + recorded.path) {
    const auto recorded_layers = iterations_.front().tokens.size();
    const auto layers = static_cast<std::size_t>(shape.moe_layers);
    if (!recorded.cycle && recorded_layers != layers)
      throw InputError({recorded.path, 0, 0},
                       fmt::format("has {} layers, the model has {} MoE layers", recorded_layers, layers),
                       "layers = \"cycle\" lets its layers stand for the model's in turn");
    const auto n = static_cast<int>(iterations_.size());
    if (!recorded.repeat && n < recorded.iterations)
      throw InputError({recorded.path, 0, 0},
                       fmt::format("has {} iterations in the window, the workload runs {}", n, recorded.iterations),
                       "repeat = true starts over");
    update();
  }
  void advance() override {
    at_ = (at_ + 1) % iterations_.size();
    ++passed_;
    update();
  }
  [[nodiscard]] std::span<const double> shares(int moe_layer) const override {
    return shares_[static_cast<std::size_t>(moe_layer)];
  }
  [[nodiscard]] std::unique_ptr<const Routing> routing() const override {
    return make_block_routing({shape_, sequence_, shares_, 0, mix(passed_), false, description_});
  }

 private:
  void update() {
    const auto& tokens = iterations_[at_].tokens;
    shares_.assign(static_cast<std::size_t>(shape_.moe_layers), {});
    for (std::size_t l = 0; l < shares_.size(); ++l) {
      const std::vector<std::int64_t>& counts = tokens[l % tokens.size()];
      double sum = 0;
      for (const std::int64_t c : counts) sum += static_cast<double>(c);
      for (const std::int64_t c : counts) shares_[l].push_back(static_cast<double>(c) / sum);
    }
  }

  RoutingShape shape_;
  std::int64_t sequence_;
  std::vector<RecordedCounts> iterations_;
  std::string description_;
  std::size_t at_ = 0;
  std::uint64_t passed_ = 0;
  std::vector<std::vector<double>> shares_;
};

}  // namespace

std::unique_ptr<LoadSequence> make_drifting(const RoutingShape& shape, std::int64_t sequence, const Law& law,
                                            const Dynamics& dynamics, std::uint64_t seed) {
  return std::make_unique<Drifting>(shape, sequence, law, dynamics, seed);
}

std::unique_ptr<LoadSequence> open_recorded(const RoutingShape& shape, std::int64_t sequence,
                                            const RecordedLoads& recorded) {
  return std::make_unique<Recorded>(shape, sequence, recorded);
}

}  // namespace moesim::load
