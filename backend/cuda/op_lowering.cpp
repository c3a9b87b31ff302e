#include "backend/cuda/op_lowering.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "backend/bind.hpp"

namespace moesim::backend::gpu {

void OpLowering::refuse(const std::string& why) const {
  throw Refused(fmt::format("op '{}' ({}) does not run on a GPU: {}", op_.name, to_string(op_.work), why));
}

void OpLowering::formats(const Tensor& a, const Tensor& b, const Tensor& product) const {
  if (a.dtype != b.dtype)
    refuse(fmt::format("cuBLAS multiplies operands of one format, and these are {} and {}", to_string(a.dtype),
                       to_string(b.dtype)));
  if (product.dtype != a.dtype && product.dtype != DType::f32)
    refuse(fmt::format("cuBLAS multiplies {} into {} or f32, and its result is {}", to_string(a.dtype),
                       to_string(a.dtype), to_string(product.dtype)));
}

void OpLowering::end_set(const Launch& launch, int launches) {
  for (int i = launches; i < launch.kernels; ++i) out_.commands.emplace_back(Nothing{});
  if (launch.host_waits) out_.set_ends.push_back(out_.commands.size());
}

void OpLowering::move_rows(const Permute& work, MoveRows move) {
  const Launch& launch = work.launch;
  const Tensor y = move.y;
  if (y.rows == 0) return;
  const int copies = launch.passes - 1;
  std::byte* room[2] = {nullptr, nullptr};
  for (int i = 0; i < std::min(copies, 2); ++i) room[i] = at_.staging(y.bytes());
  const auto target = [&](int pass) { return pass == copies ? y.data : room[pass % 2]; };
  const std::int64_t sets = launch.per_group ? groups_with_rows(work) : 1;
  for (std::int64_t s = 0; s < sets; ++s) {
    move.first = y.rows * s / sets;
    move.rows = y.rows * (s + 1) / sets - move.first;
    move.y.data = target(0);
    if (move.rows > 0) out_.commands.emplace_back(move);
    const std::int64_t offset = move.first * y.cols * y.element_bytes();
    const std::int64_t bytes = move.rows * y.cols * y.element_bytes();
    for (int pass = 1; pass <= copies; ++pass)
      if (bytes > 0) out_.commands.emplace_back(CopyBytes{target(pass) + offset, target(pass - 1) + offset, bytes});
    end_set(launch, launch.passes);
  }
}

void OpLowering::grouped_rows(const GroupedGemm& work, std::span<const std::int32_t> rows, const Tensor& x,
                              const Tensor& w, const Tensor& y, bool transposed) {
  formats(x, w, y);
  GroupedProduct all{y.cols, x.cols, work.math, x.dtype, w.dtype, y.dtype, {}, nullptr, transposed};
  std::int64_t row = 0;
  for (std::size_t g = 0; g < rows.size(); ++g) {
    if (rows[g] == 0) continue;
    const std::int64_t matrix = static_cast<std::int64_t>(g) % work.matrices;
    all.groups.push_back({rows[g], x.at(row), w.at(matrix * work.k), y.at(row)});
    row += rows[g];
  }
  if (!work.launch.per_group && x.dtype == y.dtype) return grouped(std::move(all), work.launch);
  for (const GroupedProduct::Group& g : all.groups) {
    out_.commands.emplace_back(product_of(all, g));
    end_set(work.launch, 1);
  }
}

void OpLowering::grouped(GroupedProduct all, const Launch& launch) {
  if (all.groups.empty()) return;
  std::vector<const std::byte*> addresses;
  for (const GroupedProduct::Group& g : all.groups) addresses.push_back(g.w);
  for (const GroupedProduct::Group& g : all.groups) addresses.push_back(g.x);
  for (const GroupedProduct::Group& g : all.groups) addresses.push_back(g.y);
  all.addresses = at_.table(std::as_bytes(std::span(addresses)));
  out_.commands.emplace_back(std::move(all));
  end_set(launch, 1);
}

std::int64_t OpLowering::groups_with_rows(const Permute& w) const {
  const Table& routed = at_.plan.table(w.routed);
  const auto used = [&](Rank r, int slot) { return routed.at(r.value(), slot) > 0; };
  const auto at_owner = [](RowOrder o) { return o == RowOrder::token || o == RowOrder::unique_by_rank; };
  const Membership me = membership(at_.plan.groups[w.groups.index()], at_.rank);
  int first = 0;
  int last = routed.cols();
  const bool arrived = !at_owner(w.from) && !at_owner(w.to);
  if (arrived && w.placement.valid()) {
    const std::vector<int>& begin = at_.plan.placements[w.placement.index()].slot_begin;
    first = begin[me.member];
    last = begin[me.member + 1];
  }
  std::int64_t groups = 0;
  for (int s = first; s < last; ++s)
    groups += (arrived ? std::any_of(me.group->begin(), me.group->end(), [&](Rank r) { return used(r, s); })
                       : used(at_.rank, s))
                  ? 1
                  : 0;
  return std::max<std::int64_t>(groups, 1);
}

}  // namespace moesim::backend::gpu
