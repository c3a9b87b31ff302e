// A training step's commands: each against the host's kernel, and whole steps against the host's.
#include "backend/host/training.hpp"

#include <doctest/doctest.h>

#include <deque>
#include <functional>
#include <mutex>
#include <set>
#include <thread>

#include "backend/cuda/executor.hpp"
#include "backend/cuda/gpu_ranks.hpp"
#include "backend/cuda/virtual_ranks.hpp"
#include "backend/host/numerics.hpp"
#include "strategies/gathered_experts.hpp"
#include "strategies/load_history.hpp"
#include "tests/backend/cuda/processor.hpp"
#include "tests/backend/cuda/room.hpp"
#include "tests/backend/small_models.hpp"
#include "tests/backend/training_cases.hpp"

using namespace moesim;
using namespace moesim::test;
using namespace moesim::backend;
namespace gpu = moesim::backend::gpu;

namespace {

// Lowers the call of an op that nothing else is known of, and carries it out. Returns its commands.
std::vector<gpu::Command> carry_out_call(const TrainingCall& call) {
  static const Plan none;
  std::deque<std::vector<std::byte>> memory;
  const auto room = [&](std::size_t bytes) {
    // Memory is not zero before it is written.
    return memory.emplace_back(bytes + 1, std::byte{0xff}).data();
  };
  gpu::Step step;
  gpu::lower_training({none, Rank(0),
                       [&](std::span<const std::byte> content) {
                         std::byte* at = room(content.size());
                         std::copy(content.begin(), content.end(), at);
                         return at;
                       },
                       [&](std::int64_t bytes) { return room(static_cast<std::size_t>(bytes)); }},
                      Op{}, call, step);
  for (const gpu::Command& c : step.commands) carry_out(c);
  return step.commands;
}

// The same call of two sets of outputs: `make` fills one in; the outputs are compared.
struct Pair {
  Room host, ours;
  Pair(DType t, std::int64_t rows, std::int64_t cols) : host(t, rows, cols), ours(t, rows, cols) {}
};
template <class Make>
std::vector<gpu::Command> compare(const std::vector<const Pair*>& outputs, float relative, const Make& make) {
  Scratch scratch;
  run(make([](const Pair& p) { return p.host.tensor; }), scratch);
  auto commands = carry_out_call(make([](const Pair& p) { return p.ours.tensor; }));
  for (const Pair* p : outputs) close(p->host, p->ours, relative);
  return commands;
}

Gemm product(std::int64_t n, std::int64_t k, DType t) { return {Rows{}, 1, n, k, t, t, t, natural_math(t)}; }

RowMap map_of(std::vector<std::int64_t> begin, std::vector<std::int32_t> from, std::vector<std::int32_t> gate) {
  RowMap map;
  map.begin = std::move(begin);
  map.from = std::move(from);
  map.gate = std::move(gate);
  return map;
}

}  // namespace

TEST_CASE("gradients of products, of tables too, and of no rows") {
  std::mt19937 random(1);
  for (const DType t : types)
    for (const std::int64_t m : {0, 1, 7})
      for (const bool table : {false, true}) {
        const std::int64_t n = 5;
        const std::int64_t k = 12;
        const Room x(t, m, k, random);
        const Room dy(t, m, n, random);
        const Room w(t, table ? n : k, table ? k : n, random);
        const Pair dx(t, m, k);
        const Pair dw(t, table ? n : k, table ? k : n);
        compare({&dx}, 4 * ulp(t), [&](const auto& out) {
          return InputGradientCall{product(n, k, t), dy.tensor, w.tensor, out(dx), table};
        });
        compare({&dw}, 4 * ulp(t), [&](const auto& out) {
          return WeightGradientCall{product(n, k, t), x.tensor, dy.tensor, out(dw), table};
        });
      }
}

TEST_CASE("gradients of grouped products: one call, or a call each where groups share a matrix") {
  std::mt19937 random(2);
  const std::int64_t n = 6;
  const std::int64_t k = 4;
  for (const DType t : types)
    for (const bool per_group : {false, true})
      for (const auto& groups : std::vector<std::vector<std::int32_t>>{
               {3, 0, 2, 1}, {0, 0, 0, 0}, {2, 0, 1, 3, 0, 1, 0, 2}, {0, 4, 0, 0, 1, 2, 0, 0, 0, 5, 0, 0}}) {
        std::int64_t m = 0;
        for (const std::int32_t rows : groups) m += rows;
        GroupedGemm work{};
        work.matrices = 4;
        work.n = n;
        work.k = k;
        work.in = work.weight = work.out = t;
        work.math = natural_math(t);
        work.launch.per_group = per_group;
        const Room x(t, m, k, random);
        const Room dy(t, m, n, random);
        const Room w(t, 4 * k, n, random);
        const Pair dx(t, m, k);
        const Pair dw(t, 4 * k, n);
        const auto of_x = compare({&dx}, 4 * ulp(t), [&](const auto& out) {
          return GroupedInputGradientCall{work, groups, dy.tensor, w.tensor, out(dx)};
        });
        compare({&dw}, 4 * ulp(t),
                [&](const auto& out) { return GroupedWeightGradientCall{work, groups, x.tensor, dy.tensor, out(dw)}; });
        if (!per_group) CHECK(of_x.size() == (m > 0 ? 1U : 0U));
      }
}

TEST_CASE("gradient of attention: grouped heads, windows, output gates, several tiles") {
  std::mt19937 random(3);
  for (const DType t : types)
    for (const std::int64_t length : {1, 5, 150})
      for (const std::int64_t kv_heads : {1, 2})
        for (const bool causal : {true, false})
          for (const bool gated : {false, true}) {
            AttentionShape f;
            f.sequences = 2;
            f.q_len = f.kv_len = length;
            f.heads = 2;
            f.kv_heads = kv_heads;
            f.qk_dim = 4;
            f.v_dim = gated ? 4 : 6;
            f.causal = causal;
            f.gated = gated;
            f.window = causal && length > 4 ? 3 + kv_heads * 70 : 0;
            const std::int64_t rows = f.sequences * length;
            const Room x(t, rows, f.value_col() + f.kv_heads * f.v_dim, random);
            const Room d_o(t, rows, f.heads * f.v_dim, random);
            const Pair dx(t, rows, x.tensor.cols);
            compare({&dx}, 8 * ulp(t),
                    [&](const auto& out) { return AttentionGradientCall{f, d_o.tensor, x.tensor, out(dx)}; });
          }
}

TEST_CASE("gradients of rows: norm, activation, embedding") {
  std::mt19937 random(4);
  for (const DType t : types)
    for (const std::int64_t cols : {1, 8, 13, 40})
      for (const std::int64_t rows : {0, 1, 3, 300, 1100}) {  // more rows than parts
        const Room x(t, rows, cols, random);
        const Room dy(t, rows, cols, random);
        const Room w(t, 1, cols, random);
        const Room dr(t, rows, cols, random);
        const Pair dx(t, rows, cols);
        const Pair dw(t, 1, cols);
        for (const bool residual : {false, true})
          compare({&dx, &dw}, 32 * ulp(t), [&](const auto& out) {
            return NormGradientCall{dy.tensor, x.tensor, w.tensor, residual ? std::optional(dr.tensor) : std::nullopt,
                                    out(dx),   out(dw)};
          });
        for (const Activation a : {Activation::relu, Activation::gelu, Activation::silu})
          for (const bool gated : {false, true}) {
            const Room wide(t, rows, gated ? 2 * cols : cols, random);
            const Pair d(t, rows, wide.tensor.cols);
            compare({&d}, 2 * ulp(t),
                    [&](const auto& out) { return ActivationGradientCall{a, gated, dy.tensor, wide.tensor, out(d)}; });
          }
        if (rows != 3) continue;
        const Pair table(t, 5, cols);
        compare({&table}, ulp(t),
                [&](const auto& out) { return EmbeddingGradientCall{{4, -1, 4}, dy.tensor, out(table)}; });
      }
}

TEST_CASE("the loss, its gradient and the gate's") {
  std::mt19937 random(5);
  for (const DType t : types) {
    const Room logits(t, 4, 37, random);
    const std::vector<std::int64_t> targets{0, 36, 5, 5};
    const Pair loss(DType::f32, 4, 1);
    compare({&loss}, 4e-6F, [&](const auto& out) { return LossCall{targets, logits.tensor, out(loss)}; });
    const Pair dlogits(t, 4, 37);
    compare({&dlogits}, 2 * ulp(t),
            [&](const auto& out) { return LossGradientCall{targets, 11, logits.tensor, out(dlogits)}; });
    const std::vector<ExpertIndex> experts{0, 36, 7, 7, 30, 2, 1, 0, 5, 4, 3, 2};  // a token may choose one twice
    const Pair choice(DType::f32, 4, 6);
    compare({&choice}, 4e-6F, [&](const auto& out) { return GateCall{experts, logits.tensor, out(choice)}; });
    const Room dchoice(DType::f32, 4, 6, random);
    const Pair dscores(t, 4, 37);
    compare({&dscores}, 2 * ulp(t),
            [&](const auto& out) { return GateGradientCall{experts, dchoice.tensor, logits.tensor, out(dscores)}; });
  }
}

TEST_CASE("the combine and its gradient: weights from the choice, dropped copies, padding") {
  std::mt19937 random(6);
  for (const DType t : types)
    for (const std::int64_t cols : {1, 8, 40}) {
      const Room copies(t, 5, cols, random);
      const Room choice(DType::f32, 3, 4, random);
      // Token 1 lost both copies, token 2 one.
      const RowMap to_tokens = map_of({0, 2, 2, 3}, {4, 1, 2}, {2, 3, 10});
      const Pair y(t, 3, cols);
      compare({&y}, 2 * ulp(t),
              [&](const auto& out) { return CombineCall{Permute{}, to_tokens, copies.tensor, choice.tensor, out(y)}; });
      const Room dy(t, 3, cols, random);
      // Rows 0 and 3 are padding.
      const RowMap to_copies = map_of({0, 0, 1, 2, 2, 3}, {0, 2, 0}, {3, 10, 2});
      const Pair dcopies(t, 5, cols);
      const Pair dchoice(DType::f32, 3, 4);
      compare({&dcopies, &dchoice}, 4 * ulp(t), [&](const auto& out) {
        return CombineGradientCall{Permute{},     to_copies,    dy.tensor,   choice.tensor,
                                   copies.tensor, out(dcopies), out(dchoice)};
      });
    }
}

TEST_CASE("Adam: three steps, with a master weight where weights are not float32") {
  std::mt19937 random(7);
  for (const DType t : types)
    for (const std::int64_t cols : {1, 8, 13}) {
      const std::int64_t state_cols = (t == DType::f32 ? 2 : 3) * cols;
      const Room start(t, 3, cols, random);
      Pair weight(t, 3, cols);
      Pair state(DType::f32, 3, state_cols);
      weight.host.bytes = weight.ours.bytes = start.bytes;
      weight.host.tensor.data = weight.host.bytes.data();
      weight.ours.tensor.data = weight.ours.bytes.data();
      for (Room* s : {&state.host, &state.ours}) carry_out(gpu::StartState{start.tensor, s->tensor});
      for (std::int64_t c = 0; c < state_cols; ++c)
        CHECK(state.host.at(1, c) == (t != DType::f32 && c < cols ? start.at(1, c) : 0));
      for (int step = 1; step <= 3; ++step) {
        const Room gradient(t, 3, cols, random);
        compare({&weight, &state}, ulp(t), [&](const auto& out) {
          AdamCall c;
          c.step = step;
          c.parameters = {{gradient.tensor, out(weight), out(state)}};
          return c;
        });
      }
    }
}

// ---- whole steps ----

namespace {

struct Job {
  Plan plan;
  TableRouting routing;
};

// The largest difference of what a step leaves of weights and optimizer states - whose first moments are a tenth of the
// gradients - relative to the buffer's largest number. of_weights: in steps of Adam, which move a weight by at most the
// rate.
struct Apart {
  double of_weights = 0;
  double of_states = 0;
};
Apart apart(const Plan& plan, const Programs& host, const std::function<std::vector<float>(int, BufferId)>& ours) {
  Apart out;
  for (const auto& [weight, state] : updated(plan))
    for (int r = 0; r < plan.ranks; ++r)
      for (const BufferId id : {weight, state}) {
        const std::vector<float> expected = values(*host[static_cast<std::size_t>(r)], id);
        const std::vector<float> got = ours(r, id);
        REQUIRE(expected.size() == got.size());
        const bool of_weight = id == weight;
        // A master weight is not a moment.
        const bool master = !of_weight && plan.buffer(weight).dtype != DType::f32;
        const auto cols = static_cast<std::size_t>(plan.buffer(id).cols);
        double largest[3] = {1e-9, 1e-9, 1e-9};
        double worst[3] = {0, 0, 0};
        for (std::size_t i = 0; i < got.size(); ++i) {
          const std::size_t part = of_weight ? 0 : i % cols / (cols / (master ? 3 : 2)) + (master ? 0 : 1);
          largest[part] = std::max(largest[part], std::abs(static_cast<double>(expected[i])));
          const double d = std::abs(static_cast<double>(expected[i]) - static_cast<double>(got[i]));
          worst[part] = std::isfinite(d) ? std::max(worst[part], d) : 1e300;
        }
        if (of_weight || master) out.of_weights = std::max(out.of_weights, worst[0] / AdamRule::rate);
        if (of_weight) continue;
        out.of_states = std::max({out.of_states, worst[1] / largest[1], worst[2] / largest[2]});
      }
  return out;
}

void check(const Job& job, double tolerance) {
  const Inputs inputs{job.routing, 5};
  const Programs host = compute(job.plan, inputs);
  const auto near = [&](const Apart& a) {
    CHECK(a.of_states <= tolerance);
    // A gradient that is zero but for rounding has a sign by chance, and Adam's first step goes by the sign.
    CHECK(a.of_weights <= (job.plan.buffer(updated(job.plan).front().weight).dtype == DType::f32 ? 0.05 : 2.5));
  };
  Machine one(1);
  const auto device = one.open(0);
  gpu::VirtualRanks ranks(job.plan, inputs, *device);
  for (int run = 0; run < 2; ++run) {  // the second starts from the same weights
    const auto durations = ranks.run(60);
    near(apart(job.plan, host, [&](int r, BufferId b) { return gpu::values(ranks.program(Rank(r)), b); }));
    for (std::size_t op = 0; op < job.plan.ops.size(); ++op)
      CHECK((durations[0][op] >= 0) == host[0]->ops()[op].takes_part);
  }

  Machine machine(job.plan.ranks, 3);
  machine.join_waits = true;
  std::vector<std::unique_ptr<gpu::Device>> devices;
  for (int r = 0; r < job.plan.ranks; ++r) devices.push_back(machine.open(r));
  std::vector<std::unique_ptr<gpu::GpuRank>> gpus(devices.size());
  std::mutex mutex;
  std::map<gpu::GpuRank::Meeting, gpu::MeetingId> ids;
  std::vector<std::string> failures(devices.size());
  {
    std::vector<std::jthread> threads;
    for (std::size_t r = 0; r < devices.size(); ++r)
      threads.emplace_back([&, r] {
        try {
          gpus[r] = std::make_unique<gpu::GpuRank>(job.plan, inputs, Rank(r), *devices[r]);
          gpus[r]->join([&](const gpu::GpuRank::Meeting& at) {
            const std::scoped_lock lock(mutex);
            auto& id = ids[at];
            if (id.empty()) id = machine.meeting_id();
            return id;
          });
          for (int run = 0; run < 2; ++run) gpus[r]->run({60, true, false, {}});
        } catch (const std::exception& e) {
          failures[r] = e.what();
        }
      });
  }
  for (const std::string& failure : failures) REQUIRE(failure == "");
  near(apart(job.plan, host,
             [&](int r, BufferId b) { return gpu::values(gpus[static_cast<std::size_t>(r)]->program(), b); }));
}

double tolerance(DType t) { return t == DType::f32 ? 2e-5 : 8 * 0x1p-8; }

}  // namespace

TEST_CASE("a training step under every strategy leaves the host's weights and optimizer states") {
  const std::vector<std::pair<const char*, Given>> runs{
      {"expert_parallel", {}},
      {"expert_parallel", {{"capacity_factor", 1.0}}},
      {"expert_parallel", {{"expert_launch", std::string("per_expert")}}},
      {"fastermoe", {}},
      {"smartmoe", {{"exchange_every", std::int64_t{1}}}},
      {"flexmoe", {{"spare_slots", std::int64_t{1}}, {"adjust_every", std::int64_t{1}}}},
      {"fsdp", {}},
      {"hecate", {{"reshard_every", std::int64_t{1}}, {"overlap_degree", std::int64_t{2}}, {"gather_again", true}}},
      {"hecate_sharding", {{"reshard_every", std::int64_t{1}}}},
      {"hecate_materialization", {{"overlap_degree", std::int64_t{2}}}},
  };
  std::set<Collective::Kind> kinds;
  int moves = 0;
  for (const DType t : {DType::f32, DType::bf16})
    for (const auto& [name, given] : runs) {
      CAPTURE(name);
      std::mt19937 random(11);
      const Model model = tiny(t, 2, 8, 2, true, t == DType::f32);
      const Workload work = train(8, 4, t, t == DType::bf16);
      const Cluster cluster = moesim::testing::round_cluster(2, 2);
      const strategies::Strategy* s = strategies::find(name);
      const strategies::Options options(s->options, given);
      strategies::LoadHistory past;
      for (int i = 0; i < 3; ++i) {  // owners move after loads were seen
        const TableRouting routing = random_routing(2, 32, 8, 2, 1.5, 0, random);
        const strategies::Input in{model, cluster, work, routing, options, name, nullptr, nullptr, &past};
        Plan plan = s->plan(in);
        past.record(routing);
        for (const Op& op : plan.ops)
          if (const auto* c = std::get_if<Collective>(&op.work)) {
            kinds.insert(c->kind);
            moves += c->kind == Collective::Kind::send_recv && c->from.valid() ? 1 : 0;
          }
        check({std::move(plan), routing}, tolerance(t));
      }
    }
  for (const Collective::Kind kind : {Collective::Kind::all_reduce, Collective::Kind::all_to_all_v,
                                      Collective::Kind::sparse_all_gather, Collective::Kind::sparse_reduce_scatter})
    CHECK(kinds.count(kind) == 1);
  CHECK(moves > 0);
}

TEST_CASE("over random placements, with replicas and moves, too") {
  std::mt19937 random(17);
  for (int trial = 0; trial < 12; ++trial) {
    CAPTURE(trial);
    const int ranks = static_cast<int>(2 + random() % 4);
    const int experts = ranks * static_cast<int>(1 + random() % 2);
    const DType t = trial % 2 == 0 ? DType::f32 : DType::f16;
    const Model model = tiny(t, 2, experts, 1 + random() % 2, trial % 2 == 0, false);
    const Workload work = train(ranks * 2, 3, t, trial % 3 == 0);
    TableRouting routing =
        random_routing(2, ranks * 6, experts, static_cast<int>(model.layers[0].moe->top_k), 1.5, trial % 2, random);
    std::vector<strategies::LayerPlacement> layers;
    for (int l = 0; l < 2; ++l) {
      strategies::LayerPlacement p;
      p.owners = random_owners(experts, ranks, random);
      if (trial % 4 == 1) p.owners = with_copies(p.owners, experts, random);
      p.before = with_copies(p.owners, experts, random);
      if (trial % 2 == 1) p.after = with_copies(p.before, experts, random);
      if (trial % 3 == 2) p.moved_from = random_owners(experts, ranks, random);
      layers.push_back(std::move(p));
    }
    const strategies::Options none({}, {});
    const Cluster cluster = moesim::testing::round_cluster(1, ranks);
    const strategies::Input in{model, cluster, work, routing, none, "random"};
    check({strategies::plan_gathered(in, layers, {trial % 2 == 0, false}), routing}, tolerance(t));
  }
}
