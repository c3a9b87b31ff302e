// A routing written down in a test, and small helpers that several tests share.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "moesim/placement.hpp"
#include "moesim/routing.hpp"
#include "strategies/placement/problem.hpp"

namespace moesim::placement {

// ids[layer][token][k]
class Recorded final : public Routing {
 public:
  Recorded(int experts, std::vector<std::vector<std::vector<int>>> ids) : experts_(experts), ids_(std::move(ids)) {}
  [[nodiscard]] int moe_layers() const override { return static_cast<int>(ids_.size()); }
  [[nodiscard]] int experts() const override { return experts_; }
  [[nodiscard]] int top_k() const override { return static_cast<int>(ids_[0][0].size()); }
  [[nodiscard]] std::int64_t tokens() const override { return static_cast<std::int64_t>(ids_[0].size()); }
  [[nodiscard]] bool synthetic() const override { return false; }
  [[nodiscard]] std::string description() const override { return "written in a test"; }
  void assign(int moe_layer, std::int64_t first, std::span<ExpertIndex> out) const override {
    const auto k = static_cast<std::size_t>(top_k());
    for (std::size_t i = 0; i < out.size(); ++i)
      out[i] = static_cast<ExpertIndex>(
          ids_[static_cast<std::size_t>(moe_layer)][static_cast<std::size_t>(first) + i / k][i % k]);
  }

 private:
  int experts_;
  std::vector<std::vector<std::vector<int>>> ids_;
};

inline ExpertPlacement map_of(const std::vector<std::vector<int>>& experts_of_gpu) {
  ExpertPlacement out;
  for (const auto& gpu : experts_of_gpu) {
    for (const int e : gpu) out.expert_of_slot.emplace_back(e);
    out.slot_begin.push_back(out.slots());
  }
  return out;
}

// i^-a in an order drawn from rng.
inline std::vector<double> power_law(int experts, double a, std::mt19937_64& rng) {
  std::vector<double> loads;
  for (int i = 1; i <= experts; ++i) loads.push_back(std::pow(i, -a));
  std::shuffle(loads.begin(), loads.end(), rng);
  return loads;
}

inline std::vector<double> lognormal(int experts, double sigma, std::mt19937_64& rng) {
  std::lognormal_distribution<double> draw(0, sigma);
  std::vector<double> loads(static_cast<std::size_t>(experts));
  for (double& l : loads) l = draw(rng);
  return loads;
}

// Calls visit for every way to fill `gpus` GPUs of `slots` distinct experts each so that every expert has a slot.
inline void for_every_map(int experts, int gpus, int slots, const std::function<void(const ExpertPlacement&)>& visit) {
  std::vector<std::vector<int>> choices;  // all sets of `slots` experts
  std::vector<bool> mask(static_cast<std::size_t>(experts));
  std::fill_n(mask.begin(), slots, true);
  do {
    std::vector<int> set;
    for (int e = 0; e < experts; ++e)
      if (mask[static_cast<std::size_t>(e)]) set.push_back(e);
    choices.push_back(set);
  } while (std::prev_permutation(mask.begin(), mask.end()));
  std::vector<std::vector<int>> map;
  std::vector<int> copies(static_cast<std::size_t>(experts));
  const std::function<void()> fill = [&] {
    if (static_cast<int>(map.size()) == gpus) {
      if (std::find(copies.begin(), copies.end(), 0) == copies.end()) visit(map_of(map));
      return;
    }
    for (const auto& set : choices) {
      map.push_back(set);
      for (const int e : set) ++copies[static_cast<std::size_t>(e)];
      fill();
      for (const int e : set) --copies[static_cast<std::size_t>(e)];
      map.pop_back();
    }
  };
  fill();
}

}  // namespace moesim::placement
