#include "tests/plan/paper_plan.hpp"

#include "plan/builder.hpp"

namespace moesim::test {
namespace {

Table table(int rows, int cols, const std::vector<std::int32_t>& cells) {
  Table t(rows, cols);
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < cols; ++c) t.at(r, c) = cells[static_cast<std::size_t>(r * cols + c)];
  return t;
}

}  // namespace

ExpertPlacement in_order(int members, int each) {
  ExpertPlacement p;
  for (int e = 0; e < members * each; ++e) p.expert_of_slot.emplace_back(e);
  for (int j = 1; j <= members; ++j) p.slot_begin.push_back(j * each);
  return p;
}

Plan paper_plan() {
  Plan header;
  header.strategy = "paper";
  header.model = "paper";
  header.workload = "prefill, 5 sequences of 1 token";
  header.options = {{"size", "2"}};
  header.ranks = 2;
  header.routing = "written by hand";
  header.tokens.begin = {0, 3, 5};
  header.owner_of_rank = {0, 1};
  PlanBuilder b(std::move(header));

  const std::int64_t h = paper_hidden;
  const GroupsId all = b.groups({{Rank(0), Rank(1)}});
  const PlacementId placement = b.placement(in_order(2, 2));
  const TableId routed = b.table(table(2, 4, {1, 0, 2, 0, 1, 1, 0, 0}));
  const Rows tokens{0, b.table(table(2, 1, {3, 2}))};
  const TableId pairs = b.table(table(2, 2, {1, 2, 2, 0}));    // [sender, receiver]
  const TableId arrived = b.table(table(2, 2, {1, 2, 2, 0}));  // [receiver, sender]: the same here, one id
  const TableId expert_rows = b.table(table(2, 2, {2, 1, 2, 0}));
  const Rows copies{0, routed};
  const Rows received{0, arrived};
  const Rows computed{0, expert_rows};

  const auto buffer = [&](const char* name, BufferRole role, DType dtype, Rows rows, std::int64_t cols, Shard s = {}) {
    return b.buffer({name, role, Location::device, dtype, rows, cols, std::move(s)});
  };
  const auto permute = [&](RowOrder from, RowOrder to, Rows in, Rows out) {
    return Permute{from, to, 0, routed, all, placement, 0, in, out, h, DType::f32, {}};
  };
  const auto exchange = [&](TableId counts) {
    return Collective{
        Collective::Kind::all_to_all_v, Collective::Algorithm::direct, all, counts, h, DType::f32, 0, {}, {}};
  };
  const auto add = [&](const char* name, Category category, int stream, std::vector<BufferId> reads, BufferId out,
                       Work work) {
    b.add({name, category, Pass::forward, Layer(0), stream, {}, std::move(reads), {out}, std::move(work)});
  };
  Shard experts;
  experts.matrix_rows = h;
  experts.expert_groups = all;
  experts.placement = placement;

  const BufferId x = buffer("x", BufferRole::activation, DType::f32, tokens, h);
  const BufferId table_weight = buffer("embedding.table", BufferRole::weight, DType::f32, Rows{10, {}}, h);
  const BufferId weight = buffer("experts.weight", BufferRole::weight, DType::f32, Rows{2 * h, {}}, h, experts);
  const BufferId sorted = buffer("sorted", BufferRole::activation, DType::f32, copies, h);
  const BufferId dispatched = buffer("dispatched", BufferRole::communication, DType::f32, received, h);
  const BufferId grouped = buffer("grouped", BufferRole::activation, DType::f32, computed, h);
  const BufferId y = buffer("y", BufferRole::activation, DType::f32, computed, h);
  const BufferId z = buffer("z", BufferRole::activation, DType::f32, received, h);
  const BufferId combined = buffer("combined", BufferRole::communication, DType::f32, copies, h);
  const BufferId out = buffer("out", BufferRole::activation, DType::f32, tokens, h);

  add("embedding", Category::embedding, 0, {table_weight}, x,
      Elementwise{Elementwise::Fn::embedding, tokens, h, h, DType::f32, 0, {}});
  add("permute", Category::dispatch, 0, {x}, sorted, permute(RowOrder::token, RowOrder::by_slot, tokens, copies));
  add("dispatch", Category::dispatch, 1, {sorted}, dispatched, exchange(pairs));
  add("group", Category::dispatch, 0, {dispatched}, grouped,
      permute(RowOrder::by_source, RowOrder::by_slot, received, computed));
  add("experts", Category::experts, 0, {grouped, weight}, y,
      GroupedGemm{
          GroupedGemm::Form::forward, expert_rows, 2, h, h, DType::f32, DType::f32, DType::f32, Math::f32, {}, false});
  add("ungroup", Category::combine, 0, {y}, z, permute(RowOrder::by_slot, RowOrder::by_source, computed, received));
  add("combine", Category::combine, 1, {z}, combined, exchange(arrived));
  add("unpermute", Category::combine, 0, {combined}, out, permute(RowOrder::by_slot, RowOrder::token, copies, tokens));
  b.count_copies(5, 0);
  return std::move(b).finish();
}

}  // namespace moesim::test
