// What Hecate's overlap degree promises: gathers of up to t experts cost nothing, more cost what they exceed it by.
#include <doctest/doctest.h>

#include <algorithm>

#include "models/cost/kernel_model.hpp"
#include "sim/engine.hpp"
#include "strategies/hecate.hpp"
#include "strategies/load_history.hpp"
#include "tests/common/cases.hpp"

using namespace moesim;
using namespace moesim::testing;

namespace {

constexpr std::int64_t tokens_each = 2048;  // one sequence on each of two GPUs
constexpr int layers = 3;
constexpr double expert_seconds = 2.0 * 256 * 1024 * 4 / 10e9;  // two float32 matrices through a card of 10 GB/s

Model long_attention() {
  Model m = small_model(16, 1, layers);
  m.hidden = 256;
  for (TransformerLayer& l : m.layers) {
    l.attention->heads = l.attention->kv_heads = 256;
    l.moe->expert = {1024, false, false, Activation::relu};
  }
  return m;
}

struct Sweep {
  std::int64_t degree = 0;      // that the strategy finds by itself
  double expert = 0;            // seconds to send one
  std::vector<double> exposed;  // by t: seconds that experts of a layer wait for copies, most of all layers and ranks
};

Sweep sweep(std::int64_t most) {
  const Model model = long_attention();
  const Cluster cluster = round_cluster(2, 1);
  Workload work = prefill(2, tokens_each);
  work.phase = Workload::Phase::train;
  // Past tokens used the first GPU's experts, falling; today every GPU's tokens use its own. So what is gathered all
  // leaves the first GPU, and no token leaves any.
  const FunctionRouting yesterday(layers, 16, 1, 2 * tokens_each, [](int, std::int64_t t, std::span<ExpertIndex> out) {
    std::int64_t i = t % 36;  // 8 of 36 to expert 0, 7 to expert 1, ...
    std::int64_t e = 0;
    while (i >= 8 - e) i -= 8 - e++;
    out[0] = static_cast<ExpertIndex>(e);
  });
  const FunctionRouting today(layers, 16, 1, 2 * tokens_each, [](int, std::int64_t t, std::span<ExpertIndex> out) {
    out[0] = static_cast<ExpertIndex>((t < tokens_each ? 0 : 8) + t % 8);
  });
  const auto kernels = cost::make_roofline(cluster.gpu);
  const strategies::Strategy* s = strategies::find("hecate_materialization");
  Sweep out;
  for (std::int64_t t = 0; t <= most; ++t) {
    const strategies::Options options(s->options, {{"overlap_degree", t}, {"calibrate", false}});
    strategies::LoadHistory past;
    past.record(yesterday);
    const strategies::Input in{model, cluster, work, today, options, "x", nullptr, nullptr, &past, kernels.get()};
    out.degree = static_cast<std::int64_t>(to_seconds(strategies::attention_time(in)) / expert_seconds);
    const Plan plan = s->plan(in);
    const Timeline timeline = sim::simulate(plan, cluster, *kernels, {});
    std::vector<Picoseconds> end(plan.ops.size() * 2);
    for (const Span& span : timeline.spans) end[span.op.index() * 2 + span.rank.index()] = span.end;
    double most_exposed = 0;
    for (int l = 0; l < layers; ++l)
      for (std::size_t r = 0; r < 2; ++r) {
        const auto ended = [&](const std::string& name) {
          for (std::size_t i = 0; i < plan.ops.size(); ++i)
            if (plan.ops[i].name == "l" + std::to_string(l) + ".moe." + name) return to_seconds(end[i * 2 + r]);
          return 0.0;
        };
        most_exposed = std::max(most_exposed, std::max(0.0, ended("gather.up") - ended("group")) +
                                                  std::max(0.0, ended("gather.down") - ended("activation")));
      }
    out.exposed.push_back(most_exposed);
  }
  return out;
}

}  // namespace

TEST_CASE("copies cost nothing up to the overlap degree, and then what they exceed it by") {
  const Sweep s = sweep(8);
  // T B / bytes: 2048^2 / 2 pairs of 256 heads of 16 + 16 columns, 2 flops each at 100 TFLOPS, are 0.34 ms; projections
  // of 256 x 16384 weights 0.17 ms; rotating rows of 3 x 4096 columns at 1 TB/s 0.20 ms. 0.72 ms send three experts of
  // 0.21 ms.
  CHECK(s.degree == 3);
  REQUIRE(s.exposed.size() == 9);
  for (std::int64_t t = 0; t <= s.degree; ++t) CHECK(s.exposed[static_cast<std::size_t>(t)] == 0);
  for (std::int64_t t = s.degree + 1; t <= 8; ++t) CHECK(s.exposed[static_cast<std::size_t>(t)] > 0);
  CHECK(s.exposed[4] < expert_seconds);
  for (std::size_t t = 5; t <= 8; ++t)
    CHECK(s.exposed[t] - s.exposed[t - 1] == doctest::Approx(expert_seconds).epsilon(0.02));
}
