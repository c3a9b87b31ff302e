// The oracle of training: the loss of a small model on one processor, written as its definition, in double. Its
// derivatives are differences.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "backend/executor.hpp"
#include "backend/host/numerics.hpp"
#include "moesim/model.hpp"
#include "moesim/workload.hpp"

namespace moesim::test {

class DenseModel {
 public:
  DenseModel(const Model& model, const Workload& work, const backend::Inputs& inputs);
  // By name; a stack of experts one after the other. May be changed.
  std::map<std::string, std::vector<double>>& weights() { return weights_; }
  [[nodiscard]] double loss() const;  // mean over all tokens

 private:
  using Rows = std::vector<std::vector<double>>;
  [[nodiscard]] Rows product(const Rows& x, const std::string& weight, std::int64_t n, std::int64_t first = 0) const;
  [[nodiscard]] Rows norm(const Rows& x, const std::string& weight) const;
  [[nodiscard]] Rows attention(const Attention& a, const Rows& x, const std::string& name, bool causal) const;
  [[nodiscard]] Rows moe(const MoeBlock& block, const Rows& x, const std::string& name, int layer) const;

  const Model& model_;
  Workload work_;
  backend::Inputs inputs_;
  std::map<std::string, std::vector<double>> weights_;
};

// The summed gradient of a stack of experts by the name of its weight, experts in order, from their owners.
std::vector<float> expert_gradients(const Plan& plan, const backend::Programs& programs, const std::string& weight);

}  // namespace moesim::test
