// Ranks as processes, each with a "GPU" of its own: here threads whose only tie is a transport, beside NCCL's.
#include <doctest/doctest.h>

#include <functional>
#include <set>
#include <thread>

#include "backend/cuda/executor.hpp"
#include "backend/cuda/process_rank.hpp"
#include "backend/host/processes.hpp"
#include "tests/backend/cuda/mailbox.hpp"
#include "tests/backend/cuda/processor.hpp"
#include "tests/backend/small_models.hpp"

using namespace moesim;
using namespace moesim::test;
namespace gpu = moesim::backend::gpu;

namespace {

// Runs what each process does; returns what each threw. One that throws ends the waiting of the others, as the
// launcher does.
std::vector<std::string> as_processes(int ranks, const std::function<void(Mailbox&)>& process) {
  Post post(ranks);
  std::vector<std::string> failures(static_cast<std::size_t>(ranks));
  std::vector<std::jthread> threads;
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      try {
        Mailbox mailbox(post, r);
        process(mailbox);
      } catch (const backend::Refused& e) {  // all refuse together
        failures[static_cast<std::size_t>(r)] = e.what();
      } catch (const std::exception& e) {
        failures[static_cast<std::size_t>(r)] = e.what();
        post.end();
      }
    });
  threads.clear();
  return failures;
}

struct Small {
  Case test_case;
  TableRouting routing;
  Plan plan;
};
Small small(int ranks, const Variant& v) {
  std::mt19937 random(4);
  MoeBlock block;
  block.experts = 8;
  block.top_k = 2;
  block.expert = {24, true, false, Activation::silu};
  Case c = moe_only(16, block, ranks, 13, 1, DType::f32);
  TableRouting routing = random_routing(1, 13, 8, 2, 1, 1, random);
  auto plan = plan_of(c, routing, v.strategy, v.options);
  return {std::move(c), std::move(routing), plan ? std::move(*plan) : Plan{}};
}

}  // namespace

TEST_CASE("processes: the same spans as threads, all of them at rank 0") {
  int ran = 0;
  for (const Variant& v : variants()) {
    const Small s = small(4, v);
    if (s.plan.ops.empty()) continue;
    CAPTURE(v.name);
    ++ran;
    const backend::Inputs inputs{s.routing, 3};
    backend::RunOptions options;
    options.repeats = 2;
    options.patience = 20;
    Machine threads(4);
    const backend::Measurement expected = gpu::measure(threads, s.plan, inputs, options);
    Machine machine(4);
    std::vector<backend::Measurement> got(4);
    const auto failures = as_processes(4, [&](Mailbox& mailbox) {
      backend::RunOptions mine = options;
      mine.transport = &mailbox;
      got[mailbox.rank().index()] = gpu::measure(machine, s.plan, inputs, mine);
    });
    for (const std::string& f : failures) REQUIRE(f == "");
    REQUIRE(got[0].timeline.spans.size() == expected.timeline.spans.size());
    for (std::size_t i = 0; i < got[0].timeline.spans.size(); ++i) {
      CHECK(got[0].timeline.spans[i].op == expected.timeline.spans[i].op);
      CHECK(got[0].timeline.spans[i].rank == expected.timeline.spans[i].rank);
    }
    CHECK(got[0].makespans.size() == 2);
    CHECK(got[0].method.find("device time of 4 processes over mailboxes with a processor 0 each") == 0);
    // Others have their own ops.
    for (std::size_t r = 1; r < 4; ++r)
      for (const Span& span : got[r].timeline.spans) CHECK(span.rank.index() == r);
    // Every rank asks its own GPU for the very commands that its thread would.
    for (int r = 0; r < 4; ++r) {
      REQUIRE(machine.log[r].size() == threads.log[r].size());
      for (std::size_t i = 0; i < machine.log[r].size(); ++i)
        CHECK(machine.log[r][i].index() == threads.log[r][i].index());
    }
  }
  CHECK(ran > 10);
}

TEST_CASE("processes: a group's id is its first member's, and reaches the group alone") {
  std::vector<gpu::MeetingId> first(4);
  std::vector<gpu::MeetingId> second(4);
  const auto failures = as_processes(4, [&](Mailbox& mailbox) {
    const int r = mailbox.rank().value();
    const auto make = [&] { return gpu::MeetingId{static_cast<char>('a' + r), '\0', static_cast<char>(0xff)}; };
    const auto at = mailbox.rank().index();
    first[at] = gpu::meet_over(mailbox, {Rank(0), Rank(1), Rank(2), Rank(3)}, make, 5);
    second[at] =
        gpu::meet_over(mailbox, r % 2 == 0 ? std::vector{Rank(0), Rank(2)} : std::vector{Rank(3), Rank(1)}, make, 5);
  });
  for (const std::string& f : failures) CHECK(f == "");
  for (const gpu::MeetingId& id : first) CHECK(id == gpu::MeetingId{'a', '\0', static_cast<char>(0xff)});
  CHECK(second[0] == second[2]);
  CHECK(second[1] == second[3]);
  CHECK(second[0][0] == 'a');
  CHECK(second[1][0] == 'd');
}

TEST_CASE("processes: each takes the GPU of its place, and one without room or GPU ends all with its reason") {
  std::vector<int> places(3, -1);
  as_processes(3, [&](Mailbox& mailbox) {
    places[mailbox.rank().index()] = backend::place_on_computer(mailbox, 5);
    CHECK(gpu::device_of_process(mailbox, 2, 3) == 2);
    CHECK(gpu::device_of_process(mailbox, 2, 1) == 0);  // the launcher shows it one
  });
  CHECK(places == std::vector<int>{0, 1, 2});

  const Small s = small(4, {"expert_parallel", {}, "plain"});
  const auto run = [&](Machine& machine, bool graph = false) {
    return as_processes(4, [&](Mailbox& mailbox) {
      backend::RunOptions options;
      options.transport = &mailbox;
      options.patience = 5;
      options.graph = graph;
      gpu::measure(machine, s.plan, {s.routing, 3}, options);
    });
  };
  Machine few(2);
  for (const std::string& f : run(few))
    CHECK(f.find("rank 2 is process 3 of 4 on its computer, which has 2 GPUs; start no more processes") == 0);
  Machine tiny(4, 1, 4096);
  for (const std::string& f : run(tiny)) {
    CHECK(f.find("rank 0 needs ") == 0);
    CHECK(f.find("of device memory for the plan's buffers (weight ") != std::string::npos);
  }
  Machine hangs(4);
  hangs.hang_after = 26;
  std::set<std::string> said;
  for (const std::string& f : run(hangs)) said.insert(f);
  CHECK(std::any_of(said.begin(), said.end(),
                    [](const std::string& f) { return f.find("did not finish op '") != std::string::npos; }));
  Machine graphs(4);
  for (const std::string& f : run(graphs, true)) CHECK(f.find("a graph cannot hold op 'l0.moe.counts_to_host'") == 0);
  CHECK(few.live + tiny.live + hangs.live + graphs.live == 0);

  Machine other(4);
  for (const std::string& f : as_processes(3, [&](Mailbox& mailbox) {
         backend::RunOptions options;
         options.transport = &mailbox;
         gpu::measure(other, s.plan, {s.routing, 3}, options);
       }))
    CHECK(f == "the plan has 4 ranks and 3 processes were started; use 'mpirun -n 4'");
}
