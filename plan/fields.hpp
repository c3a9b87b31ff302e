// The fields of every value in a Plan, named once: reading, writing and printing all walk these lists.
#pragma once

#include <concepts>
#include <type_traits>

#include "moesim/plan.hpp"

namespace moesim {

template <class T, class U>
concept Same = std::same_as<std::remove_const_t<T>, U>;

void for_each_field(Same<Gemm> auto& x, auto&& f) {
  f("m", x.m);
  f("batch", x.batch);
  f("n", x.n);
  f("k", x.k);
  f("in", x.in);
  f("weight", x.weight);
  f("out", x.out);
  f("math", x.math);
  f("form", x.form);
}
void for_each_field(Same<Launch> auto& x, auto&& f) {
  f("per_group", x.per_group);
  f("kernels", x.kernels);
  f("passes", x.passes);
  f("host_waits", x.host_waits);
}
void for_each_field(Same<GroupedGemm> auto& x, auto&& f) {
  f("form", x.form);
  f("rows", x.rows);
  f("matrices", x.matrices);
  f("n", x.n);
  f("k", x.k);
  f("in", x.in);
  f("weight", x.weight);
  f("out", x.out);
  f("math", x.math);
  f("launch", x.launch);
  f("block_sparse", x.block_sparse);
}
void for_each_field(Same<AttentionCore> auto& x, auto&& f) {
  f("sequences", x.sequences);
  f("q_len", x.q_len);
  f("kv_len", x.kv_len);
  f("heads", x.heads);
  f("kv_heads", x.kv_heads);
  f("qk_dim", x.qk_dim);
  f("v_dim", x.v_dim);
  f("window", x.window);
  f("kv_cols", x.kv_cols);
  f("causal", x.causal);
  f("backward", x.backward);
  f("dtype", x.dtype);
  f("math", x.math);
}
void for_each_field(Same<Elementwise> auto& x, auto&& f) {
  f("fn", x.fn);
  f("rows", x.rows);
  f("read_cols", x.read_cols);
  f("write_cols", x.write_cols);
  f("dtype", x.dtype);
  f("flops_per_row", x.flops_per_row);
  f("activation", x.activation);
  f("backward", x.backward);
}
void for_each_field(Same<Permute> auto& x, auto&& f) {
  f("from", x.from);
  f("to", x.to);
  f("moe_layer", x.moe_layer);
  f("routed", x.routed);
  f("groups", x.groups);
  f("placement", x.placement);
  f("capacity", x.capacity);
  f("rows_in", x.rows_in);
  f("rows_out", x.rows_out);
  f("cols", x.cols);
  f("dtype", x.dtype);
  f("launch", x.launch);
  f("shares", x.shares);
  f("adjoint", x.adjoint);
}
void for_each_field(Same<Copy> auto& x, auto&& f) {
  f("direction", x.direction);
  f("rows", x.rows);
  f("cols", x.cols);
  f("dtype", x.dtype);
}
void for_each_field(Same<HostSync> auto&, auto&&) {}
void for_each_field(Same<Collective> auto& x, auto&& f) {
  f("kind", x.kind);
  f("algorithm", x.algorithm);
  f("groups", x.groups);
  f("counts", x.counts);
  f("cols", x.cols);
  f("dtype", x.dtype);
  f("root", x.root);
  f("from", x.from);
  f("to", x.to);
  f("island_rows", x.island_rows);
  f("returns", x.returns);
}
void for_each_field(Same<Shard::Section> auto& x, auto&& f) {
  f("cols", x.cols);
  f("slices", x.slices);
}
void for_each_field(Same<Shard> auto& x, auto&& f) {
  f("groups", x.groups);
  f("by_rows", x.by_rows);
  f("tensor_rows", x.tensor_rows);
  f("sections", x.sections);
  f("matrix_rows", x.matrix_rows);
  f("expert_groups", x.expert_groups);
  f("placement", x.placement);
}
void for_each_field(Same<Buffer> auto& x, auto&& f) {
  f("name", x.name);
  f("role", x.role);
  f("location", x.location);
  f("dtype", x.dtype);
  f("rows", x.rows);
  f("cols", x.cols);
  f("shard", x.shard);
}
void for_each_field(Same<ExpertPlacement> auto& x, auto&& f) {
  f("expert_of_slot", x.expert_of_slot);
  f("slot_begin", x.slot_begin);
}
void for_each_field(Same<Op> auto& x, auto&& f) {
  f("name", x.name);
  f("category", x.category);
  f("pass", x.pass);
  f("layer", x.layer);
  f("stream", x.stream);
  f("after", x.after);
  f("reads", x.reads);
  f("writes", x.writes);
  f("work", x.work);
}
void for_each_field(Same<Plan> auto& x, auto&& f) {
  f("strategy", x.strategy);
  f("model", x.model);
  f("workload", x.workload);
  f("options", x.options);
  f("ranks", x.ranks);
  f("routing_synthetic", x.routing_synthetic);
  f("routing", x.routing);
  f("token_begin", x.tokens.begin);
  f("owner_of_rank", x.owner_of_rank);
  f("dropped_copies", x.dropped_copies);
  f("routed_copies", x.routed_copies);
  f("tables", x.tables);
  f("groups", x.groups);
  f("placements", x.placements);
  f("buffers", x.buffers);
  f("ops", x.ops);
}

}  // namespace moesim
