#include "backend/cuda/program.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "backend/cuda/number.hpp"
#include "backend/numbers.hpp"
#include "support/text.hpp"

namespace moesim::backend::gpu {
namespace {

constexpr std::int64_t chunk_bytes = std::int64_t{16} << 20;

std::int64_t aligned(std::int64_t bytes) {
  return (bytes + Arena::alignment - 1) / Arena::alignment * Arena::alignment;
}

}  // namespace

Program::Program(const Plan& plan, const Inputs& inputs, RowMaps& maps, Rank rank, Device& device)
    : plan_(plan), rank_(rank), device_(device), arena_(arena_of(plan, rank)) {
  for (std::size_t i = 0; i < plan.buffers.size(); ++i) {
    const Buffer& b = plan.buffers[i];
    if (arena_.places[i].begin >= 0 && !computable(b.dtype) && b.dtype != DType::i32)
      throw Refused(
          fmt::format("the CUDA executor computes with f32, bf16 and f16, and buffer '{}' holds {}; choose one of them "
                      "for weights, activations, cache and dispatch",
                      b.name, to_string(b.dtype)));
  }
  allocate();
  fill(inputs);
  start(inputs);
  calls_ =
      bind(plan, inputs, maps, rank,
           {"on a GPU", [this](BufferId id) { return tensor(id); }, [this](BufferId id) { return before_.at(id); }});
  int stream = 0;
  const LowerContext at{plan, rank, [this](std::span<const std::byte> content) { return table(content); },
                        [&](std::int64_t bytes) { return scratch(stream, bytes); }};
  steps_.resize(plan.ops.size());
  for (std::size_t i = 0; i < plan.ops.size(); ++i) {
    const Op& op = plan.ops[i];
    stream = op.stream;
    begin_scratch(stream);
    lower(at, op, calls_[i], steps_[i]);
    std::set<OpId> after;
    for (const auto* ids : {&op.after, &std::as_const(arena_).reuse[i]})
      for (const OpId id : *ids)
        if (plan.op(id).stream != op.stream) after.insert(id);
    steps_[i].after.assign(after.begin(), after.end());
  }
}

void Program::allocate() {
  const auto get = [&](std::int64_t bytes, Device::Memory where) {
    try {
      return bytes > 0 ? device_.allocate(bytes, where) : nullptr;
    } catch (const OutOfMemory& e) {
      std::string parts;
      for (const auto& [role, size] : memory_peak(plan_, rank_).by_role)
        parts += fmt::format("{}{} {}", parts.empty() ? "" : ", ", to_string(role), human_binary(size));
      const bool device = where == Device::Memory::device;
      throw Refused(
          fmt::format("rank {} needs {} of {} memory for the plan's buffers ({}), and {}; make the model or the "
                      "workload smaller, or use more GPUs",
                      rank_.value(), human_binary(Bytes(bytes)), device ? "device" : "pinned host", parts,
                      device ? fmt::format("{} has {} free", device_.description().name, human_binary(Bytes(e.free)))
                             : std::string("the system does not give so much")));
    }
  };
  device_base_ = get(arena_.device_bytes, Device::Memory::device);
  host_base_ = get(arena_.host_bytes, Device::Memory::host);
}

Tensor Program::tensor(BufferId id) const {
  const Buffer& b = plan_.buffer(id);
  const Place& p = arena_.places[id.index()];
  std::byte* base = p.location == Location::device ? device_base_ : host_base_;
  return {p.begin < 0 || base == nullptr ? nullptr : base + p.begin, b.dtype, plan_.rows(b.rows, rank_), b.cols};
}

std::byte* Program::staging(std::int64_t bytes) {
  const std::int64_t size = aligned(std::max<std::int64_t>(bytes, 1));
  if (size > chunk_left_) {
    chunk_left_ = std::max(size, chunk_bytes);
    try {
      chunk_ = device_.allocate(chunk_left_, Device::Memory::device);
    } catch (const OutOfMemory& e) {
      throw Refused(fmt::format(
          "rank {} needs {} more of device memory for row maps and intermediate results, and {} "
          "has {} free; make the workload smaller, or use more GPUs",
          rank_.value(), human_binary(Bytes(chunk_left_)), device_.description().name, human_binary(Bytes(e.free))));
    }
    extra_ += chunk_left_;
  }
  std::byte* out = chunk_;
  chunk_ += size;
  chunk_left_ -= size;
  return out;
}

void Program::begin_scratch(int stream) {
  scratch_[stream].block = 0;
  scratch_[stream].taken = 0;
}

std::byte* Program::scratch(int stream, std::int64_t bytes) {
  Scratch& s = scratch_[stream];
  const std::int64_t size = aligned(std::max<std::int64_t>(bytes, 1));
  for (; s.block < s.blocks.size(); ++s.block, s.taken = 0) {
    const auto& [begin, room] = s.blocks[s.block];
    if (s.taken + size > room) continue;
    s.taken += size;
    return begin + s.taken - size;
  }
  constexpr std::int64_t smallest = std::int64_t{1} << 20;
  s.blocks.emplace_back(staging(std::max(size, smallest)), std::max(size, smallest));
  s.taken = size;
  return s.blocks.back().first;
}

std::byte* Program::table(std::span<const std::byte> content) {
  std::byte* out = staging(static_cast<std::int64_t>(content.size()));
  if (!content.empty()) device_.upload(out, content);
  return out;
}

CollectiveCall Program::placed(const CollectiveCall& call) {
  CollectiveCall out = call;
  if (!out.counts.empty()) out.in.data = table(std::as_bytes(std::span(out.counts)));
  return out;
}

std::vector<Command> Program::numbers_of(const Inputs& inputs, const Buffer& b, const Tensor& t,
                                         std::int64_t first_row) {
  const auto upload = [&](const std::vector<std::int64_t>& v) {
    return reinterpret_cast<const std::int64_t*>(table(std::as_bytes(std::span(v))));
  };
  const bool cache = b.role == BufferRole::kv_cache;
  const ShardMap shard(plan_, b, rank_, first_row);
  // A cache has no rows to sum over: three give it scale 1.
  const LogicalMatrix matrix(inputs.seed, b.name, 0, cache ? 3 : shard.tensor_rows());
  std::vector<std::int64_t> experts;
  for (std::int64_t row = 0; row < t.rows; row += shard.matrix_rows()) experts.push_back(cache ? 0 : shard.matrix(row));
  std::vector<std::int64_t> cols;
  for (std::int64_t c = 0; c < t.cols; ++c) cols.push_back(shard.tensor_col(c));
  Fill command{LogicalMatrix::name_key(inputs.seed, b.name),
               matrix.scale(),
               matrix.offset(),
               upload(experts),
               shard.matrix_rows(),
               shard.tensor_row(0),
               upload(cols),
               t};
  if (b.location == Location::device) return {command};
  // A buffer in host memory is filled on the device and copied.
  command.y.data = staging(t.bytes());
  return {command, CopyBytes{t.data, command.y.data, t.bytes()}};
}

void Program::fill(const Inputs& inputs) {
  for (std::size_t i = 0; i < plan_.buffers.size(); ++i) {
    const Buffer& b = plan_.buffers[i];
    const Tensor t = tensor(BufferId(i));
    if ((b.role != BufferRole::weight && b.role != BufferRole::kv_cache) || t.data == nullptr || t.rows * t.cols == 0 ||
        !computable(b.dtype))
      continue;
    const bool cache = b.role == BufferRole::kv_cache;
    for (const Command& c : numbers_of(inputs, b, t, cache ? first_cache_row(plan_, BufferId(i), rank_) : 0))
      device_.enqueue(c, 0);
  }
}

void Program::start(const Inputs& inputs) {
  for (const auto& [weight, state] : updated(plan_)) {
    const Buffer b = at_start(plan_, weight, rank_);
    const Tensor now = tensor(weight);
    if (b.shard.placement == plan_.buffer(weight).shard.placement) {
      if (now.rows * now.cols == 0) continue;
      for (Command& c : numbers_of(inputs, b, now)) reset_.push_back(std::move(c));
      reset_.emplace_back(StartState{now, tensor(state)});
      continue;
    }
    const auto kept = [&](BufferId id) {
      const Buffer& start = plan_.buffer(id);
      Tensor& t = before_[id];
      t = {nullptr, start.dtype, plan_.rows(b.rows, rank_), start.cols};
      t.data = staging(t.bytes());
      return t;
    };
    const Tensor w = kept(weight);
    const Tensor s = kept(state);
    if (w.rows * w.cols > 0) {
      for (const Command& c : numbers_of(inputs, b, w)) device_.enqueue(c, 0);
      device_.enqueue(StartState{w, s}, 0);
    }
    keep(weight, w);
    keep(state, s);
  }
}

// Experts that come from elsewhere are not numbers until they are there.
void Program::keep(BufferId id, const Tensor& before) {
  const Buffer& buffer = plan_.buffer(id);
  const Tensor now = tensor(id);
  const std::vector<LogicalExpert> here = experts_of(plan_, buffer, rank_);
  const std::vector<LogicalExpert> had = experts_of(plan_, at_start(plan_, id, rank_), rank_);
  const std::int64_t rows = buffer.shard.matrix_rows;
  const std::int64_t bytes = rows * now.cols * now.element_bytes();
  for (std::size_t s = 0; s < here.size() && bytes > 0; ++s) {
    std::byte* slot = now.at(static_cast<std::int64_t>(s) * rows);
    const auto at = std::find(had.begin(), had.end(), here[s]);
    if (at == had.end())
      reset_.emplace_back(SetBytes{slot, bytes, 0xff});
    else
      reset_.emplace_back(CopyBytes{slot, before.at((at - had.begin()) * rows), bytes});
  }
}

void Program::reset() {
  for (const Command& c : reset_) device_.enqueue(c, 0);
}

std::vector<float> values(const Program& program, BufferId buffer) {
  const Tensor t = program.tensor(buffer);
  std::vector<std::byte> raw(static_cast<std::size_t>(t.bytes()));
  if (!raw.empty()) program.device().download(raw, t.data);
  std::vector<float> out;
  for (std::int64_t i = 0; i < t.rows * t.cols; ++i)
    out.push_back(t.dtype == DType::i32 ? static_cast<float>(read_as<std::int32_t>(raw.data() + 4 * i))
                                        : load(raw.data(), t.dtype, i));
  return out;
}

}  // namespace moesim::backend::gpu
