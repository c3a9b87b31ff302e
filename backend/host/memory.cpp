#include "backend/host/memory.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <set>
#include <string>

#include "backend/numbers.hpp"

namespace moesim::backend {
namespace {

// Float copies of what is not stored in float, for the largest product of the plan (gemm.cpp).
Bytes workspace(const Plan& plan) {
  std::int64_t most = 0;
  for (const Op& op : plan.ops) {
    const auto product = [&](std::int64_t n, std::int64_t k, DType weight) {
      const std::int64_t panels = detail::checked_mul(256, n + k);
      most = std::max(most, weight == DType::f32 ? panels : detail::checked_add(detail::checked_mul(n, k), panels));
    };
    if (const auto* g = std::get_if<Gemm>(&op.work)) product(g->n, g->k, g->weight);
    if (const auto* g = std::get_if<GroupedGemm>(&op.work)) product(g->n, g->k, g->weight);
    if (const auto* a = std::get_if<AttentionCore>(&op.work))
      most = std::max(most, detail::checked_mul(a->kv_len, a->qk_dim + a->v_dim + 64));
  }
  return Bytes(detail::checked_mul(most, 4));
}

// Weights and optimizer states that the plan writes: [buffer].
std::vector<bool> updated(const Plan& plan) {
  std::vector<bool> out(plan.buffers.size());
  for (const Op& op : plan.ops)
    for (const BufferId w : op.writes)
      out[w.index()] = plan.buffer(w).role == BufferRole::weight || plan.buffer(w).role == BufferRole::optimizer;
  return out;
}

// A number in a file of the kernel's, or -1.
std::int64_t number_in(const std::string& path) {
  std::ifstream in(path);
  std::int64_t v = -1;
  return in >> v ? v : -1;
}

}  // namespace

Bytes memory_needed(const Plan& plan, const std::vector<Rank>& ranks) {
  Bytes sum;
  const std::vector<bool> updates = updated(plan);
  for (const Rank r : ranks) {
    for (std::size_t i = 0; i < plan.buffers.size(); ++i) sum += plan.bytes(plan.buffers[i], r) * (updates[i] ? 2 : 1);
    sum += workspace(plan);
  }
  return sum;
}

Bytes memory_available() {
  std::int64_t free = static_cast<std::int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  std::ifstream in("/proc/meminfo");
  std::string key;
  std::int64_t kilobytes = 0;
  for (std::string unit; in >> key >> kilobytes; std::getline(in, unit))
    if (key == "MemAvailable:") free = kilobytes * 1024;
  const std::string group = "/sys/fs/cgroup/memory.";
  const std::int64_t limit = number_in(group + "max");
  const std::int64_t used = number_in(group + "current");
  if (limit >= 0 && used >= 0) free = std::min(free, std::max<std::int64_t>(0, limit - used));
  return Bytes(free);
}

RankMemory::RankMemory(const Plan& plan, const Inputs& inputs, Rank rank, const StepBefore* before) : rank_(rank) {
  std::set<BufferId> used;
  for (const Op& op : plan.ops) {
    used.insert(op.reads.begin(), op.reads.end());
    used.insert(op.writes.begin(), op.writes.end());
  }
  tensors_.resize(plan.buffers.size());
  for (std::size_t i = 0; i < plan.buffers.size(); ++i) {
    const Buffer& b = plan.buffers[i];
    if (used.count(BufferId(i)) == 0) continue;
    if (!computable(b.dtype) && b.dtype != DType::i32)
      throw Refused(
          fmt::format("the host computes with f32, bf16 and f16, and buffer '{}' holds {}; choose one of them "
                      "for weights, activations, cache and dispatch",
                      b.name, to_string(b.dtype)));
    tensors_[i] = allocate(b.dtype, plan.rows(b.rows, rank), b.cols);
    if (b.role == BufferRole::weight || b.role == BufferRole::kv_cache) fill(plan, inputs, BufferId(i), b, tensors_[i]);
  }
  keep(plan, inputs, before);
}

// Touched here, so that no measured op pays for the pages.
Tensor RankMemory::allocate(DType dtype, std::int64_t rows, std::int64_t cols) {
  Tensor t{nullptr, dtype, rows, cols};
  owned_.push_back(std::make_unique<std::byte[]>(static_cast<std::size_t>(t.bytes())));
  t.data = owned_.back().get();
  return t;
}

std::uint64_t RankMemory::hash(const Plan& plan) const {
  std::uint64_t h = 0xcbf29ce484222325ULL;  // FNV-1a over words
  const auto add = [&](std::uint64_t word) { h = (h ^ word) * 0x100000001b3ULL, h ^= h >> 32; };
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const BufferRole role = plan.buffers[i].role;
    if (role == BufferRole::weight || role == BufferRole::gradient || role == BufferRole::optimizer) continue;
    const auto bytes = static_cast<std::size_t>(tensors_[i].data != nullptr ? tensors_[i].bytes() : 0);
    add(bytes);
    for (std::size_t at = 0; at < bytes; at += sizeof(std::uint64_t)) {
      std::uint64_t word = 0;
      std::memcpy(&word, tensors_[i].data + at, std::min(sizeof word, bytes - at));
      add(word);
    }
  }
  return h;
}

void RankMemory::fill(const Plan& plan, const Inputs& inputs, BufferId id, const Buffer& b, const Tensor& t) const {
  const bool cache = b.role == BufferRole::kv_cache;
  if (t.rows == 0 || !computable(b.dtype)) return;
  const ShardMap shard(plan, b, rank_, cache ? first_cache_row(plan, id, rank_) : 0);
  std::vector<float> row(static_cast<std::size_t>(t.cols));
  std::int64_t current = -1;
  LogicalMatrix matrix(inputs.seed, b.name, 0, 3);
  for (std::int64_t r = 0; r < t.rows; ++r) {
    // A cache has no rows to sum over: three give it scale 1.
    if (!cache && shard.matrix(r) != current)
      matrix = LogicalMatrix(inputs.seed, b.name, current = shard.matrix(r), shard.tensor_rows());
    const std::int64_t tensor_row = shard.tensor_row(r);
    for (std::int64_t c = 0; c < t.cols; ++c)
      row[static_cast<std::size_t>(c)] = matrix.at(tensor_row, shard.tensor_col(c));
    from_float(row.data(), b.dtype, t.cols, t.at(r));
  }
}

}  // namespace moesim::backend
