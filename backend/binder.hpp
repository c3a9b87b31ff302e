// What binding an op needs, shared by bind.cpp (forward) and bind_training.cpp.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "backend/bind.hpp"

namespace moesim::backend {

class OpBinder {
 public:
  OpBinder(const Plan& plan, const Inputs& inputs, RowMaps& maps, Rank rank, const Binding& binding);

 protected:
  [[noreturn]] void refuse(const std::string& why) const;
  void require(bool good, const char* what) const;
  [[nodiscard]] Tensor read(std::size_t i) const;
  [[nodiscard]] Tensor write(std::size_t i) const;
  // Throws Refused for tensors that hold numbers nobody computes with.
  void floats(std::initializer_list<Tensor> tensors) const;
  [[nodiscard]] std::int64_t rows(const Rows& r) const { return plan_.rows(r, rank_); }
  [[nodiscard]] std::size_t owner() const { return static_cast<std::size_t>(plan_.owner_of_rank[rank_.index()]); }
  // An embedding op reads the buffer.
  [[nodiscard]] bool is_table(BufferId buffer) const;
  // The form of attention over `reads`: X, and what else the forward core reads.
  [[nodiscard]] AttentionForm form_of(const std::vector<BufferId>& reads, const AttentionCore& w) const;
  // Row of the table for each of the rank's tokens, or -1 where another rank has it.
  [[nodiscard]] std::vector<std::int64_t> table_rows(BufferId table) const;
  // Of the permutes that read or write it.
  [[nodiscard]] int moe_layer_of(BufferId choice) const;
  // The experts of the rank's tokens: [tokens, top_k].
  [[nodiscard]] std::vector<ExpertIndex> experts(int moe_layer) const;

  const Plan& plan_;
  const Inputs& inputs_;
  RowMaps& maps_;
  Rank rank_;
  const Binding& binding_;
  const Op* op_ = nullptr;
};

// The ops that only a training step has.
class TrainingBinder : public OpBinder {
 public:
  TrainingBinder(const Plan& plan, const Inputs& inputs, RowMaps& maps, Rank rank, const Binding& binding);
  // nullopt where the op is as in a forward pass.
  std::optional<Call> call(const Op& op);

 private:
  std::optional<Call> bind(const Gemm& w);
  std::optional<Call> bind(const GroupedGemm& w);
  std::optional<Call> bind(const AttentionCore& w);
  std::optional<Call> bind(const Elementwise& w);
  std::optional<Call> bind(const Permute& w);
  std::optional<Call> bind(const Collective& w);
  std::optional<Call> bind(const Copy&) { return std::nullopt; }
  std::optional<Call> bind(const HostSync&) { return std::nullopt; }

  Call norm_gradient(const Elementwise& w);
  Call rotation_back();
  Call adam();
  Call loss(const Elementwise& w);
  Call gate(const Elementwise& w);
  Call move(const Collective& w);

  bool trains_;  // the plan is a training step: its gates come from the scores
};

}  // namespace moesim::backend
