#include "backend/cuda/probe_commands.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "backend/cuda/number.hpp"
#include "backend/executor.hpp"
#include "support/text.hpp"

namespace moesim::backend::gpu {
namespace {

constexpr std::int64_t alignment = 256;
std::int64_t aligned(std::int64_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

std::int64_t total(const std::vector<std::int32_t>& rows) {
  return std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
}

// Not std::shuffle, which differs between libraries.
std::vector<std::int32_t> shuffled(std::int64_t n) {
  std::vector<std::int32_t> out(static_cast<std::size_t>(n));
  std::iota(out.begin(), out.end(), 0);
  std::mt19937_64 random(1);
  for (std::size_t i = out.size(); i > 1; --i) std::swap(out[i - 1], out[random() % i]);
  return out;
}

// Rows of y from rows of x: for row i the sources of[i].
MoveRows move(Room& room, const std::vector<std::vector<std::int32_t>>& of, bool weights, const Tensor& x,
              const Tensor& y) {
  std::vector<std::int64_t> begin{0};
  std::vector<std::int32_t> from;
  for (const std::vector<std::int32_t>& rows : of) {
    from.insert(from.end(), rows.begin(), rows.end());
    begin.push_back(static_cast<std::int64_t>(from.size()));
  }
  std::vector<float> weight;
  if (weights) weight.assign(std::max<std::size_t>(from.size(), 1), 0.5F);
  return {room.table(begin), room.table(from), weights ? room.table(weight) : nullptr, 0, y.rows, x, y};
}

// Each row of y from one row of x, in a random order.
std::vector<std::vector<std::int32_t>> one_each(std::int64_t rows) {
  std::vector<std::vector<std::int32_t>> out;
  for (const std::int32_t r : shuffled(rows)) out.push_back({r});
  return out;
}

// Groups that have rows, one after the other in x and y, each with its matrix in w.
GroupedProduct grouped(Room& room, const std::vector<std::int32_t>& rows, const Tensor& x, const Tensor& w,
                       const Tensor& y) {
  GroupedProduct out{y.cols, x.cols, natural_math(x.dtype), x.dtype, w.dtype, y.dtype, {}, nullptr};
  std::int64_t row = 0;
  std::int64_t matrix = 0;
  for (const std::int32_t m : rows) {
    if (m == 0) continue;
    out.groups.push_back({m, x.at(row), w.at(matrix++ * x.cols), y.at(row)});
    row += m;
  }
  std::vector<const std::byte*> addresses;
  for (const auto& g : out.groups) addresses.push_back(g.w);
  for (const auto& g : out.groups) addresses.push_back(g.x);
  for (const auto& g : out.groups) addresses.push_back(g.y);
  out.addresses = reinterpret_cast<const std::byte*>(room.table(addresses));
  return out;
}

struct Build {
  Room& room;

  std::vector<Command> operator()(const GemmProbe& p) const {
    const Tensor x = room.input(p.dtype, p.m, p.k);
    const Tensor w = room.input(p.dtype, p.k, p.n);
    const Tensor y = room.output(p.dtype, p.m, p.n);
    return {Product{p.m, p.n, p.k, 1, natural_math(p.dtype), false, x, w, y}};
  }
  std::vector<Command> operator()(const GroupedProbe& p) const {
    const auto used = std::count_if(p.rows.begin(), p.rows.end(), [](std::int32_t m) { return m > 0; });
    if (used == 0) return {};
    const Tensor x = room.input(p.dtype, total(p.rows), p.k);
    const Tensor w = room.input(p.dtype, used * p.k, p.n);
    const Tensor y = room.output(p.dtype, total(p.rows), p.n);
    return {grouped(room, p.rows, x, w, y)};
  }
  std::vector<Command> operator()(const ExpertsProbe& p) const {
    const std::int64_t copies = total(p.rows);
    const auto used = std::count_if(p.rows.begin(), p.rows.end(), [](std::int32_t m) { return m > 0; });
    const std::int64_t wide = p.inter * (p.gated ? 2 : 1);
    const Tensor tokens = room.input(p.dtype, p.tokens, p.hidden);
    const Tensor up = room.input(p.dtype, used * p.hidden, wide);
    const Tensor down = room.input(p.dtype, used * p.inter, p.hidden);
    const Tensor gathered = room.output(p.dtype, copies, p.hidden);
    const Tensor middle = room.output(p.dtype, copies, wide);
    const Tensor active = room.output(p.dtype, copies, p.inter);
    const Tensor results = room.output(p.dtype, copies, p.hidden);
    const Tensor out = room.output(p.dtype, p.tokens, p.hidden);
    std::vector<std::vector<std::int32_t>> gather;
    std::vector<std::vector<std::int32_t>> back(static_cast<std::size_t>(p.tokens));
    for (const std::int32_t r : shuffled(copies)) {
      const auto token = static_cast<std::int32_t>(r % p.tokens);
      back[static_cast<std::size_t>(token)].push_back(static_cast<std::int32_t>(gather.size()));
      gather.push_back({token});
    }
    std::vector<Command> c;
    if (copies > 0) {
      c.emplace_back(move(room, gather, false, tokens, gathered));
      c.emplace_back(grouped(room, p.rows, gathered, up, middle));
      c.emplace_back(ActivateCall{Activation::silu, p.gated, middle, active});
      c.emplace_back(grouped(room, p.rows, active, down, results));
    }
    c.emplace_back(move(room, back, true, results, out));
    return c;
  }
  std::vector<Command> operator()(const StreamProbe& p) const {
    using Kind = StreamProbe::Kind;
    const auto x = [&](std::int64_t rows, std::int64_t cols) { return room.input(p.dtype, rows, cols); };
    const auto y = [&] { return room.output(p.dtype, p.rows, p.cols); };
    switch (p.kind) {
      case Kind::permute:
      case Kind::unpermute:
        return {move(room, one_each(p.rows), p.kind == Kind::unpermute, x(p.rows, p.cols), y())};
      case Kind::combine: {
        std::vector<std::vector<std::int32_t>> two(static_cast<std::size_t>(p.rows));
        const std::vector<std::int32_t> order = shuffled(2 * p.rows);
        for (std::size_t i = 0; i < order.size(); ++i) two[i / 2].push_back(order[i]);
        return {move(room, two, true, x(2 * p.rows, p.cols), y())};
      }
      case Kind::gate: {
        const int k = static_cast<int>(std::min<std::int64_t>(8, p.cols));
        return {Gate{k, nullptr, room.input(DType::f32, p.rows, p.cols),
                     room.output(DType::f32, p.rows, std::int64_t{2} * k)}};
      }
      case Kind::activation:
        return {ActivateCall{Activation::silu, false, x(p.rows, p.cols), y()}};
      case Kind::gated:
        return {ActivateCall{Activation::silu, true, x(p.rows, 2 * p.cols), y()}};
      case Kind::reduce: {
        Sum sum{{}, p.rows * p.cols, p.dtype, y().data};
        for (int i = 0; i < 4; ++i) sum.terms.push_back({x(p.rows, p.cols).data, p.dtype});
        return {std::move(sum)};
      }
      case Kind::norm: {
        const Tensor a = x(p.rows, p.cols);
        const Tensor b = x(p.rows, p.cols);
        const Tensor w = x(1, p.cols);
        const Tensor sum = y();
        return {Normalize{a, b, w, sum, y()}};
      }
      case Kind::quantize:
        return {Quantize{x(p.rows, p.cols), room.output(DType::fp8, p.rows, p.cols + 4 * ((p.cols + 127) / 128))}};
    }
    return {};
  }
  std::vector<Command> operator()(const CopyProbe& p) const {
    switch (p.kind) {
      case CopyProbe::Kind::device: {
        const Tensor x = room.input(DType::int8, 1, p.bytes);
        return {CopyBytes{room.output(DType::int8, 1, p.bytes).data, x.data, p.bytes}};
      }
      case CopyProbe::Kind::to_device:
        return {CopyBytes{room.output(DType::int8, 1, p.bytes).data, room.pinned(p.bytes), p.bytes}};
      case CopyProbe::Kind::to_host:
        return {CopyBytes{room.pinned(p.bytes), room.input(DType::int8, 1, p.bytes).data, p.bytes}};
    }
    return {};
  }
  std::vector<Command> operator()(const LaunchProbe&) const { return {Nothing{}}; }
  std::vector<Command> operator()(const CollectiveProbe&) const { return {}; }
};

}  // namespace

Room::Room(Device& device, std::int64_t bytes, std::int64_t pinned_bytes)
    : device_(device),
      read_{"device memory that probes read", nullptr, aligned(bytes) * 2 / 3 / alignment * alignment, 0},
      written_{"device memory that probes write", nullptr, aligned(bytes) / 3 / alignment * alignment, 0},
      pinned_{"pinned host memory", nullptr, aligned(pinned_bytes), 0} {
  read_.begin = device.allocate(read_.size, Device::Memory::device);
  written_.begin = device.allocate(written_.size, Device::Memory::device);
  pinned_.begin = device.allocate(pinned_.size, Device::Memory::host);
  // A product's power, and so its clock, depends on its operands: random ones, in [-1, 1).
  constexpr std::int64_t cols = 4096;
  std::vector<std::int64_t> col(cols);
  std::iota(col.begin(), col.end(), std::int64_t{0});
  const std::int64_t* cols_at = table(col);
  const auto fill = [&](Block& block, std::int64_t from, std::int64_t rows, std::int64_t width) {
    if (rows > 0)
      device.enqueue(Fill{7, 1, 0, nullptr, 0, 0, cols_at, {block.begin + from, DType::bf16, rows, width}}, 0);
  };
  const std::int64_t rows = read_.size / (2 * cols);
  fill(read_, 0, rows, cols);
  fill(read_, rows * 2 * cols, 1, (read_.size - rows * 2 * cols) / 2);
  device.finish(60, [] { return false; });
  clear();
}

std::byte* Room::Block::take(std::int64_t bytes) {
  const std::int64_t at = used;
  if (at + aligned(bytes) > size)
    throw Refused(fmt::format("a probe needs {} of {}, and {} are set aside", human_binary(Bytes(at + bytes)), name,
                              human_binary(Bytes(size))));
  used += aligned(bytes);
  return begin + at;
}
Tensor Room::input(DType t, std::int64_t rows, std::int64_t cols) {
  return {read_.take(rows * cols * (bits(t) / 8)), t, rows, cols};
}
Tensor Room::output(DType t, std::int64_t rows, std::int64_t cols) {
  return {written_.take(rows * cols * (bits(t) / 8)), t, rows, cols};
}
std::byte* Room::pinned(std::int64_t bytes) { return pinned_.take(bytes); }
const std::byte* Room::upload(std::span<const std::byte> content) {
  std::byte* to = written_.take(static_cast<std::int64_t>(content.size()));
  if (!content.empty()) device_.upload(to, content);
  return to;
}
void Room::clear() { read_.used = written_.used = pinned_.used = 0; }

std::vector<Command> commands_of(const Probe& probe, Room& room) { return std::visit(Build{room}, probe); }

Exchange exchange_of(const CollectiveProbe& p, int communicator, Room& room) {
  using Kind = Exchange::Message::Kind;
  const std::int64_t all = p.bytes / 2;  // of bf16
  const std::int64_t part = all / p.gpus;
  const auto in = [&](std::int64_t n) { return room.input(DType::bf16, 1, n).data; };
  const auto out = [&](std::int64_t n) { return room.output(DType::bf16, 1, n).data; };
  Exchange e;
  switch (p.kind) {
    case Collective::Kind::all_gather_v:
      e.messages.push_back({Kind::all_gather, -1, in(part), out(part * p.gpus), part, DType::bf16});
      break;
    case Collective::Kind::reduce_scatter_v:
      e.messages.push_back({Kind::reduce_scatter, -1, in(part * p.gpus), out(part), part, DType::bf16});
      break;
    case Collective::Kind::all_reduce:
      e.messages.push_back({Kind::all_reduce, -1, in(all), out(all), all, DType::bf16});
      break;
    case Collective::Kind::all_to_all_v: {
      // nccl-tests sends a rank's own part to itself, too.
      const std::byte* from = in(part * p.gpus);
      std::byte* to = out(part * p.gpus);
      for (int j = 0; j < p.gpus; ++j) {
        e.messages.push_back({Kind::send, j, from + 2 * part * j, nullptr, part, DType::bf16});
        e.messages.push_back({Kind::receive, j, nullptr, to + 2 * part * j, part, DType::bf16});
      }
      break;
    }
    case Collective::Kind::broadcast:
    case Collective::Kind::reduce:
    case Collective::Kind::send_recv:
    case Collective::Kind::sparse_all_gather:
    case Collective::Kind::sparse_reduce_scatter:
      throw Refused(fmt::format(
          "{} is not timed alone; all_gather_v, reduce_scatter_v, all_reduce and all_to_all_v are", name_of(p)));
  }
  for (Exchange::Message& m : e.messages) m.communicator = communicator;
  return e;
}

}  // namespace moesim::backend::gpu
