// Every kernel gives what the processor's gives, every strategy what the host gives: on a GPU, and without one by
// emulation.
#include "tests/backend/cuda/gpu_test.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "backend/cuda/number.hpp"
#include "backend/cuda/virtual_ranks.hpp"
#include "backend/host/numerics.hpp"
#include "backend/numbers.hpp"
#include "tests/backend/cuda/twins.hpp"
#include "tests/backend/small_models.hpp"

using namespace moesim;
using namespace moesim::test;
using namespace moesim::backend;
namespace gpu = moesim::backend::gpu;

namespace {

using Base = Twins::Base;

}  // namespace

// Columns: one; packs and none, in one pass of the block and in more.
TEST_CASE("rows: permute, combine, convert, embed, last tokens") {
  for (const DType from : types)
    for (const DType to : types)
      for (const std::int64_t cols : {1, 24, 37, 300, 2056}) {
        CAPTURE(cols);
        Twins t;
        const auto x = t.tensor(from, 9, cols);
        const auto y = t.result(to, 4, cols);
        const auto begin = t.table(std::vector<std::int64_t>{0, 1, 1, 4, 6});
        const auto rows = t.table(std::vector<std::int32_t>{3, 0, 8, 8, 2, 1});
        const auto weights = t.table(std::vector<float>{0.5F, 0.25F, 1.5F, 0.125F, 1, 0.3F});
        const auto move = [&](const Base& b, bool weighted) {
          return gpu::MoveRows{b.table<std::int64_t>(begin),
                               b.table<std::int32_t>(rows),
                               weighted ? b.table<float>(weights) : nullptr,
                               0,
                               4,
                               b(x),
                               b(y)};
        };
        for (const bool weighted : {false, true}) t.check(y, 0, [&](const Base& b) { return move(b, weighted); });
        t.check(y, 0, [&](const Base& b) {  // rows 1 and 2 of four
          gpu::MoveRows some = move(b, true);
          some.first = 1;
          some.rows = 2;
          return some;
        });
        const auto z = t.result(to, 9, cols);
        t.check(z, 0, [&](const Base& b) { return backend::CastCall{b(x), b(z)}; });
        const auto ids = t.table(std::vector<std::int64_t>{8, -1, 0, 0});
        t.check(y, 0, [&](const Base& b) { return gpu::Embed{b.table<std::int64_t>(ids), b(x), b(y)}; });
        const auto last = t.result(from, 3, cols);
        t.check(last, 0, [&](const Base& b) { return backend::LastCall{3, b(x), b(last)}; });
      }
}

// In packs where all addresses allow it, else one by one; more elements than the lanes of a block take at once.
TEST_CASE("sums: many terms, any start, any number of elements") {
  for (const DType to : types)
    for (const std::int64_t n : {1, 40, 6163}) {
      Twins t;
      const auto a = t.tensor(DType::bf16, 1, n + 8);
      const auto b = t.tensor(DType::f32, 1, n + 8);
      const auto y = t.result(to, 1, n + 8);
      for (const auto& [from_a, from_b, from_y] : {std::array{0, 0, 0}, {8, 0, 0}, {1, 0, 0}, {0, 1, 0}, {0, 0, 1}})
        for (const std::size_t terms : {std::size_t{1}, std::size_t{3}, gpu::Sum::most}) {
          CAPTURE(terms);
          const auto out = y.from(from_y);
          t.check(y, 0, [&](const Base& base) {
            gpu::Sum sum{{}, n, to, base(out).data};
            for (std::size_t i = 0; i < terms; ++i)
              sum.terms.push_back(i % 2 == 0 ? gpu::Sum::Term{base(a.from(from_a)).data, a.dtype}
                                             : gpu::Sum::Term{base(b.from(from_b)).data, b.dtype});
            return sum;
          });
        }
    }
}

TEST_CASE("norm and activation") {
  for (const DType type : types)
    for (const std::int64_t cols : {8, 13, 100, 520, 4096}) {
      CAPTURE(cols);
      Twins t;
      const auto a = t.tensor(type, 5, cols);
      const auto b = t.tensor(type, 5, cols);
      const auto w = t.tensor(type, 1, cols);
      const auto y = t.result(type, 5, cols);
      const auto sum = t.result(type, 5, cols);
      for (const bool weighted : {false, true}) {
        const auto weight = [&](const Base& base) { return weighted ? base(w) : Tensor{}; };
        t.check(y, 2 * ulp(type),
                [&](const Base& base) { return gpu::Normalize{base(a), {}, weight(base), {}, base(y)}; });
        t.check({y, sum}, 2 * ulp(type),
                [&](const Base& base) { return gpu::Normalize{base(a), base(b), weight(base), base(sum), base(y)}; });
      }
      const auto wide = t.tensor(type, 5, 2 * cols);
      for (const Activation act : {Activation::relu, Activation::gelu, Activation::silu}) {
        t.check(y, 2 * ulp(type),
                [&](const Base& base) { return backend::ActivateCall{act, true, base(wide), base(y)}; });
        t.check(y, 2 * ulp(type),
                [&](const Base& base) { return backend::ActivateCall{act, false, base(a), base(y)}; });
      }
    }
}

// 19 tokens: more than a block has warps. 16-bit scores tie often.
TEST_CASE("gate: ids and weights; a choice; a score that is not finite") {
  for (const DType type : types)
    for (const int experts : {1, 8, 33, 100, 256}) {
      CAPTURE(experts);
      Twins t;
      const int k = std::min(experts, 8);
      const auto scores = t.tensor(type, 19, experts);
      const auto y = t.result(DType::f32, 19, 2 * k);
      // Weights are 1 at most, ids whole numbers.
      for (const int best : {1, k}) {
        const auto out = Twins::At{y.offset, y.dtype, 19, 2 * best, false};
        t.check(out, {0, 2e-6}, [&](const Base& b) { return gpu::Gate{best, nullptr, b(scores), b(out)}; });
      }
      const auto choice = t.tensor(DType::f32, 19, 2 * k);
      t.set(scores, experts + experts / 2, NAN);
      t.check(y, 0, [&](const Base& b) { return gpu::Gate{k, b.table<float>(choice), b(scores), b(y)}; });
    }
}

// A row in packs (its fp8 columns and scales are a multiple of eight bytes) or not; last blocks of fewer columns.
TEST_CASE("quantize") {
  for (const DType type : types)
    for (const std::int64_t cols : {128, 256, 384, 1024, 200, 100, 13}) {
      CAPTURE(cols);
      Twins t;
      const auto x = t.tensor(type, 5, cols);
      for (std::int64_t i = 0; i < cols; ++i) t.set(x, i, 0);
      const auto y = t.result(DType::fp8, 5, cols + (cols + 127) / 128 * 4);
      t.check(y, 0, [&](const Base& b) { return gpu::Quantize{b(x), b(y)}; });
    }
}

TEST_CASE("weights are the host's numbers") {
  for (const DType type : types)
    for (const std::int64_t cols : {1, 40, 1000}) {
      Twins t;
      const auto y = t.result(type, 6, cols);
      const auto experts = t.table(std::vector<std::int64_t>{4, 1});
      std::vector<std::int64_t> order;
      for (std::int64_t c = 0; c < cols; ++c) order.push_back(2 * cols - c);
      const auto columns = t.table(order);
      const LogicalMatrix any(7, "up", 0, 20);
      for (const bool placed : {false, true})
        t.check(y, 0, [&](const Base& b) {
          return gpu::Fill{LogicalMatrix::name_key(7, "up"),
                           any.scale(),
                           any.offset(),
                           placed ? b.table<std::int64_t>(experts) : nullptr,
                           3,
                           2,
                           b.table<std::int64_t>(columns),
                           b(y)};
        });
    }
}

namespace {

using Kind = AttentionShape::Kind;
struct Attention {
  const char* name;
  AttentionShape shape;
};
AttentionShape shape(Kind kind, std::int64_t q_len, std::int64_t kv_len, std::int64_t heads, std::int64_t kv_heads,
                     std::int64_t qk_dim, std::int64_t v_dim) {
  AttentionShape f;
  f.kind = kind;
  f.sequences = 2;
  f.q_len = q_len;
  f.kv_len = kv_len;
  f.heads = heads;
  f.kv_heads = kv_heads;
  f.qk_dim = qk_dim;
  f.v_dim = v_dim;
  return f;
}
template <class Change>
AttentionShape with(AttentionShape f, const Change& change) {
  change(f);
  return f;
}
// Tiles of keys have 128; latents 10 columns and 2 rotary ones.
const std::vector<Attention>& attentions() {
  static const std::vector<Attention> all{
      {"self, prefill", shape(Kind::self, 5, 5, 4, 2, 6, 6)},
      {"self, two tiles", shape(Kind::self, 140, 140, 1, 1, 6, 4)},
      {"decode, three tiles of a cache", with(shape(Kind::self, 1, 300, 4, 2, 64, 64), [](auto& f) { f.kept = 300; })},
      {"some new tokens", with(shape(Kind::self, 3, 200, 4, 1, 13, 7), [](auto& f) { f.kept = 200; })},
      {"window of a ring", with(shape(Kind::self, 3, 200, 2, 2, 6, 6), [](auto& f) { f.window = f.kept = 135; })},
      {"window in a prefill", with(shape(Kind::self, 20, 20, 2, 1, 6, 6), [](auto& f) { f.window = 7; })},
      {"output gate", with(shape(Kind::self, 6, 6, 4, 2, 8, 8), [](auto& f) { f.gated = true; })},
      {"encoder", with(shape(Kind::self, 20, 20, 2, 2, 6, 6), [](auto& f) { f.causal = false; })},
      {"wide heads", shape(Kind::self, 3, 3, 2, 1, 192, 160)},
      {"cross", with(shape(Kind::cross, 3, 150, 2, 2, 6, 6), [](auto& f) { f.causal = false, f.kept = 150; })},
      {"latent, expanded",
       with(shape(Kind::latent_expanded, 20, 20, 3, 3, 8, 5), [](auto& f) { f.rope = 2, f.kept = 20; })},
      {"latent, absorbed",
       with(shape(Kind::latent_absorbed, 2, 150, 3, 1, 12, 10), [](auto& f) { f.rope = 2, f.kept = 150; })},
  };
  return all;
}
std::int64_t x_cols(const AttentionShape& f) {
  return f.kind == Kind::self ? f.value_col() + f.kv_heads * f.v_dim : f.key_col();
}
std::int64_t cache_cols(const AttentionShape& f) {
  switch (f.kind) {
    case Kind::self:
    case Kind::cross:
      return f.kv_heads * (f.qk_dim + f.v_dim);
    case Kind::latent_expanded:
    case Kind::latent_absorbed:
      break;
  }
  return 12;
}

}  // namespace

TEST_CASE("attention: all kinds, over several tiles of keys, windows, an output gate") {
  for (const DType type : types)
    for (const auto& [name, f] : attentions()) {
      CAPTURE(name);
      Twins t;
      const std::int64_t rows = f.sequences * f.q_len;
      const auto x = t.tensor(type, rows, x_cols(f));
      const auto expanded = t.tensor(type, rows, f.heads * (f.qk_dim - f.rope + f.v_dim));
      const auto cache = t.tensor(type, f.sequences * f.kept, cache_cols(f));
      const auto o = t.result(type, rows, f.heads * f.v_dim);
      t.check(o, type == DType::f32 ? 1e-5 : 2 * ulp(type), [&](const Base& b) {
        return gpu::Attend{f, b(x), f.kind == Kind::latent_expanded ? b(expanded) : Tensor{},
                           f.kept > 0 ? b(cache) : Tensor{}, b(o)};
      });
    }
}

TEST_CASE("rotary positions and caches") {
  for (const DType type : types)
    for (const auto& [name, f] : attentions()) {
      CAPTURE(name);
      Twins t;
      const std::int64_t rows = f.sequences * f.q_len;
      const bool latent = f.kind == Kind::latent_expanded || f.kind == Kind::latent_absorbed;
      const auto turns = t.tensor(DType::f32, f.q_len, latent ? f.rope : f.qk_dim / 2 * 2);
      const auto cache = t.tensor(type, f.sequences * f.kept, cache_cols(f));
      if (f.kind == Kind::self) {
        const auto x = t.tensor(type, rows, x_cols(f));
        const auto y = t.result(type, rows, x_cols(f));
        t.check(y, 0, [&](const Base& b) { return gpu::Rotate{f, b.table<float>(turns), b(x), b(y)}; });
        if (f.kept > 0) t.check(cache, 0, [&](const Base& b) { return gpu::StoreKeys{f, b(x), b(cache)}; });
      }
      if (!latent) continue;
      const bool absorbs = f.kind == Kind::latent_absorbed;
      const auto q = t.tensor(type, rows, f.heads * (absorbs ? 6 + f.rope : f.qk_dim));
      const auto absorbed = t.tensor(type, rows, f.heads * 10);
      const auto compressed = t.tensor(type, rows, 12);
      const auto y = t.result(type, rows, f.heads * f.qk_dim);
      t.check({y, cache}, 0, [&](const Base& b) {
        return gpu::RotateLatent{
            f, b.table<float>(turns), absorbs ? b(absorbed) : Tensor{}, b(q), b(compressed), b(y), b(cache)};
      });
    }
}

TEST_CASE("nothing is launched for no rows") {
  Twins t;
  const auto x = t.tensor(DType::bf16, 3, 40);
  const auto none = t.result(DType::bf16, 0, 40);
  const auto table = t.table(std::vector<std::int64_t>{0, 0});
  const std::vector<std::function<gpu::Command(const Base&)>> empty{
      [&](const Base& b) { return gpu::MoveRows{b.table<std::int64_t>(table), nullptr, nullptr, 0, 0, b(x), b(none)}; },
      [&](const Base& b) { return gpu::Embed{b.table<std::int64_t>(table), b(x), b(none)}; },
      [&](const Base& b) { return backend::LastCall{3, b(none), b(none)}; },
      [&](const Base& b) { return gpu::Normalize{b(none), {}, {}, {}, b(none)}; },
      [&](const Base& b) { return gpu::Sum{{{b(x).data, DType::bf16}}, 0, DType::bf16, b(none).data}; },
      [&](const Base& b) { return backend::ActivateCall{Activation::relu, false, b(none), b(none)}; },
      [&](const Base& b) { return backend::CastCall{b(none), b(none)}; },
      [&](const Base& b) { return gpu::Quantize{b(none), b(none)}; },
      [&](const Base& b) { return gpu::Gate{2, nullptr, b(none), b(none)}; },
      [&](const Base& b) { return gpu::Attend{shape(Kind::self, 1, 1, 2, 2, 6, 6), b(none), {}, {}, b(none)}; },
      [&](const Base&) { return gpu::Nothing{}; },
  };
  for (const auto& make : empty) t.check(none, 0, make);
}

// Sums of k terms: their order is cuBLAS's. Odd numbers of columns are no multiple of any alignment.
TEST_CASE("products: cuBLASLt and grouped, batched and transposed") {
  for (const DType type : types) {
    const Math math = natural_math(type);
    const double near = type == DType::f32 ? 1e-5 : 2 * ulp(type);
    Twins t;
    const auto x = t.tensor(type, 33, 2 * 64);
    const auto w = t.tensor(type, 2 * 64, 40);
    const auto y = t.result(type, 33, 2 * 40);
    t.check(y, near, [&](const Base& b) { return gpu::Product{33, 40, 64, 2, math, false, b(x), b(w), b(y)}; });
    const auto table = t.tensor(type, 72, 128);
    const auto logits = t.result(type, 33, 72);
    t.check(logits, near,
            [&](const Base& b) { return gpu::Product{33, 72, 128, 1, math, true, b(x), b(table), b(logits)}; });
    const auto odd_x = t.tensor(type, 7, 29);
    const auto odd_w = t.tensor(type, 29, 13);
    const auto odd_y = t.result(type, 7, 13);
    t.check(odd_y, near,
            [&](const Base& b) { return gpu::Product{7, 13, 29, 1, math, false, b(odd_x), b(odd_w), b(odd_y)}; });
    for (const std::int64_t n : {40, 13}) {
      const std::vector<std::int64_t> rows{3, 1, 20, 9};
      const auto weights = t.tensor(type, 4 * 64, n);
      const auto from = t.tensor(type, 33, 64);
      const auto to = t.result(type, 33, n);
      t.check(to, near, [&](const Base& b) {
        gpu::GroupedProduct c{n, 64, math, type, type, type, {}, nullptr};
        std::int64_t first = 0;
        for (std::size_t g = 0; g < rows.size(); ++g) {
          c.groups.push_back(
              {rows[g], b(from).at(first), b(weights).at(static_cast<std::int64_t>(g) * 64), b(to).at(first)});
          first += rows[g];
        }
        return c;
      });
    }
  }
}

TEST_CASE("virtual ranks: every strategy gives what the host gives") {
  std::mt19937 random(5);
  int ran = 0;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Variant& v : variants()) {
      MoeBlock block;
      block.experts = 8;
      block.top_k = 2;
      block.expert = {48, true, false, Activation::silu};
      const Case c = moe_only(64, block, 4, 37, 1, dtype);
      const TableRouting routing = random_routing(1, 37, 8, 2, 1, 1, random);
      const auto plan = plan_of(c, routing, v.strategy, v.options);
      if (!plan) continue;
      CAPTURE(v.name);
      ++ran;
      const Inputs inputs{routing, 3};
      const Programs host = compute(*plan, inputs);
      const auto device = driver().open(0);
      gpu::VirtualRanks ranks(*plan, inputs, *device);
      ranks.run(60);
      for (int r = 0; r < plan->ranks; ++r)
        for (const BufferId b : plan->ops.back().writes) {
          const std::vector<float> expected = values(*host[static_cast<std::size_t>(r)], b);
          const std::vector<float> got = gpu::values(ranks.program(Rank(r)), b);
          REQUIRE(expected.size() == got.size());
          float largest = 0;
          float worst = 0;
          for (std::size_t i = 0; i < got.size(); ++i) {
            largest = std::max(largest, std::abs(expected[i]));
            worst = std::isnan(got[i]) ? INFINITY : std::max(worst, std::abs(expected[i] - got[i]));
          }
          CHECK(worst <= (dtype == DType::f32 ? 1e-4F : 4 * 0x1p-8F) * largest);
        }
    }
  CHECK(ran > 20);
}
