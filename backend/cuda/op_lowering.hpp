// What lowering an op needs, shared by lower.cpp (forward) and lower_training.cpp.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "backend/cuda/lower.hpp"

namespace moesim::backend::gpu {

class OpLowering {
 public:
  OpLowering(const LowerContext& at, const Op& op, Step& out) : at_(at), op_(op), out_(out) {}

 protected:
  [[noreturn]] void refuse(const std::string& why) const;
  // cuBLAS multiplies operands of one format, into that or float32.
  void formats(const Tensor& a, const Tensor& b, const Tensor& product) const;
  // A launch for no elements is left out, as frameworks do.
  template <class T>
  void add(const Tensor& y, T command) {
    if (y.rows * y.cols > 0) out_.commands.emplace_back(std::move(command));
  }
  // The set has `launches` kernels so far; the op says how many framework operations it is.
  void end_set(const Launch& launch, int launches);
  // A set gathers (or adds) its rows; every further pass copies them once more. Other operations of the set are empty.
  // With a set per group, each has its share of the rows: the routing's groups are even in the simulator, too.
  void move_rows(const Permute& work, MoveRows move);
  // Y = X W, or X W^T, the rows of each group with its matrix: one call, or one for each group where the plan wants
  // that or cuBLAS, which groups products of one format only.
  void grouped_rows(const GroupedGemm& work, std::span<const std::int32_t> rows, const Tensor& x, const Tensor& w,
                    const Tensor& y, bool transposed);
  // One call, with the addresses of its groups on the device; nothing where it has none.
  void grouped(GroupedProduct all, const Launch& launch);
  template <class T>
  [[nodiscard]] const T* numbers(const std::vector<T>& v) const {
    return reinterpret_cast<const T*>(at_.table(std::as_bytes(std::span(v))));
  }

  const LowerContext& at_;
  const Op& op_;
  Step& out_;

 private:
  // Experts that a rank sends to; on arrival: its slots that any member sends to.
  [[nodiscard]] std::int64_t groups_with_rows(const Permute& w) const;
};

}  // namespace moesim::backend::gpu
