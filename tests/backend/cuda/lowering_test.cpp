// The sequence of launches and NCCL calls that ops become, written out.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "backend/cuda/arena.hpp"
#include "backend/cuda/collective.hpp"
#include "backend/cuda/lower.hpp"
#include "tests/backend/small_models.hpp"

using namespace moesim;
using namespace moesim::test;
using namespace moesim::backend;
namespace gpu = moesim::backend::gpu;

namespace {

// Addresses are offsets from these.
std::byte* const input = reinterpret_cast<std::byte*>(0x10000);
std::byte* const output = reinterpret_cast<std::byte*>(0x20000);
std::byte* const staged = reinterpret_cast<std::byte*>(0x30000);

std::string address(const std::byte* p) {
  if (p == nullptr) return "-";
  for (const auto& [base, name] : {std::pair(input, "in"), std::pair(output, "out"), std::pair(staged, "room")})
    if (p >= base && p < base + 0x10000) return fmt::format("{}+{}", name, p - base);
  return "?";
}

// Communicators by number, in the order in which a member names them: the group's first.
std::vector<std::vector<Rank>> named;
int communicator(const std::vector<Rank>& members) {
  const auto known = std::ranges::find(named, members);
  if (known == named.end()) named.push_back(members);
  return static_cast<int>(std::ranges::find(named, members) - named.begin());
}
std::string members_of(int communicator) {
  std::string out;
  for (const Rank r : named[static_cast<std::size_t>(communicator)]) out += std::to_string(r.value());
  return out;
}

struct Text {
  std::string operator()(const gpu::Exchange& e) const {
    static constexpr const char* names[] = {"send",       "receive",   "all_gather", "reduce_scatter",
                                            "all_reduce", "broadcast", "reduce"};
    std::string out = "{";
    for (const auto& m : e.messages)
      out += fmt::format("{}{} {} {}>{} x{}{}", out.size() > 1 ? ", " : "", names[static_cast<std::size_t>(m.kind)],
                         m.peer, address(m.from), address(m.to), m.elements,
                         m.communicator == 0 ? "" : " among " + members_of(m.communicator));
    return out + "}";
  }
  std::string operator()(const gpu::CopyBytes& c) const {
    return fmt::format("copy {}>{} {}", address(c.from), address(c.to), c.bytes);
  }
  std::string operator()(const gpu::Sum& s) const {
    std::string out = "sum";
    for (const auto& t : s.terms) out += " " + address(t.data);
    return out + ">" + address(s.y) + fmt::format(" x{}", s.elements);
  }
  std::string operator()(const gpu::Product& p) const { return fmt::format("product {}x{}x{}", p.m, p.n, p.k); }
  std::string operator()(const gpu::GroupedProduct& p) const {
    std::string out = "grouped";
    for (const auto& g : p.groups) out += fmt::format(" {}", g.m);
    return out;
  }
  std::string operator()(const gpu::MoveRows& m) const { return fmt::format("move {}+{}", m.first, m.rows); }
  std::string operator()(const gpu::Nothing&) const { return "nothing"; }
  template <class Other>
  std::string operator()(const Other&) const {
    return "other";
  }
};

std::vector<std::string> texts(const std::vector<gpu::Command>& commands) {
  std::vector<std::string> out;
  for (const auto& c : commands) out.push_back(std::visit(Text{}, c));
  return out;
}

std::vector<LogicalExpert> experts(const std::vector<int>& ids) {
  std::vector<LogicalExpert> out;
  for (const int i : ids) out.emplace_back(i);
  return out;
}

// One group of all ranks, rows of two float32.
Plan plan_of_ranks(const std::vector<std::vector<int>>& counts) {
  Plan plan;
  plan.ranks = static_cast<int>(counts.size());
  plan.groups = {{{}}};
  for (int r = 0; r < plan.ranks; ++r) plan.groups[0][0].emplace_back(r);
  Table t(plan.ranks, static_cast<int>(counts[0].size()));
  for (int r = 0; r < plan.ranks; ++r)
    for (std::size_t c = 0; c < counts[0].size(); ++c)
      t.at(r, static_cast<int>(c)) = counts[static_cast<std::size_t>(r)][c];
  plan.tables = {t};
  return plan;
}

std::vector<std::string> calls(const Plan& plan, Collective work, std::size_t member) {
  work.groups = GroupsId(0);
  if (work.kind != Collective::Kind::sparse_all_gather && work.kind != Collective::Kind::sparse_reduce_scatter)
    work.counts = TableId(0);
  work.cols = 2;
  work.dtype = DType::f32;
  const CollectiveCall call{work, {input, DType::f32, 99, 2}, {output, DType::f32, 99, 2}, {}};
  Op op;
  op.name = "x";
  std::int64_t used = 0;
  std::vector<gpu::Command> out;
  named.clear();
  gpu::lower_to_nccl({plan, op, plan.groups[0][0][member], communicator,
                      [&](std::int64_t bytes) {
                        std::byte* at = staged + used;
                        used += bytes;
                        return at;
                      }},
                     call, out);
  return texts(out);
}

Collective of(Collective::Kind kind, Collective::Algorithm algorithm = Collective::Algorithm::automatic, int root = 0) {
  Collective c;
  c.kind = kind;
  c.algorithm = algorithm;
  c.root = root;
  return c;
}

using List = std::vector<std::string>;
using Kind = Collective::Kind;

}  // namespace

TEST_CASE("all-to-all-v is one group of sends and receives, the own part a copy, nothing for empty parts") {
  const Plan plan = plan_of_ranks({{1, 2, 0}, {3, 1, 1}, {0, 2, 2}});
  // Rank 0 sends 2 rows to 1 and nothing to 2, and receives 3 rows from 1. A row is 8 bytes.
  CHECK(calls(plan, of(Kind::all_to_all_v), 0) ==
        List{"copy in+0>out+0 8", "{send 1 in+8>- x4, receive 1 ->out+8 x6}"});
  CHECK(calls(plan, of(Kind::send_recv), 1) ==
        List{"copy in+24>out+16 8",
             "{send 0 in+0>- x6, receive 0 ->out+0 x4, send 2 in+32>- x2, receive 2 ->out+24 x4}"});
}

TEST_CASE("gathers and reduce-scatters: NCCL's own where members are even, grouped calls where they are not") {
  const Plan even = plan_of_ranks({{2}, {2}, {2}});
  CHECK(calls(even, of(Kind::all_gather_v), 1) == List{"{all_gather -1 in+0>out+0 x4}"});
  CHECK(calls(even, of(Kind::reduce_scatter_v), 1) == List{"{reduce_scatter -1 in+0>out+0 x4}"});
  const Plan uneven = plan_of_ranks({{1}, {0}, {3}});
  CHECK(calls(uneven, of(Kind::all_gather_v), 0) ==
        List{"copy in+0>out+0 8", "{send 1 in+0>- x2, send 2 in+0>- x2, receive 2 ->out+8 x6}"});
  CHECK(calls(uneven, of(Kind::reduce_scatter_v), 2) == List{"{reduce 0 in+0>- x2, reduce 2 in+8>out+0 x6}"});
  // As PyTorch does: a broadcast or reduce per member, each a call of its own.
  const auto in_turn = Collective::Algorithm::per_root;
  CHECK(calls(uneven, of(Kind::all_gather_v, in_turn), 2) ==
        List{"{broadcast 0 ->out+0 x2}", "{broadcast 2 in+0>out+8 x6}"});
  CHECK(calls(uneven, of(Kind::reduce_scatter_v, in_turn), 0) ==
        List{"{reduce 0 in+0>out+0 x2}", "{reduce 2 in+8>- x6}"});
}

TEST_CASE("reductions and broadcasts are NCCL's") {
  const Plan plan = plan_of_ranks({{4}, {4}, {4}});
  CHECK(calls(plan, of(Kind::all_reduce), 2) == List{"{all_reduce -1 in+0>out+0 x8}"});
  CHECK(calls(plan, of(Kind::broadcast, Collective::Algorithm::automatic, 1), 0) ==
        List{"{broadcast 1 in+0>out+0 x8}"});
  CHECK(calls(plan, of(Kind::reduce, Collective::Algorithm::automatic, 2), 0) == List{"{reduce 2 in+0>out+0 x8}"});
}

TEST_CASE("sparse collectives: a message where one lacks a chunk, a broadcast or reduce among those concerned else") {
  Plan plan = plan_of_ranks({{0}, {0}, {0}});
  plan.placements = {{experts({0, 1, 2, 3}), {0, 2, 3, 4}},         // 0: 0 1 | 1: 2 | 2: 3
                     {experts({0, 1, 3, 2, 0, 3}), {0, 3, 5, 6}}};  // 0: 0 1 3 | 1: 2 0 | 2: 3
  Collective gather = of(Kind::sparse_all_gather);
  gather.from = PlacementId(0);
  gather.to = PlacementId(1);
  CHECK(calls(plan, gather, 0) ==
        List{"copy in+0>out+0 8", "copy in+8>out+8 8", "{send 1 in+0>- x2, receive 2 ->out+16 x2}"});
  CHECK(calls(plan, gather, 2) == List{"copy in+0>out+0 8", "{send 0 in+0>- x2}"});
  Collective reduce = of(Kind::sparse_reduce_scatter);
  reduce.from = PlacementId(1);
  reduce.to = PlacementId(0);
  // Expert 0 is on ranks 0 and 1, expert 3 on 0 and 2; experts 1 and 2 are where they stay.
  CHECK(calls(plan, reduce, 0) ==
        List{"{receive 1 ->room+0 x2, send 2 in+16>- x2}", "sum in+0 room+0>out+0 x2", "sum in+8>out+8 x2"});
  CHECK(calls(plan, reduce, 2) == List{"{receive 0 ->room+0 x2}", "sum room+0 in+0>out+0 x2"});

  // Expert 0 from rank 1 to all, expert 1 from rank 3 to 0 and 2, in one group of calls; then their partial sums back.
  Plan four = plan_of_ranks({{0}, {0}, {0}, {0}});
  four.placements = {{experts({2, 0, 3, 1}), {0, 1, 2, 3, 4}},                  // 0: 2 | 1: 0 | 2: 3 | 3: 1
                     {experts({2, 0, 1, 0, 3, 1, 0, 1, 0}), {0, 3, 4, 7, 9}}};  // 0: 2 0 1 | 1: 0 | 2: 3 1 0 | 3: 1 0
  CHECK(calls(four, gather, 0) ==
        List{"copy in+0>out+0 8", "{broadcast 1 ->out+8 x2, broadcast 2 ->out+16 x2 among 023}"});
  CHECK(calls(four, gather, 1) == List{"copy in+0>out+0 8", "{broadcast 1 in+0>in+0 x2}"});
  CHECK(calls(four, gather, 3) ==
        List{"copy in+0>out+0 8", "{broadcast 1 ->out+8 x2, broadcast 2 in+0>in+0 x2 among 023}"});
  CHECK(calls(four, reduce, 0) == List{"{reduce 1 in+8>- x2, reduce 2 in+16>- x2 among 023}", "sum in+0>out+0 x2"});
  CHECK(calls(four, reduce, 1) == List{"{reduce 1 in+0>out+0 x2}"});
  CHECK(calls(four, reduce, 3) == List{"{reduce 1 in+8>- x2, reduce 2 in+0>out+0 x2 among 023}"});
}

TEST_CASE("sums in place: NCCL's all-reduces, in one group; two replicas exchange theirs") {
  Plan plan = plan_of_ranks({{4}, {4}, {4}});
  plan.placements = {{experts({0, 1, 2, 0, 0}), {0, 2, 4, 5}},  // 0: 0 1 | 1: 2 0 | 2: 0
                     {experts({2, 1, 0, 1}), {0, 1, 3, 4}}};    // 0: 2 | 1: 1 0 | 2: 1
  Op op;
  op.name = "x";
  const auto sum = [&](Collective work, std::vector<Tensor> buffers, std::size_t member) {
    work.groups = GroupsId(0);
    work.cols = 2;
    work.dtype = DType::f32;
    std::int64_t used = 0;
    std::vector<gpu::Command> out;
    named.clear();
    gpu::lower_to_nccl({plan, op, Rank(static_cast<int>(member)), communicator,
                        [&](std::int64_t bytes) { return staged + std::exchange(used, used + bytes); }},
                       SumCall{work, std::move(buffers)}, out);
    return texts(out);
  };
  Collective all = of(Kind::all_reduce);
  all.counts = TableId(0);
  CHECK(sum(all, {{input, DType::f32, 3, 2}, {output, DType::f32, 1, 2}}, 1) ==
        List{"{all_reduce -1 in+0>in+0 x6, all_reduce -1 out+0>out+0 x2}"});
  Collective equal = of(Kind::sparse_reduce_scatter);
  equal.from = equal.to = PlacementId(0);
  const std::vector<Tensor> slots{{input, DType::f32, 2, 2}};
  CHECK(sum(equal, slots, 0) == List{"{all_reduce -1 in+0>in+0 x2}"});
  CHECK(sum(equal, slots, 1) == List{"{all_reduce -1 in+8>in+8 x2}"});
  equal.from = equal.to = PlacementId(1);
  CHECK(sum(equal, slots, 0).empty());
  CHECK(sum(equal, slots, 1) == List{"{send 2 in+0>- x2, receive 2 ->room+0 x2}", "sum in+0 room+0>in+0 x2"});
  CHECK(sum(equal, slots, 2) == List{"{send 1 in+0>- x2, receive 1 ->room+0 x2}", "sum room+0 in+0>in+0 x2"});

  // Expert 2 goes from 1 to 0, expert 1 from 0 to 1 and 2; expert 0 stays with 1. A matrix is two rows of one column.
  const auto move = [&](std::size_t member) {
    Collective work = of(Kind::send_recv);
    work.groups = GroupsId(0);
    work.from = PlacementId(0);
    work.to = PlacementId(1);
    std::vector<gpu::Command> out;
    named.clear();
    gpu::lower_to_nccl({plan, op, Rank(static_cast<int>(member)), communicator, {}},
                       MoveCall{work, {{{input, DType::f32, 4, 1}, {output, DType::f32, 4, 1}, 2}}}, out);
    return texts(out);
  };
  CHECK(move(0) == List{"{receive 1 ->out+0 x2, send 1 in+8>- x2, send 2 in+8>- x2}"});
  CHECK(move(1) == List{"{send 0 in+0>- x2, receive 0 ->out+0 x2}"});
  CHECK(move(2) == List{"{receive 0 ->out+0 x2}"});
}

TEST_CASE("a group of one copies") {
  Plan plan = plan_of_ranks({{2}, {2}, {2}});
  plan.groups = {{{Rank(0)}, {Rank(1)}, {Rank(2)}}};
  for (const Kind kind : {Kind::all_gather_v, Kind::reduce_scatter_v, Kind::all_reduce, Kind::broadcast, Kind::reduce})
    CHECK(calls(plan, of(kind), 0) == List{"copy in+0>out+0 16"});
}

TEST_CASE("launches: one grouped product, or a product per group that has rows; passes, empty kernels and host waits") {
  Plan plan;
  plan.ranks = 1;
  plan.groups = {{{Rank(0)}}};
  Table rows(1, 4);
  rows.at(0, 0) = 3;
  rows.at(0, 2) = 5;
  plan.tables = {rows};
  const gpu::LowerContext at{plan, Rank(0), [](std::span<const std::byte>) { return staged; },
                             [](std::int64_t) { return staged; }};
  Op op;
  GroupedProductCall g;
  g.work.rows = TableId(0);
  g.work.matrices = 4;
  g.work.n = 8;
  g.work.k = 2;
  g.rows = plan.tables[0].row(0);
  g.x = {input, DType::f32, 8, 2};
  g.w = {staged, DType::f32, 8, 8};
  g.y = {output, DType::f32, 8, 8};
  const auto lowered = [&](const Call& call) {
    gpu::Step step;
    gpu::lower(at, op, call, step);
    return step;
  };
  CHECK(texts(lowered(g).commands) == List{"grouped 3 5"});
  g.work.launch = {true, 2, 1, true};
  const gpu::Step loop = lowered(g);
  CHECK(texts(loop.commands) == List{"product 3x8x2", "nothing", "product 5x8x2", "nothing"});
  CHECK(loop.set_ends == std::vector<std::size_t>{2, 4});

  // Formats that cuBLAS does not have are refused by the op's name, not when they run.
  for (const auto& [x, w, y] : {std::tuple{DType::f32, DType::bf16, DType::f32},
                                {DType::f32, DType::f32, DType::bf16},
                                {DType::bf16, DType::bf16, DType::f16}}) {
    GroupedProductCall other = g;
    other.x.dtype = x;
    other.w.dtype = w;
    other.y.dtype = y;
    CHECK_THROWS_AS(lowered(other), Refused);
  }
  GroupedProductCall wider = g;
  wider.x.dtype = wider.w.dtype = DType::bf16;
  wider.work.launch = {};
  CHECK(texts(lowered(wider).commands) == List{"product 3x8x2", "product 5x8x2"});

  PermuteCall p;
  p.work.routed = TableId(0);
  p.work.groups = GroupsId(0);
  p.map.begin.assign(9, 0);
  p.x = {input, DType::f32, 8, 2};
  p.y = {output, DType::f32, 8, 2};
  CHECK(texts(lowered(p).commands) == List{"move 0+8"});
  p.work.launch = {true, 3, 2, false};
  // Two groups have rows; a pass more is a copy of the set's rows (8 bytes each), and the third operation is empty.
  CHECK(texts(lowered(p).commands) ==
        List{"move 0+4", "copy room+0>out+0 32", "nothing", "move 4+4", "copy room+32>out+32 32", "nothing"});
}

TEST_CASE("memory: buffers that are alive together are apart, and the piece is little larger than the plan's peak") {
  std::mt19937 random(7);
  int plans = 0;
  for (int draw = 0; draw < 6; ++draw)
    for (const Variant& v : variants()) {
      MoeBlock block;
      block.experts = 8;
      block.top_k = 2;
      block.expert = {std::int64_t{64} << (draw % 3), true, false, Activation::silu};
      const std::int64_t tokens = 64 << draw;
      const Case c = moe_only(128, block, 4, tokens, 1, DType::bf16);
      const TableRouting routing = random_routing(1, tokens, 8, 2, draw % 2, 0, random);
      const auto plan = plan_of(c, routing, v.strategy, v.options);
      if (!plan) continue;
      CAPTURE(v.name);
      ++plans;
      for (int r = 0; r < plan->ranks; ++r) {
        const gpu::Arena arena = gpu::arena_of(*plan, Rank(r));
        std::int64_t rounding = 0;  // every buffer is rounded up to the alignment
        for (std::size_t a = 0; a < arena.places.size(); ++a) {
          const gpu::Place& p = arena.places[a];
          if (p.begin < 0) continue;
          CHECK(p.begin % gpu::Arena::alignment == 0);
          CHECK(p.bytes >= plan->bytes(plan->buffers[a], Rank(r)).value());
          rounding += p.bytes - plan->bytes(plan->buffers[a], Rank(r)).value();
          for (std::size_t b = 0; b < a; ++b) {
            const gpu::Place& q = arena.places[b];
            if (q.begin < 0 || p.last < q.first || q.last < p.first) continue;
            CHECK((p.begin + p.bytes <= q.begin || q.begin + q.bytes <= p.begin));
          }
        }
        const std::int64_t peak = memory_peak(*plan, Rank(r)).total.value();
        CHECK(arena.device_bytes >= peak);
        // Up to 10.5 % was seen, in plans whose weights are small beside their activations.
        CHECK(static_cast<double>(arena.device_bytes) <=
              1.125 * static_cast<double>(peak) + static_cast<double>(rounding));
      }
    }
  CHECK(plans > 60);
}

TEST_CASE("memory: who writes where another stream's buffer was waits for that stream") {
  Plan plan;
  plan.ranks = 1;
  const auto buffer = [&](const char* name) {
    plan.buffers.push_back({name, BufferRole::activation, Location::device, DType::f32, {64, {}}, 4, {}});
    return BufferId(plan.buffers.size() - 1);
  };
  const auto op = [&](int stream, std::vector<OpId> after, std::vector<BufferId> reads, std::vector<BufferId> writes) {
    plan.ops.push_back({fmt::format("op{}", plan.ops.size()),
                        Category::other,
                        Pass::forward,
                        {},
                        stream,
                        std::move(after),
                        std::move(reads),
                        std::move(writes),
                        HostSync{}});
    return OpId(plan.ops.size() - 1);
  };
  const BufferId a = buffer("a");
  const BufferId b = buffer("b");
  const BufferId c = buffer("c");
  const OpId first = op(0, {}, {}, {a});
  const OpId second = op(1, {first}, {a}, {b});  // the last to read a
  const OpId third = op(0, {}, {}, {c});         // c may lie where a was
  const gpu::Arena arena = gpu::arena_of(plan, Rank(0));
  CHECK(arena.places[a.index()].begin == arena.places[c.index()].begin);
  CHECK(arena.device_bytes == 2 * 1024);
  CHECK(arena.reuse[third.index()] == std::vector<OpId>{second});
  CHECK(arena.reuse[first.index()].empty());
  CHECK(arena.reuse[second.index()].empty());
}
