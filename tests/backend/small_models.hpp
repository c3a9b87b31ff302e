// Small models, routings and plans for tests that compute with real numbers.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "moesim/machine.hpp"
#include "moesim/model.hpp"
#include "moesim/plan.hpp"
#include "moesim/routing.hpp"
#include "moesim/workload.hpp"
#include "strategies/strategy.hpp"

namespace moesim::test {

// Every choice written down.
class TableRouting final : public Routing {
 public:
  // chosen: [layer][token * top_k]
  TableRouting(int experts, int top_k, std::vector<std::vector<ExpertIndex>> chosen)
      : experts_(experts), top_k_(top_k), chosen_(std::move(chosen)) {}
  [[nodiscard]] int moe_layers() const override { return static_cast<int>(chosen_.size()); }
  [[nodiscard]] int experts() const override { return experts_; }
  [[nodiscard]] int top_k() const override { return top_k_; }
  [[nodiscard]] std::int64_t tokens() const override {
    return static_cast<std::int64_t>(chosen_.front().size()) / top_k_;
  }
  [[nodiscard]] bool synthetic() const override { return true; }
  [[nodiscard]] std::string description() const override { return "written down"; }
  void assign(int moe_layer, std::int64_t first, std::span<ExpertIndex> out) const override;

 private:
  int experts_;
  int top_k_;
  std::vector<std::vector<ExpertIndex>> chosen_;
};

// top_k distinct experts per token, expert e with weight (e + 1)^-skew; experts in `empty` never.
TableRouting random_routing(int layers, std::int64_t tokens, int experts, int top_k, double skew, int empty,
                            std::mt19937& random);

Cluster host_cluster(int ranks);

struct Case {
  Model model;
  Workload workload;
  int ranks = 1;
};

// One MoE layer of h columns and nothing else but embedding and head.
Case moe_only(std::int64_t hidden, MoeBlock block, int ranks, std::int64_t sequences, std::int64_t length, DType dtype);

// Heads of 6 columns; of the latent form 8 heads, with a latent of 10 columns and 2 rotary ones. q_rank 0: queries are
// not compressed.
Attention grouped_query(std::int64_t heads, std::int64_t kv_heads);
Attention latent(std::int64_t q_rank);

using Given = std::map<std::string, strategies::OptionValue>;
// nullopt where the strategy does not fit the case.
std::optional<Plan> plan_of(const Case& c, const Routing& routing, const std::string& strategy, const Given& options);

// Every strategy with every variant of its options that computes something else or in another order.
struct Variant {
  std::string strategy;
  Given options;
  std::string name;
};
const std::vector<Variant>& variants();

}  // namespace moesim::test
