// A training step's kernels and steps, as gpu_test.cpp has those of a forward pass.
#include <set>

#include "backend/bind.hpp"
#include "backend/cuda/virtual_ranks.hpp"
#include "backend/host/numerics.hpp"
#include "strategies/gathered_experts.hpp"
#include "tests/backend/cuda/twins.hpp"
#include "tests/backend/small_models.hpp"
#include "tests/backend/training_cases.hpp"

using namespace moesim;
using namespace moesim::test;
using namespace moesim::backend;
namespace gpu = moesim::backend::gpu;
using Base = Twins::Base;

TEST_CASE("gradients of rows: norm, activation") {
  for (const DType t : types)
    for (const std::int64_t cols : {1, 13, 40, 2304}) {
      Twins twins;
      const auto x = twins.tensor(t, 7, cols);
      const auto dy = twins.tensor(t, 7, cols);
      const auto w = twins.tensor(t, 1, cols);
      const auto dr = twins.tensor(t, 7, cols);
      const auto dx = twins.result(t, 7, cols);
      const auto parts = twins.result(DType::f32, 3, cols);
      for (const bool residual : {false, true})
        twins.check({dx, parts}, 16 * ulp(t), [&](const Base& b) {
          return gpu::NormGradient{b(dy), b(x), b(w), residual ? b(dr) : Tensor{}, b(dx), b(parts)};
        });
      const auto wide = twins.tensor(t, 7, 2 * cols);
      const auto dwide = twins.result(t, 7, 2 * cols);
      for (const Activation a : {Activation::relu, Activation::gelu, Activation::silu}) {
        twins.check(dx, 4 * ulp(t),
                    [&](const Base& b) { return ActivationGradientCall{a, false, b(dy), b(x), b(dx)}; });
        twins.check(dwide, 4 * ulp(t),
                    [&](const Base& b) { return ActivationGradientCall{a, true, b(dy), b(wide), b(dwide)}; });
      }
    }
}

TEST_CASE("the loss, the gate and its gradient") {
  for (const DType t : types)
    for (const std::int64_t cols : {3, 37, 300}) {
      Twins twins;
      const auto scores = twins.tensor(t, 11, cols);
      std::vector<std::int64_t> ids;
      for (int i = 0; i < 11; ++i) ids.push_back(i * 5 % cols);
      const auto targets = twins.table(ids);
      const auto loss = twins.result(DType::f32, 11, 1);
      twins.check(loss, 1e-5, [&](const Base& b) {
        return gpu::CrossEntropy{b.table<std::int64_t>(targets), 0, b(scores), b(loss)};
      });
      const auto d = twins.result(t, 11, cols);
      twins.check(d, 4 * ulp(t), [&](const Base& b) {
        return gpu::CrossEntropy{b.table<std::int64_t>(targets), 40, b(scores), b(d)};
      });
      std::vector<std::int32_t> chosen;
      for (int i = 0; i < 33; ++i) chosen.push_back(static_cast<std::int32_t>(i * 7 % cols));
      const auto experts = twins.table(chosen);
      const auto choice = twins.result(DType::f32, 11, 6);
      twins.check(choice, {0, 2e-6}, [&](const Base& b) {
        return gpu::GateWeights{3, b.table<std::int32_t>(experts), b(scores), b(choice)};
      });
      const auto dchoice = twins.tensor(DType::f32, 11, 6);
      twins.check(d, 8 * ulp(t), [&](const Base& b) {
        return gpu::GateGradient{3, b.table<std::int32_t>(experts), b(dchoice), b(scores), b(d)};
      });
    }
}

TEST_CASE("the combine by gates and its gradient") {
  for (const DType t : types)
    for (const std::int64_t cols : {1, 24, 37, 1024}) {
      Twins twins;
      const auto copies = twins.tensor(t, 5, cols);
      const auto choice = twins.tensor(DType::f32, 3, 4);
      const auto y = twins.result(t, 3, cols);
      const auto begin = twins.table(std::vector<std::int64_t>{0, 2, 2, 3});
      const auto from = twins.table(std::vector<std::int32_t>{4, 1, 2});
      const auto gate = twins.table(std::vector<std::int32_t>{2, 3, 10});
      twins.check(y, 0, [&](const Base& b) {
        return gpu::MoveRows{
            b.table<std::int64_t>(begin), b.table<std::int32_t>(from), b.table<float>(choice), 0, 3, b(copies), b(y),
            b.table<std::int32_t>(gate)};
      });
      const auto dy = twins.tensor(t, 3, cols);
      const auto back = twins.table(std::vector<std::int64_t>{0, 0, 1, 2, 2, 3});  // rows 0 and 3 are padding
      const auto tokens = twins.table(std::vector<std::int32_t>{0, 2, 0});
      const auto gates = twins.table(std::vector<std::int32_t>{3, 10, 2});
      const auto dcopies = twins.result(t, 5, cols);
      const auto dchoice = twins.tensor(DType::f32, 3, 4);  // other elements stay
      twins.check({dcopies, dchoice}, 1e-4, [&](const Base& b) {
        return gpu::CombineGradient{b.table<std::int64_t>(back),
                                    b.table<std::int32_t>(tokens),
                                    b.table<std::int32_t>(gates),
                                    b(dy),
                                    b(choice),
                                    b(copies),
                                    b(dcopies),
                                    b(dchoice)};
      });
    }
}

TEST_CASE("gradient of attention") {
  for (const DType t : types)
    for (const std::int64_t length : {1, 5, 132})
      for (const bool gated : {false, true})
        for (const std::int64_t window : {0, 3, 130}) {
          AttentionShape f;
          f.sequences = length > 128 ? 1 : 2;  // more than a tile takes its time without a GPU
          f.q_len = f.kv_len = length;
          f.heads = 2;
          f.kv_heads = gated ? 1 : 2;
          f.qk_dim = 6;
          f.v_dim = gated ? 6 : 9;
          f.causal = window != 3 || length > 1;
          f.gated = gated;
          f.window = f.causal ? window : 0;
          if (length < 5 && window > 0) continue;
          Twins twins;
          const std::int64_t rows = f.sequences * length;
          const auto x = twins.tensor(t, rows, f.value_col() + f.kv_heads * f.v_dim);
          const auto d_o = twins.tensor(t, rows, f.heads * f.v_dim);
          const auto dx = twins.result(t, rows, x.cols);
          const auto room = twins.result(DType::f32, rows * f.heads, 3);
          twins.check({dx, room}, t == DType::f32 ? 2e-5 : 2 * ulp(t), [&](const Base& b) {
            return gpu::AttendGradient{f, b(d_o), b(x), b(dx), reinterpret_cast<float*>(b(room).data)};
          });
        }
}

TEST_CASE("Adam, and the state before it") {
  for (const DType t : types)
    for (const std::int64_t cols : {1, 13, 24, 1024}) {
      Twins twins;
      const auto gradient = twins.tensor(t, 5, cols);
      const auto weight = twins.tensor(t, 5, cols);
      const auto state = twins.result(DType::f32, 5, (t == DType::f32 ? 2 : 3) * cols);
      twins.check(state, 0, [&](const Base& b) { return gpu::StartState{b(weight), b(state)}; });
      // The second moment is a square.
      const auto full = twins.tensor(DType::f32, 5, state.cols);
      for (std::int64_t i = 0; i < full.rows * full.cols; ++i)
        twins.set(full, i, 0.01F * static_cast<float>(1 + i % 7));
      twins.check({weight, full}, 4 * ulp(t),
                  [&](const Base& b) { return gpu::AdamStep{1.5F, 30, b(gradient), b(weight), b(full)}; });
    }
}

TEST_CASE("products of gradients: X transposed, added to, grouped") {
  for (const DType t : types) {
    Twins twins;
    const Math math = natural_math(t);
    const double near = t == DType::f32 ? 1e-5 : 2 * ulp(t);
    const auto x = twins.tensor(t, 40, 64);
    const auto dy = twins.tensor(t, 40, 24);
    const auto dw = twins.result(t, 64, 24);
    twins.check(dw, near,
                [&](const Base& b) { return gpu::Product{64, 24, 40, 1, math, false, b(x), b(dy), b(dw), true}; });
    const auto sum = twins.tensor(DType::f32, 64, 24);
    twins.check(sum, 1e-4, [&](const Base& b) {
      return gpu::Product{64, 24, 40, 1, math, false, b(x), b(dy), b(sum), true, true};
    });
    const auto w = twins.tensor(t, 2 * 64, 24);
    const auto dx = twins.result(t, 40, 64);
    twins.check(dx, near, [&](const Base& b) {
      return gpu::GroupedProduct{64,
                                 24,
                                 math,
                                 t,
                                 t,
                                 t,
                                 {{8, b(dy).data, b(w).data, b(dx).data}, {32, b(dy).at(8), b(w).at(64), b(dx).at(8)}},
                                 nullptr,
                                 true};
    });
    const auto stack = twins.result(t, 2 * 64, 24);
    twins.check(stack, near, [&](const Base& b) {
      return gpu::GroupedProduct{
          24,
          64,
          math,
          t,
          t,
          t,
          {{8, b(x).data, b(dy).data, b(stack).data}, {32, b(x).at(8), b(dy).at(8), b(stack).at(64)}},
          nullptr,
          false,
          true};
    });
  }
}

TEST_CASE("virtual ranks: a training step with replicas and moving experts leaves the host's weights") {
  std::mt19937 random(17);
  for (int trial = 0; trial < 4; ++trial) {
    CAPTURE(trial);
    const int ranks = 3;
    const DType t = trial % 2 == 0 ? DType::f32 : DType::bf16;
    // Columns of 16 bytes, as cuBLAS wants them.
    const Model model = tiny(t, 2, 6, 2, trial < 2, false, 16);
    const Workload work = train(6, 4, t, trial == 3);
    const TableRouting routing = random_routing(2, 24, 6, 2, 1.5, trial % 2, random);
    std::vector<strategies::LayerPlacement> layers(2);
    for (strategies::LayerPlacement& p : layers) {
      p.owners = random_owners(6, ranks, random);
      if (trial == 1) p.owners = with_copies(p.owners, 6, random);
      p.before = with_copies(p.owners, 6, random);
      if (trial == 2) p.moved_from = random_owners(6, ranks, random);
    }
    const strategies::Options none({}, {});
    const Cluster cluster = moesim::testing::round_cluster(1, ranks);
    const Plan plan =
        strategies::plan_gathered({model, cluster, work, routing, none, "random"}, layers, {trial % 2 == 0, false});
    const Inputs inputs{routing, 5};
    const Programs host = compute(plan, inputs);
    const auto device = driver().open(0);
    gpu::VirtualRanks gpus(plan, inputs, *device);
    for (int run = 0; run < 2; ++run) {
      gpus.run(60);
      for (const auto& [weight, state] : updated(plan))
        for (int r = 0; r < ranks; ++r) {
          // The first moment is a tenth of the gradient; Adam's first step goes by its sign.
          const std::vector<float> expected = values(*host[static_cast<std::size_t>(r)], state);
          const std::vector<float> got = gpu::values(gpus.program(Rank(r)), state);
          REQUIRE(expected.size() == got.size());
          const auto cols = static_cast<std::size_t>(plan.buffer(state).cols);
          const auto parts = plan.buffer(weight).dtype == DType::f32 ? 2U : 3U;
          float largest = 1e-9F;
          float worst = 0;
          for (std::size_t i = 0; i < got.size(); ++i) {
            if (i % cols / (cols / parts) != parts - 2) continue;
            largest = std::max(largest, std::abs(expected[i]));
            worst = std::isnan(got[i]) ? INFINITY : std::max(worst, std::abs(expected[i] - got[i]));
          }
          CHECK(worst <= (t == DType::f32 ? 1e-4F : 16 * 0x1p-8F) * largest);
        }
    }
  }
}
