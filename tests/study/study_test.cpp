// Studies end to end: the shipped MoEShard study against the paper, and what a summary has to satisfy.
#include <doctest/doctest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "study/fit.hpp"
#include "study/runner.hpp"
#include "support/files.hpp"
#include "tests/scratch.hpp"

using namespace moesim;
using namespace moesim::study;

namespace {

StudyResult run(const std::string& shipped) { return run_study(read_scenario(data_path(shipped)), {}); }

const StrategyResult& strategy(const PointResult& p, std::string_view label) {
  return *std::ranges::find(p.strategies, label, &StrategyResult::label);
}

}  // namespace

TEST_CASE("MoEShard: both layer times within 10 % where they were not fitted, the peak of the speedup at E = 64") {
  const StudyResult study = run("scenarios/moeshard_a100.toml");
  REQUIRE(study.points.size() == 6);
  int checked = 0;
  for (const PublishedRow& row : study.published) {
    if (row.metric != "moe_layer_ms" || row.used_in_fit) continue;
    REQUIRE(row.predicted);
    CAPTURE(row.strategy);
    CAPTURE(row.at.front().second);
    CHECK(*row.predicted / row.published == doctest::Approx(1).epsilon(0.10));
    ++checked;
  }
  CHECK(checked == 6);  // E = 16, 64, 256 for both
  const auto peak = std::ranges::max_element(
      study.points, {}, [](const PointResult& p) { return strategy(p, "moeshard").layer_to_baseline; });
  CHECK(peak->axes.front().second == "64");
}

TEST_CASE("MoEShard: DeepSpeed's time does not see the skew, dropless parallelism's straggler is the paper's") {
  const StudyResult study = run("scenarios/moeshard_a100.toml");
  const double published[] = {2.12, 2.64, 3.12, 3.42, 3.66, 3.82};  // papers.md section 1
  for (std::size_t i = 0; i < 6; ++i) {
    CHECK(strategy(study.points[i], "deepspeed").summary.straggler == doctest::Approx(1));
    CHECK(strategy(study.points[i], "moeshard").summary.straggler == doctest::Approx(1));
    const Summary& s = strategy(study.points[i], "moeshard").summary;
    CHECK(s.expert_flops_max == s.expert_flops_min);
    CHECK(std::abs(strategy(study.points[i], "dropless").summary.straggler - published[i]) < 0.005);
  }
}

TEST_CASE("MoETuner's clusters beat contiguous placement, replicas beat them; the paper's figures stand beside") {
  for (const char* scenario : {"scenarios/mixtral_moetuner_h100.toml", "scenarios/mixtral_moetuner_2x8_h200.toml"}) {
    CAPTURE(scenario);
    const StudyResult study = run(scenario);
    const PointResult& p = study.points.front();
    const Summary& contiguous = strategy(p, "contiguous").summary;
    const Summary& moetuner = strategy(p, "moetuner").summary;
    const Summary& ours = strategy(p, "local_search").summary;
    CHECK(moetuner.straggler < contiguous.straggler);
    CHECK(ours.straggler < moetuner.straggler);
    CHECK(moetuner.step < contiguous.step);
    CHECK(ours.step < moetuner.step);
    CHECK(ours.step <= strategy(p, "eplb").summary.step);
    // Clusters of any size, as many experts on every GPU over all layers: no more memory but for the largest layer.
    CHECK(moetuner.memory.by_role.at(BufferRole::weight) == contiguous.memory.by_role.at(BufferRole::weight));
    CHECK(strategy(p, "moetuner").placement.find("planned on 16384 other tokens") != std::string::npos);
    REQUIRE(study.published.size() == 1);
    REQUIRE(study.published.front().predicted);
    CHECK(*study.published.front().predicted == doctest::Approx(study.published.front().published).epsilon(0.15));
  }
}

TEST_CASE("recorded routing: maps made on its first half fit its second, and the report says that it is recorded") {
  const StudyResult study = run("scenarios/recorded_routing_h100.toml");
  const PointResult& p = study.points.front();
  CHECK_FALSE(p.routing_synthetic);
  const double contiguous = strategy(p, "contiguous").summary.straggler;
  const double ours = strategy(p, "local_search").summary.straggler;
  CHECK(contiguous > 1.1);
  CHECK(ours < contiguous);
  CHECK(strategy(p, "moetuner").summary.straggler < contiguous);
  CHECK(strategy(p, "local_search").placement.find("planned on 8192 other tokens: recorded") != std::string::npos);
}

TEST_CASE("the parts of a step add up to the step") {
  for (const char* scenario : {"scenarios/mixtral_h100.toml", "scenarios/moeshard_a100.toml"}) {
    const StudyResult study = run(scenario);
    for (const PointResult& p : study.points)
      for (const StrategyResult& s : p.strategies) {
        Picoseconds sum;
        for (const Picoseconds part : s.summary.parts) sum += part;
        // Means over ranks are rounded down once per part.
        CHECK(sum <= s.summary.step);
        CHECK(s.summary.step - sum <= Picoseconds(static_cast<std::int64_t>(part_count)));
      }
  }
}

TEST_CASE("two fidelities, chosen in the scenario: the exact step lies in what the bounded one reports") {
  const auto simulated = [](const std::string& network) {
    const Scenario scenario =
        read_scenario(data_path("scenarios/deepseek_v3_h200.toml"), {{"cluster.nodes", std::int64_t{4}, {}},
                                                                     {"model.layers", std::int64_t{5}, {}},
                                                                     {"simulation.network", network, {}}});
    return run_study(scenario, {});
  };
  const StudyResult exact = simulated("exact"), bounded = simulated("bounded");
  int open = 0;
  for (const StrategyResult& e : exact.points.front().strategies) {
    CAPTURE(e.label);
    const Summary& b = strategy(bounded.points.front(), e.label).summary;
    CHECK(e.summary.network_early == Picoseconds());
    CHECK(e.summary.network_late == Picoseconds());
    CHECK(e.summary.step >= b.step - b.network_early);
    CHECK(e.summary.step <= b.step + b.network_late);
    CHECK((b.network_early + b.network_late) / b.step <= 0.02);  // an error of 1 % to either side
    open += b.network_late.value() > 0 ? 1 : 0;
    for (const Summary* s : {&e.summary, &b}) {
      CHECK(s->network <= s->step);
      REQUIRE(!s->full.empty());
      for (const FullLinks& l : s->full) {
        CHECK(l.links > 0);
        CHECK(l.time <= s->network);
        CHECK(l.share == doctest::Approx(l.time / s->network));
      }
    }
  }
  CHECK(open > 0);
  // Flags go before the scenario.
  RunOptions options;
  options.fidelity = sim::Fidelity{};
  const Scenario loose =
      read_scenario(data_path("scenarios/deepseek_v3_h200.toml"), {{"cluster.nodes", std::int64_t{4}, {}},
                                                                   {"model.layers", std::int64_t{5}, {}},
                                                                   {"simulation.network_error", 0.3, {}}});
  const StudyResult overridden = run_study(loose, options);
  for (const StrategyResult& e : exact.points.front().strategies)
    CHECK(strategy(overridden.points.front(), e.label).summary.step == e.summary.step);
}

TEST_CASE("best first: what fits before what does not, by time") {
  const StudyResult study = run("scenarios/mixtral_h100.toml");
  const auto& s = study.points.front().strategies;
  for (std::size_t i = 1; i < s.size(); ++i) CHECK(s[i - 1].summary.step <= s[i].summary.step);
  CHECK(study.feasible());
}

TEST_CASE("a model that does not fit makes the study infeasible, with its numbers") {
  const Scenario scenario =
      read_scenario(data_path("scenarios/mixtral_h100.toml"), {{"cluster.gpus_per_node", std::int64_t{1}, {}}});
  const StudyResult study = run_study(scenario, {});
  CHECK_FALSE(study.feasible());
  // 46.7 B parameters in bf16 are 93 GB, above one H100.
  const StrategyResult& ep = strategy(study.points.front(), "expert_parallel");
  CHECK(ep.summary.memory.by_role.at(BufferRole::weight) > Bytes(93'000'000'000));
  CHECK_FALSE(ep.summary.fits);
}

TEST_CASE("report.json carries its version and every strategy") {
  const StudyResult study = run("scenarios/mixtral_h100.toml");
  const auto j = nlohmann::json::parse(report_json(study));
  CHECK(j.at("report_version") == report_version);
  CHECK(j.at("points").size() == 1);
  CHECK(j.at("points")[0].at("strategies").size() == 5);
}

TEST_CASE("a fit recovers the number that made the figures") {
  // Figures made with launch = 20 us, fitted from the machine's 6 us.
  const std::string text = R"(
name = "fit"
[model]
name = "switch-base-8"
activations = "f32"
[cluster]
machine = "a100_80g_sxm"
calibration = "none"
gpus_per_node = 2
[workload]
phase = "encode"
sequences = 8
sequence_length = 32
[routing]
law = "uniform"
[[strategy]]
kind = "expert_parallel"
)";
  const std::string overlay = test::scratch("fit_overlay.toml");
  write_file(overlay, R"(machine = "a100_80g_sxm"
[gpu]
launch = { value = "20 us", source = "made up for this test" }
)");
  const Scenario plain = parse_scenario(text, "fit.toml");
  RunOptions options;
  options.overlays = {overlay};
  const double made = to_milliseconds(run_study(plain, options).points[0].strategies[0].summary.step);
  const Scenario fitted = parse_scenario(text +
                                             "[[published]]\nstrategy = \"expert_parallel\"\nmetric = \"step_ms\"\nuse "
                                             "= \"fit\"\nsource = \"test\"\nvalue = " +
                                             std::to_string(made) + "\n",
                                         "fit.toml");
  const FitResult result = fit_machine(fitted, {"gpu.launch"}, nullptr);
  // The prior holds back a few thousandths of a factor.
  CHECK(result.parameters[0].fitted == doctest::Approx(20).epsilon(0.01));
  CHECK_THROWS_AS(fit_machine(fitted, {"gpu.lunch"}, nullptr), InputError);
  CHECK_THROWS_AS(fit_machine(fitted, {"gpu.launch", "gpu.host_sync"}, nullptr), InputError);
}
