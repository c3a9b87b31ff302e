// Every strategy computes the same MoE layer: the dense one of reference.cpp.
#include <doctest/doctest.h>

#include <map>

#include "tests/backend/reference.hpp"

using namespace moesim;
using namespace moesim::test;

namespace {

// What the layer adds to the residual: the second operand of the final add_norm.
BufferId layer_output(const Plan& plan) {
  for (const Op& op : plan.ops)
    if (op.name == "final_norm") return op.reads.at(1);
  throw std::logic_error("no final_norm");
}

struct Draw {
  Case test_case;
  TableRouting routing;
  std::string text;
};

Draw draw(std::mt19937& random, DType dtype) {
  const auto pick = [&](std::initializer_list<int> from) {
    return *(from.begin() + std::uniform_int_distribution<int>(0, static_cast<int>(from.size()) - 1)(random));
  };
  const int ranks = pick({1, 2, 3, 4, 6, 8});
  MoeBlock block;
  block.experts = pick({1, 2, 4, 5, 8, 12});
  block.top_k = std::min<std::int64_t>(block.experts, pick({1, 1, 2, 3, 6}));
  block.expert = {pick({24, 48}), pick({0, 1}) == 1, false, static_cast<Activation>(pick({0, 1, 2}))};
  if (pick({0, 0, 1}) == 1) block.shared = {pick({24, 72}), true, false, Activation::silu};
  const int sequences = pick({1, 2, 5, 16, 23});  // fewer than ranks, too
  const int length = pick({1, 3, 7});
  const double skew = pick({0, 1, 3});
  const int empty = pick({0, 1, 3});
  Case c = moe_only(pick({8, 20, 48}), block, ranks, sequences, length, dtype);
  TableRouting routing = random_routing(1, std::int64_t{sequences} * length, static_cast<int>(block.experts),
                                        static_cast<int>(block.top_k), skew, empty, random);
  std::string text = std::to_string(ranks) + " ranks, " + std::to_string(block.experts) + " experts, top " +
                     std::to_string(block.top_k) + ", " + std::to_string(sequences) + " x " + std::to_string(length) +
                     " tokens, h " + std::to_string(c.model.hidden) + ", skew " + std::to_string(skew);
  return {std::move(c), std::move(routing), std::move(text)};
}

void check_all(DType dtype, int draws, double worst, double rms) {
  std::mt19937 random(dtype == DType::f32 ? 11 : 12);
  std::map<std::string, int> ran;
  int drops = 0;
  for (int i = 0; i < draws; ++i) {
    const Draw d = draw(random, dtype);
    CAPTURE(d.text);
    const backend::Inputs inputs{d.routing, static_cast<std::uint64_t>(i)};
    for (const Variant& v : variants()) {
      const auto plan = plan_of(d.test_case, d.routing, v.strategy, v.options);
      if (!plan) continue;
      CAPTURE(v.name);
      ++ran[v.name];
      const backend::Programs programs =
          backend::compute(*plan, inputs, i % 2 == 0 ? backend::Run::one_at_a_time : backend::Run::threads);
      const std::vector<double> x = global_rows(*plan, programs, backend::buffer_named(*plan, "l0.moe_norm"));
      const std::vector<bool> drop = dropped(*plan, d.routing, 0);
      const LayerValues expected =
          dense_moe(d.test_case.model, *d.test_case.model.layers[0].moe, inputs, 0, "l0.moe", x, drop);
      const Error error = error_of(expected, global_rows(*plan, programs, layer_output(*plan)));
      CHECK(error.worst <= worst);
      CHECK(error.rms <= rms);
      CHECK(plan->dropped_copies == std::count(drop.begin(), drop.end(), true));
      drops += plan->dropped_copies > 0 ? 1 : 0;
      // Ranks that replicate an owner's tokens end with the same numbers.
      for (const auto& p : programs) {
        const auto owner = static_cast<std::size_t>(plan->owner_of_rank[p->rank().index()]);
        const auto first = std::find(plan->owner_of_rank.begin(), plan->owner_of_rank.end(), static_cast<int>(owner));
        CHECK(backend::values(*p, layer_output(*plan)) ==
              backend::values(*programs[static_cast<std::size_t>(first - plan->owner_of_rank.begin())],
                              layer_output(*plan)));
      }
    }
  }
  for (const Variant& v : variants())
    CHECK_MESSAGE(ran[v.name] >= draws / 10, v.name << " ran " << ran[v.name] << " times");
  CHECK(drops > draws / 4);
}

}  // namespace

TEST_CASE("float32: every strategy is the dense layer to 1e-5") { check_all(DType::f32, 60, 1e-5, 1e-5); }

// Six roundings of relative size up to 2^-8 on the way (up, activation, down, combine, partial sums, their sum), each
// of root mean square 2^-8 / sqrt(3): 1.4 x 2^-8 in all. A single element of a row may be off by several times that.
TEST_CASE("bfloat16: every strategy is the dense layer within its rounding") {
  check_all(DType::bf16, 40, 8 * 0x1p-8, 2 * 0x1p-8);
}

TEST_CASE("float16 likewise") { check_all(DType::f16, 20, 8 * 0x1p-11, 2 * 0x1p-11); }

TEST_CASE("the oracle notices a gate that is forgotten and a token that is lost") {
  std::mt19937 random(3);
  MoeBlock block;
  block.experts = 4;
  block.top_k = 1;
  block.expert = {16, true, false, Activation::silu};
  const Case c = moe_only(16, block, 2, 6, 1, DType::f32);
  const TableRouting routing = random_routing(1, 6, 4, 1, 0, 0, random);
  const backend::Inputs inputs{routing, 5};
  const auto plan = plan_of(c, routing, "expert_parallel", {});
  REQUIRE(plan);
  const backend::Programs programs = backend::compute(*plan, inputs);
  const std::vector<double> x = global_rows(*plan, programs, backend::buffer_named(*plan, "l0.moe_norm"));
  const LayerValues expected = dense_moe(c.model, block, inputs, 0, "l0.moe", x, std::vector<bool>(6));
  std::vector<double> got = global_rows(*plan, programs, layer_output(*plan));
  CHECK(error_of(expected, got).worst < 1e-5);
  std::vector<double> ungated = got;
  for (double& v : ungated) v *= 1.5;
  CHECK(error_of(expected, ungated).worst > 0.1);
  std::fill(got.begin(), got.begin() + 16, 0.0);
  CHECK(error_of(expected, got).worst > 0.1);
  const backend::Inputs other{routing, 6};
  CHECK(error_of(dense_moe(c.model, block, other, 0, "l0.moe", x, std::vector<bool>(6)),
                 global_rows(*plan, programs, layer_output(*plan)))
            .worst > 0.1);
}
