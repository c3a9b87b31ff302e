// Training steps with real numbers: gradients against finite differences of a model written as its definition, every
// strategy against one rank, and what moves between ranks bit by bit.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>

#include "backend/executor.hpp"
#include "backend/numbers.hpp"
#include "strategies/gathered_experts.hpp"
#include "strategies/load_history.hpp"
#include "strategies/materialization/holders.hpp"
#include "tests/backend/dense_training.hpp"
#include "tests/backend/small_models.hpp"
#include "tests/backend/training_cases.hpp"
#include "tests/common/cases.hpp"

using namespace moesim;
using namespace moesim::test;

namespace {

struct Step {
  Plan plan;
  backend::Programs programs;
};

// By name: parameters of every expert, in order, or of the whole matrix; from the first rank that holds them.
std::map<std::string, std::vector<float>> parameters_of(const Step& step, BufferRole role) {
  std::map<std::string, std::vector<float>> out;
  for (std::size_t i = 0; i < step.plan.buffers.size(); ++i) {
    const Buffer& b = step.plan.buffers[i];
    if (b.role != role) continue;
    if (!b.shard.placement.valid()) {
      out[b.name] = backend::values(*step.programs.front(), BufferId(i));
      continue;
    }
    const ExpertPlacement& p = step.plan.placements[b.shard.placement.index()];
    std::map<int, std::vector<float>> experts;
    for (int r = 0; r < p.ranks(); ++r) {
      const std::vector<float> v = backend::values(*step.programs[static_cast<std::size_t>(r)], BufferId(i));
      const auto size = v.size() / static_cast<std::size_t>(std::max(1, p.slots_on(Rank(r))));
      for (int s = 0; s < p.slots_on(Rank(r)); ++s) {
        const auto at = v.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(s) * size);
        std::vector<float> chunk(at, at + static_cast<std::ptrdiff_t>(size));
        const int e = p.expert_of_slot[static_cast<std::size_t>(p.slot_begin[static_cast<std::size_t>(r)] + s)].value();
        const auto [known, fresh] = experts.emplace(e, chunk);
        // Replicas are equal to the last bit.
        CHECK((fresh || std::memcmp(known->second.data(), chunk.data(), size * sizeof(float)) == 0));
      }
    }
    for (const auto& [e, chunk] : experts) out[b.name].insert(out[b.name].end(), chunk.begin(), chunk.end());
  }
  return out;
}

double mean_loss(const Step& step) {
  double sum = 0;
  for (const auto& program : step.programs)
    for (const float v : backend::values(*program, backend::buffer_named(step.plan, "loss"))) sum += v;
  return sum / static_cast<double>(step.plan.tokens.total());
}

double worst_difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    worst = std::max(worst, std::isfinite(d) ? d : 1e300);
  }
  return worst;
}

double largest(const std::vector<float>& v) {
  double most = 0;
  for (const float x : v) most = std::max(most, std::abs(static_cast<double>(x)));
  return most;
}

// The gradient that Adam read for each weight, by the weight's name.
std::map<std::string, std::vector<float>> gradients_of(const Step& step) {
  std::map<std::string, std::vector<float>> out;
  for (const Op& op : step.plan.ops) {
    const auto* adam = std::get_if<Elementwise>(&op.work);
    if (adam == nullptr || adam->fn != Elementwise::Fn::adam) continue;
    for (std::size_t i = 0; i < op.reads.size(); ++i) {
      const Buffer& weight = step.plan.buffer(op.writes[i]);
      if (!weight.shard.placement.valid()) out[weight.name] = backend::values(*step.programs[0], op.reads[i]);
    }
  }
  return out;
}

Step run_step(Plan plan, const backend::Inputs& inputs, const Step* before = nullptr,
              backend::Run how = backend::Run::one_at_a_time) {
  Step step{std::move(plan), {}};
  std::optional<backend::RanksBefore> from;
  if (before != nullptr) from.emplace(backend::RanksBefore{before->plan, before->programs});
  step.programs = backend::compute(step.plan, inputs, how, from ? &*from : nullptr);
  return step;
}

}  // namespace

TEST_CASE("gradients are the derivatives of the loss") {
  std::mt19937 random(5);
  for (int trial = 0; trial < 4; ++trial) {
    const Model model = tiny(DType::f32, 1 + trial % 2, 4, 1 + trial % 2, trial % 2 == 0, trial >= 2);
    const TableRouting routing = random_routing(model.moe_layers(), 6, 4, static_cast<int>(model.layers[0].moe->top_k),
                                                0.5, trial == 3 ? 1 : 0, random);
    const backend::Inputs inputs{routing, static_cast<std::uint64_t>(trial + 1)};
    const Workload work = train(2, 3);
    const Step step = run_step(
        moesim::testing::make_plan("expert_parallel", {}, model, moesim::testing::round_cluster(1, 2), work, routing),
        inputs);
    DenseModel dense(model, work, inputs);
    CHECK(mean_loss(step) == doctest::Approx(dense.loss()).epsilon(1e-5));
    const auto gradients = gradients_of(step);
    int checked = 0;
    for (auto& [name, values] : dense.weights()) {
      CAPTURE(name);
      const auto found = gradients.find(name);
      std::vector<float> expert_gradient;
      if (found == gradients.end()) expert_gradient = expert_gradients(step.plan, step.programs, name);
      const std::vector<float>& gradient = found != gradients.end() ? found->second : expert_gradient;
      REQUIRE(gradient.size() == values.size());
      const double scale = std::max(1e-3, largest(gradient));
      for (int n = 0; n < 12; ++n) {
        const std::size_t i = random() % values.size();
        const double kept = values[i];
        constexpr double h = 1e-5;
        values[i] = kept + h;
        const double up = dense.loss();
        values[i] = kept - h;
        const double down = dense.loss();
        values[i] = kept;
        CHECK(std::abs((up - down) / (2 * h) - static_cast<double>(gradient[i])) < 2e-4 * scale);
        ++checked;
      }
    }
    CHECK(checked > 80);
  }
}

// Owners with replicas that also lend copies had their gradients added twice.
TEST_CASE("over random placements one step changes parameters as one rank does") {
  std::mt19937 random(17);
  for (int trial = 0; trial < 12; ++trial) {
    const int ranks = static_cast<int>(2 + random() % 4);
    const int experts = ranks * static_cast<int>(1 + random() % 2);
    const Model model = tiny(DType::f32, 2, experts, 1 + random() % 2, trial % 2 == 0, false);
    const Workload work = train(ranks * 2, 3, DType::f32, trial % 3 == 0);
    const TableRouting routing =
        random_routing(2, ranks * 6, experts, static_cast<int>(model.layers[0].moe->top_k), 1.5, trial % 2, random);
    const backend::Inputs inputs{routing, 3};
    const Cluster one = moesim::testing::round_cluster(1, 1);
    const Cluster many = moesim::testing::round_cluster(1, ranks);
    const Step alone = run_step(moesim::testing::make_plan("expert_parallel", {}, model, one, work, routing), inputs);
    std::vector<strategies::LayerPlacement> layers;
    for (int l = 0; l < 2; ++l) {
      strategies::LayerPlacement p;
      p.owners = random_owners(experts, ranks, random);
      if (trial % 4 == 1) p.owners = with_copies(p.owners, experts, random);  // replicas with optimizer states
      p.before = with_copies(p.owners, experts, random);
      if (trial % 2 == 1) p.after = with_copies(p.before, experts, random);
      if (trial % 3 == 2) p.moved_from = random_owners(experts, ranks, random);
      layers.push_back(std::move(p));
    }
    const strategies::Options none({}, {});
    const strategies::Input in{model, many, work, routing, none, "random"};
    const Step sharded = run_step(strategies::plan_gathered(in, layers, {trial % 2 == 0, false}), inputs, nullptr,
                                  trial % 2 == 0 ? backend::Run::threads : backend::Run::one_at_a_time);
    CAPTURE(trial);
    CHECK(mean_loss(sharded) == doctest::Approx(mean_loss(alone)).epsilon(1e-6));
    for (const BufferRole role : {BufferRole::weight, BufferRole::optimizer}) {
      const auto expected = parameters_of(alone, role);
      const auto got = parameters_of(sharded, role);
      REQUIRE(got.size() == expected.size());
      for (const auto& [name, values] : expected) {
        CAPTURE(name);
        // Weights change by the rate, 1e-3, times a ratio of moments; moments by a tenth of the gradient.
        CHECK(worst_difference(got.at(name), values) <
              (role == BufferRole::weight ? 2e-5 : 1e-6 + 1e-5 * largest(values)));
      }
    }
    // Every gathered copy is its owner's chunk, bit by bit.
    for (const Op& op : sharded.plan.ops) {
      const auto* c = std::get_if<Collective>(&op.work);
      if (c == nullptr || c->kind != Collective::Kind::sparse_all_gather || op.writes.size() != 1) continue;
      const Buffer& copies = sharded.plan.buffer(op.writes[0]);
      if (copies.role != BufferRole::gathered) continue;
      const ExpertPlacement& p = sharded.plan.placements[c->to.index()];
      const std::string name = copies.name.substr(0, copies.name.find(".moe.")) + ".moe" +
                               (copies.name.find(".up") != std::string::npos ? ".up" : ".down") + ".weight";
      for (int r = 0; r < ranks; ++r) {
        const std::vector<float> v = backend::values(*sharded.programs[static_cast<std::size_t>(r)], op.writes[0]);
        for (int s = 0; s < p.slots_on(Rank(r)); ++s) {
          const int e =
              p.expert_of_slot[static_cast<std::size_t>(p.slot_begin[static_cast<std::size_t>(r)] + s)].value();
          const backend::LogicalMatrix m(3, name, e, copies.shard.matrix_rows);
          bool equal = true;
          for (std::int64_t i = 0; i < c->cols; ++i)
            equal = equal && v[static_cast<std::size_t>(s * c->cols + i)] == m.at(i / copies.cols, i % copies.cols);
          CHECK(equal);
        }
      }
    }
  }
}

namespace {

// What 20 steps of a strategy lose, loads drifting from step to step.
struct Training {
  std::vector<double> losses;
  int moved = 0;     // steps that moved owners
  int gathered = 0;  // steps that gathered experts, before or after a gate
};

Training train_for(const std::string& strategy, const Given& given, int ranks, bool recompute, int steps,
                   DType dtype = DType::f32) {
  const Model model = tiny(dtype, 2, 8, 2, true, false);
  const Workload work = train(8, 4, dtype, recompute);
  const Cluster cluster = moesim::testing::round_cluster(ranks > 2 ? 2 : 1, ranks > 2 ? ranks / 2 : ranks);
  const strategies::Strategy* s = strategies::find(strategy);
  const strategies::Options options(s->options, given);
  strategies::LoadHistory past;
  std::unique_ptr<Step> before;
  std::unique_ptr<TableRouting> kept;
  Training out;
  for (int i = 0; i < steps; ++i) {
    std::mt19937 random(static_cast<unsigned>(100 + i / 5));  // another popularity every five steps
    const TableRouting routing = random_routing(2, 32, 8, 2, 1.5, 0, random);
    const backend::Inputs inputs{routing, 9, i};
    auto step = std::make_unique<Step>(run_step(
        s->plan({model, cluster, work, routing, options, strategy, nullptr, nullptr, &past}), inputs, before.get()));
    past.record(routing);
    out.losses.push_back(mean_loss(*step));
    const auto any = [&](Collective::Kind kind) {
      return std::ranges::any_of(step->plan.ops, [&](const Op& op) {
        const auto* c = std::get_if<Collective>(&op.work);
        return c != nullptr && c->kind == kind;
      });
    };
    out.moved += any(Collective::Kind::send_recv) ? 1 : 0;
    out.gathered += any(Collective::Kind::sparse_all_gather) ? 1 : 0;
    before = std::move(step);
  }
  return out;
}

}  // namespace

TEST_CASE("twenty steps lose the same under every strategy") {
  const Training alone = train_for("expert_parallel", {}, 1, false, 20);
  CHECK(alone.losses.back() < alone.losses.front() - 0.05);  // it learns
  const std::int64_t one = 1;
  const Given hecate{{"reshard_every", std::int64_t{4}}, {"overlap_degree", std::int64_t{2}}};
  Given again = hecate;
  again["gather_again"] = true;
  struct Run {
    const char* strategy;
    Given options;
    bool moves, gathers;
  };
  const std::vector<Run> runs{
      {"expert_parallel", {}, false, false},
      {"fastermoe", {}, false, true},
      {"smartmoe", {{"exchange_every", std::int64_t{3}}}, true, false},
      {"flexmoe", {{"spare_slots", one}, {"adjust_every", std::int64_t{2}}}, true, false},
      {"fsdp", {}, false, true},
      {"fsdp", {{"gather_again", false}}, false, true},
      {"hecate", hecate, true, true},
      {"hecate", again, true, true},
      {"hecate_sharding", {{"reshard_every", std::int64_t{4}}}, true, false},
      {"hecate_materialization", {{"overlap_degree", std::int64_t{2}}}, false, true},
  };
  for (const Run& r : runs)
    for (const bool recompute : {false, true}) {
      CAPTURE(r.strategy);
      CAPTURE(recompute);
      const Training got = train_for(r.strategy, r.options, 4, recompute, 20);
      REQUIRE(got.losses.size() == alone.losses.size());
      for (std::size_t i = 0; i < got.losses.size(); ++i)
        CHECK(got.losses[i] == doctest::Approx(alone.losses[i]).epsilon(1e-5));
      CHECK((got.moved > 1) == r.moves);
      CHECK((got.gathered > 1) == r.gathers);
    }
}

TEST_CASE("sixteen-bit training keeps a float32 master weight and learns the same") {
  const Training exact = train_for("expert_parallel", {}, 1, false, 20);
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const Training alone = train_for("expert_parallel", {}, 1, false, 20, dtype);
    const Training sharded = train_for(
        "hecate", {{"reshard_every", std::int64_t{4}}, {"overlap_degree", std::int64_t{2}}}, 4, false, 20, dtype);
    for (std::size_t i = 0; i < exact.losses.size(); ++i) {
      CHECK(alone.losses[i] == doctest::Approx(exact.losses[i]).epsilon(dtype == DType::bf16 ? 2e-2 : 3e-3));
      CHECK(sharded.losses[i] == doctest::Approx(alone.losses[i]).epsilon(dtype == DType::bf16 ? 5e-3 : 1e-3));
    }
  }
}

TEST_CASE("a training plan computes the same in threads, one at a time, and run after run") {
  const Model model = tiny(DType::bf16, 2, 8, 2, true, false);
  const Workload work = train(8, 4, DType::bf16);
  std::mt19937 random(3);
  const TableRouting routing = random_routing(2, 32, 8, 2, 1.5, 0, random);
  for (const char* strategy : {"expert_parallel", "hecate", "fsdp", "flexmoe"}) {
    CAPTURE(strategy);
    const Plan plan =
        moesim::testing::make_plan(strategy, {}, model, moesim::testing::round_cluster(1, 4), work, routing);
    std::vector<std::uint64_t> hashes;
    for (const auto mode : {backend::RunOptions::Mode::one_at_a_time, backend::RunOptions::Mode::threads})
      for (const int repeats : {1, 3}) {
        backend::RunOptions options;
        options.mode = mode;
        options.warmup = 0;
        options.repeats = repeats;
        hashes.push_back(backend::host().run(plan, {routing, 5}, options).result_hash);
      }
    CHECK(std::ranges::count(hashes, hashes.front()) == 4);
  }
}

TEST_CASE("a step that starts elsewhere than the step before ended is refused") {
  const Model model = tiny(DType::f32, 1, 8, 1, false, false);
  const Workload work = train(4, 4);
  std::mt19937 random(3);
  const TableRouting routing = random_routing(1, 16, 8, 1, 1.0, 0, random);
  const backend::Inputs inputs{routing, 5};
  const Cluster cluster = moesim::testing::round_cluster(1, 4);
  const strategies::Options none({}, {});
  const strategies::Input in{model, cluster, work, routing, none, "random"};
  strategies::LayerPlacement p{contiguous_placement(8, 4), contiguous_placement(8, 4), {}, {}};
  const Step first = run_step(strategies::plan_gathered(in, {p}, {}), inputs);
  p.owners = p.before = random_owners(8, 4, random);
  CHECK_THROWS_WITH_AS(run_step(strategies::plan_gathered(in, {p}, {}), inputs, &first),
                       doctest::Contains("starts the step with another part of 'l0.moe.up.weight'"), backend::Refused);
  p.moved_from = contiguous_placement(8, 4);
  const Step second = run_step(strategies::plan_gathered(in, {p}, {}), inputs, &first);
  CHECK(std::isfinite(mean_loss(second)));
}
