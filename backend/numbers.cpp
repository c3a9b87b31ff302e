#include "backend/numbers.hpp"

#include <algorithm>
#include <cmath>
#include <functional>

#include "backend/hash.hpp"

namespace moesim::backend {
namespace {

using hash::mix;
using hash::uniform;

constexpr std::uint64_t hash_of(std::string_view text) {
  std::uint64_t h = 0xcbf29ce484222325ULL;  // FNV-1a
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return h;
}

std::int64_t position_in(const Groups& groups, Rank rank, std::int64_t& size) {
  for (const std::vector<Rank>& g : groups) {
    const auto at = std::find(g.begin(), g.end(), rank);
    if (at == g.end()) continue;
    size = static_cast<std::int64_t>(g.size());
    return at - g.begin();
  }
  size = 1;
  return 0;
}

}  // namespace

std::uint64_t LogicalMatrix::name_key(std::uint64_t seed, std::string_view name) { return mix(seed ^ hash_of(name)); }

LogicalMatrix::LogicalMatrix(std::uint64_t seed, std::string_view name, std::int64_t matrix, std::int64_t rows)
    : key_(hash::of_matrix(name_key(seed, name), matrix)),
      scale_(rows == 1 ? 0.125F
                       : static_cast<float>(std::sqrt(3.0 / static_cast<double>(std::max<std::int64_t>(rows, 1))))),
      offset_(rows == 1 ? 1.0F : 0.0F) {}

float LogicalMatrix::at(std::int64_t row, std::int64_t col) const {
  return offset_ + scale_ * hash::number(key_, row, col);
}

ShardMap::ShardMap(const Plan& plan, const Buffer& buffer, Rank rank, std::int64_t first_row)
    : rows_(buffer.shard.matrix_rows > 0 ? buffer.shard.matrix_rows : plan.rows(buffer.rows, rank)),
      first_row_(first_row) {
  const Shard& s = buffer.shard;
  std::int64_t slices = 1;
  std::int64_t slice = 0;
  if (s.groups.valid()) slice = position_in(plan.groups[s.groups.index()], rank, slices);
  if (s.by_rows) first_row_ += slice * rows_;
  tensor_rows_ = s.by_rows ? (s.tensor_rows > 0 ? s.tensor_rows : rows_ * slices) : rows_;
  if (s.placement.valid()) {
    std::int64_t members = 1;
    const auto member = static_cast<std::size_t>(position_in(plan.groups[s.expert_groups.index()], rank, members));
    const ExpertPlacement& p = plan.placements[s.placement.index()];
    for (int i = p.slot_begin[member]; i < p.slot_begin[member + 1]; ++i)
      experts_.push_back(p.expert_of_slot[static_cast<std::size_t>(i)].value());
  }
  std::vector<Shard::Section> sections = s.sections;
  if (sections.empty()) sections.push_back({buffer.cols, s.by_rows ? 1 : slices});
  std::int64_t begin = 0;
  for (const Shard::Section& part : sections) {
    const std::int64_t first = begin + slice * part.slices / slices * part.cols;
    for (std::int64_t c = 0; c < part.cols; ++c) cols_.push_back(first + c);
    begin += part.cols * part.slices;
  }
}

std::int64_t ShardMap::matrix(std::int64_t row) const {
  if (rows_ == 0) return 0;
  const std::int64_t i = row / rows_;
  return experts_.empty() ? i : experts_[static_cast<std::size_t>(i)];
}

std::int64_t ShardMap::tensor_row(std::int64_t row) const { return first_row_ + (rows_ == 0 ? 0 : row % rows_); }

std::int64_t first_cache_row(const Plan& plan, BufferId buffer, Rank rank) {
  for (const Op& op : plan.ops) {
    const auto* core = std::get_if<AttentionCore>(&op.work);
    if (core == nullptr || std::find(op.reads.begin(), op.reads.end(), buffer) == op.reads.end()) continue;
    const std::int64_t sequences = plan.rows(core->sequences, rank);
    if (sequences == 0 || core->q_len == 0) return 0;
    const auto owner = static_cast<std::size_t>(plan.owner_of_rank[rank.index()]);
    return plan.tokens.begin[owner] / core->q_len * (plan.rows(plan.buffer(buffer).rows, rank) / sequences);
  }
  return 0;
}

void gate_weights(std::uint64_t seed, int moe_layer, std::int64_t token, std::span<float> out) {
  const std::uint64_t key = mix(mix(seed ^ hash_of("gate")) + static_cast<std::uint64_t>(moe_layer));
  float sum = 0.5F;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint64_t h = mix((key ^ static_cast<std::uint64_t>(token) * 0xd1342543de82ef95ULL) + i);
    out[i] = 0.625F + 0.375F * uniform(h);  // [0.25, 1)
    sum += out[i];
  }
  std::sort(out.begin(), out.end(), std::greater<>{});
  for (float& w : out) w /= sum;
}

std::int64_t token_id(std::uint64_t seed, std::int64_t token, std::int64_t vocabulary) {
  const std::uint64_t h = mix(mix(seed ^ hash_of("token")) + static_cast<std::uint64_t>(token));
  return vocabulary < 1 ? 0 : static_cast<std::int64_t>(h % static_cast<std::uint64_t>(vocabulary));
}

}  // namespace moesim::backend
