// One layer of a routing, kept: for what passes over the same tokens several times.
#pragma once

#include <vector>

#include "moesim/routing.hpp"

namespace moesim::load {

// Answers as `routing` does. Tokens [0, tokens) of `moe_layer` are decided once, here, and read from memory after
// (2 B * top_k each); where they are more than fit in 256 MiB, nothing is kept.
class KeptLayer final : public Routing {
 public:
  KeptLayer(const Routing& routing, int moe_layer, std::int64_t tokens);
  [[nodiscard]] int moe_layers() const override { return routing_.moe_layers(); }
  [[nodiscard]] int experts() const override { return routing_.experts(); }
  [[nodiscard]] int top_k() const override { return routing_.top_k(); }
  [[nodiscard]] std::int64_t tokens() const override { return routing_.tokens(); }
  [[nodiscard]] bool synthetic() const override { return routing_.synthetic(); }
  [[nodiscard]] std::string description() const override { return routing_.description(); }
  void assign(int moe_layer, std::int64_t first, std::span<ExpertIndex> out) const override;
  [[nodiscard]] bool count(int moe_layer, std::int64_t first, std::int64_t count,
                           std::span<std::int32_t> row) const override {
    return routing_.count(moe_layer, first, count, row);
  }

 private:
  const Routing& routing_;
  int layer_;
  std::vector<ExpertIndex> kept_;  // [token, top_k]
};

}  // namespace moesim::load
