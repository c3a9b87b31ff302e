// Every strategy's Plan, lowered to commands and carried out, gives what the host executor gives.
#include <doctest/doctest.h>

#include <cmath>

#include "backend/cuda/virtual_ranks.hpp"
#include "backend/host/numerics.hpp"
#include "tests/backend/cuda/processor.hpp"
#include "tests/backend/small_models.hpp"

using namespace moesim;
using namespace moesim::test;

namespace {

struct Draw {
  Case test_case;
  TableRouting routing;
};

Draw draw(std::mt19937& random, DType dtype) {
  const auto pick = [&](std::initializer_list<int> from) {
    return *(from.begin() + std::uniform_int_distribution<int>(0, static_cast<int>(from.size()) - 1)(random));
  };
  MoeBlock block;
  block.experts = pick({1, 4, 5, 8});
  block.top_k = std::min<std::int64_t>(block.experts, pick({1, 2, 3}));
  block.expert = {pick({24, 48}), pick({0, 1}) == 1, false, static_cast<Activation>(pick({0, 1, 2}))};
  if (pick({0, 0, 1}) == 1) block.shared = {24, true, false, Activation::silu};
  const int sequences = pick({1, 2, 5, 16});
  const int length = pick({1, 3});
  Case c = moe_only(pick({8, 20, 48}), block, pick({1, 2, 3, 4, 8}), sequences, length, dtype);
  TableRouting routing = random_routing(1, std::int64_t{sequences} * length, static_cast<int>(block.experts),
                                        static_cast<int>(block.top_k), pick({0, 1, 3}), pick({0, 1, 3}), random);
  return {std::move(c), std::move(routing)};
}

// The largest difference, relative to the largest number of the row.
double difference(const std::vector<float>& expected, const std::vector<float>& got, std::int64_t cols) {
  REQUIRE(expected.size() == got.size());
  double worst = 0;
  for (std::size_t row = 0; row < expected.size(); row += static_cast<std::size_t>(cols)) {
    double largest = 0;
    double apart = 0;
    for (std::size_t c = row; c < row + static_cast<std::size_t>(cols); ++c) {
      largest = std::max(largest, std::abs(static_cast<double>(expected[c])));
      const double d = std::abs(static_cast<double>(expected[c]) - static_cast<double>(got[c]));
      apart = std::isnan(d) ? INFINITY : std::max(apart, d);
    }
    if (apart > 0) worst = std::max(worst, apart / largest);
  }
  return worst;
}

// Buffers that are alive at the end: the logits and what else the last ops wrote.
std::vector<BufferId> results(const Plan& plan, const backend::gpu::Program& program) {
  std::vector<BufferId> out;
  for (std::size_t i = 0; i < plan.buffers.size(); ++i) {
    const backend::gpu::Place& p = program.arena().places[i];
    if (p.begin < 0 || plan.buffers[i].role == BufferRole::weight) continue;
    if (p.last == OpId(plan.ops.size() - 1)) out.emplace_back(i);
  }
  return out;
}

void check_virtual(DType dtype, int draws, double tolerance) {
  std::mt19937 random(dtype == DType::f32 ? 21 : 22);
  std::map<std::string, int> ran;
  for (int i = 0; i < draws; ++i) {
    const Draw d = draw(random, dtype);
    const backend::Inputs inputs{d.routing, static_cast<std::uint64_t>(i)};
    for (const Variant& v : variants()) {
      const auto plan = plan_of(d.test_case, d.routing, v.strategy, v.options);
      if (!plan) continue;
      CAPTURE(v.name);
      ++ran[v.name];
      const backend::Programs host = backend::compute(*plan, inputs);
      Machine machine(1, static_cast<unsigned>(i));
      const auto device = machine.open(0);
      backend::gpu::VirtualRanks ranks(*plan, inputs, *device);
      for (int run = 0; run < 2; ++run) {  // the second finds what the first left in shared addresses
        const auto durations = ranks.run(60);
        for (int r = 0; r < plan->ranks; ++r) {
          const backend::gpu::Program& program = ranks.program(Rank(r));
          const auto buffers = results(*plan, program);
          REQUIRE(!buffers.empty());
          for (const BufferId b : buffers)
            CHECK(difference(backend::values(*host[static_cast<std::size_t>(r)], b), backend::gpu::values(program, b),
                             std::max<std::int64_t>(plan->buffer(b).cols, 1)) <= tolerance);
          for (std::size_t op = 0; op < plan->ops.size(); ++op)
            CHECK((durations[static_cast<std::size_t>(r)][op] >= 0) ==
                  host[static_cast<std::size_t>(r)]->ops()[op].takes_part);
        }
      }
    }
  }
  for (const Variant& v : variants()) CHECK_MESSAGE(ran[v.name] > 0, v.name << " never ran");
}

// A dense layer, then two MoE layers; rotary positions.
Case whole_model(const Attention& attention, Workload::Phase phase, std::int64_t length, std::int64_t context) {
  MoeBlock block;
  block.experts = 8;
  block.top_k = 2;
  block.expert = {24, true, false, Activation::silu};
  Case c = moe_only(16, block, 4, 9, length, DType::f32);
  c.model.layers.insert(c.model.layers.begin(), TransformerLayer{});
  c.model.layers[0].dense = FeedForward{32, true, false, Activation::gelu};
  c.model.layers.push_back(c.model.layers[1]);
  c.model.positions = 0;
  for (TransformerLayer& l : c.model.layers) {
    l.attention = attention;
    l.decoder = phase != Workload::Phase::encode;
  }
  c.workload.phase = phase;
  if (context > 0) c.workload.kv_length = context;
  return c;
}

void check_whole(const Case& c) {
  std::mt19937 random(31);
  const TableRouting routing = random_routing(2, c.workload.sequences * c.workload.new_tokens(), 8, 2, 1, 1, random);
  const backend::Inputs inputs{routing, 77};
  int ran = 0;
  for (const char* strategy : {"expert_parallel", "tensor_parallel", "expert_tensor_parallel"}) {
    const auto plan = plan_of(c, routing, strategy, {});
    if (!plan) continue;
    CAPTURE(strategy);
    ++ran;
    const backend::Programs host = backend::compute(*plan, inputs);
    Machine machine(1);
    const auto device = machine.open(0);
    backend::gpu::VirtualRanks ranks(*plan, inputs, *device);
    ranks.run(60);
    for (int r = 0; r < plan->ranks; ++r) {
      const backend::gpu::Program& program = ranks.program(Rank(r));
      std::vector<BufferId> buffers = results(*plan, program);
      for (std::size_t i = 0; i < plan->buffers.size(); ++i)
        if (plan->buffers[i].role == BufferRole::kv_cache) buffers.emplace_back(i);
      for (const BufferId b : buffers)
        CHECK(difference(backend::values(*host[static_cast<std::size_t>(r)], b), backend::gpu::values(program, b),
                         std::max<std::int64_t>(plan->buffer(b).cols, 1)) <= 5e-5);
    }
  }
  CHECK(ran >= 2);
}

}  // namespace

TEST_CASE("whole models: attention, rotary positions, caches and windows give what the host gives") {
  using Phase = Workload::Phase;
  for (const std::int64_t kv_heads : {1, 4, 8}) {
    check_whole(whole_model(grouped_query(8, kv_heads), Phase::prefill, 5, 0));
    check_whole(whole_model(grouped_query(8, kv_heads), Phase::decode, 5, 7));
    check_whole(whole_model(grouped_query(8, kv_heads), Phase::encode, 5, 0));
  }
  Attention a = grouped_query(8, 2);
  a.window = 3;
  check_whole(whole_model(a, Phase::prefill, 5, 0));
  check_whole(whole_model(a, Phase::decode, 5, 7));
  a.window = 0;
  a.output_gate = true;
  check_whole(whole_model(a, Phase::prefill, 5, 9));  // four tokens of each sequence are cached
  // Three tiles of keys.
  check_whole(whole_model(grouped_query(8, 2), Phase::decode, 5, 300));
  for (const std::int64_t q_rank : {0, 7}) {
    check_whole(whole_model(latent(q_rank), Phase::prefill, 5, 0));
    check_whole(whole_model(latent(q_rank), Phase::decode, 5, 7));
  }
}

TEST_CASE("virtual ranks, float32: every strategy gives what the host gives") { check_virtual(DType::f32, 12, 2e-5); }

// Products are summed in another order, so that a result may round to the next number of 8 bits; a later product adds
// up such differences.
TEST_CASE("virtual ranks, bfloat16 likewise") { check_virtual(DType::bf16, 8, 4 * 0x1p-8); }
