// The numbers of the model that executors with data compute: weights, cached keys and values, token ids, gate weights.
// Each is a hash of what it is (the logical tensor's name, row and column; the layer, token and position) and a seed,
// never of the strategy: a slice of a tensor-parallel rank has the very numbers that the whole tensor has there.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "moesim/plan.hpp"

namespace moesim::backend {

// One matrix of the model: uniform in [-scale, scale), or around 1 for a vector of scales (one row).
class LogicalMatrix {
 public:
  // rows of the whole matrix: their number sets the scale, sqrt(3 / rows), so that a product keeps the variance.
  LogicalMatrix(std::uint64_t seed, std::string_view name, std::int64_t matrix, std::int64_t rows);
  [[nodiscard]] float at(std::int64_t row, std::int64_t col) const;
  // at = offset + scale * hash::number(key, row, col) with the key hash::of_matrix(name_key, matrix): for kernels.
  static std::uint64_t name_key(std::uint64_t seed, std::string_view name);
  [[nodiscard]] float scale() const { return scale_; }
  [[nodiscard]] float offset() const { return offset_; }

 private:
  std::uint64_t key_;
  float scale_;
  float offset_;
};

// Which elements of its logical tensor a rank's weight or cache buffer holds.
class ShardMap {
 public:
  // first_row: of a cache, the rows of earlier owners.
  ShardMap(const Plan& plan, const Buffer& buffer, Rank rank, std::int64_t first_row = 0);
  [[nodiscard]] std::int64_t matrix(std::int64_t row) const;        // of a stack: which expert; else 0
  [[nodiscard]] std::int64_t matrix_rows() const { return rows_; }  // on the rank
  [[nodiscard]] std::int64_t tensor_rows() const { return tensor_rows_; }
  [[nodiscard]] std::int64_t tensor_row(std::int64_t row) const;  // in the matrix
  [[nodiscard]] std::int64_t tensor_col(std::int64_t col) const { return cols_[static_cast<std::size_t>(col)]; }

 private:
  std::int64_t rows_ = 0;
  std::int64_t first_row_ = 0;
  std::int64_t tensor_rows_ = 0;
  std::vector<std::int64_t> experts_;  // of a placed stack
  std::vector<std::int64_t> cols_;
};

// Rows of a cache that belong to the owners before this rank's: it holds as many rows of each of their sequences.
std::int64_t first_cache_row(const Plan& plan, BufferId buffer, Rank rank);

// Weights of gates: falling with the position among a token's top_k, positive, with a sum below 1 (what the softmax
// leaves to the experts that were not chosen), so that a gate applied twice or not at all shows.
void gate_weights(std::uint64_t seed, int moe_layer, std::int64_t token, std::span<float> out);

// A token's id in [0, vocabulary).
std::int64_t token_id(std::uint64_t seed, std::int64_t token, std::int64_t vocabulary);

}  // namespace moesim::backend
