// Predicted against measured, on timelines small enough for paper.
#include "study/compare.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "moesim/error.hpp"
#include "support/files.hpp"
#include "tests/scratch.hpp"

using namespace moesim;
using namespace moesim::study;

namespace {

Picoseconds us(std::int64_t n) { return Picoseconds(n * 1'000'000); }

// Two ranks, a gemm of layer 0 and an all-to-all of layer 1. Times in microseconds: [op][rank].
TimelineFile timeline(const std::string& strategy, std::int64_t gemm0, std::int64_t gemm1, std::int64_t exchange,
                      Picoseconds wait = Picoseconds(0)) {
  TimelineFile f;
  f.plan_hash = "0123456789abcdef";
  f.strategy = strategy;
  f.method = "by hand";
  f.ops = {{"l0.up", "gemm", "experts", Layer(0)}, {"l1.dispatch", "all_to_all_v", "dispatch", Layer(1)}};
  const Picoseconds meet = std::max(us(gemm0), us(gemm1)) + wait;
  f.timeline.ranks = 2;
  f.timeline.spans = {{OpId(0), Rank(0), {}, {}, us(gemm0), {}, {}},
                      {OpId(0), Rank(1), {}, {}, us(gemm1), {}, {}},
                      {OpId(1), Rank(0), us(gemm0), meet, meet + us(exchange), {}, meet - us(gemm0)},
                      {OpId(1), Rank(1), us(gemm1), meet, meet + us(exchange), {}, meet - us(gemm1)}};
  f.timeline.makespan = meet + us(exchange);
  return f;
}

const ErrorRow& row(const std::vector<ErrorRow>& rows, std::string_view name) {
  return *std::ranges::find(rows, name, &ErrorRow::name);
}

std::string message(const std::vector<TimelineFile>& p, const std::vector<TimelineFile>& m) {
  try {
    compare(p, m, {});
  } catch (const InputError& e) {
    return e.what();
  }
  return "nothing";
}

}  // namespace

TEST_CASE("errors by kind of op: of the sums, and quantiles of the spans") {
  // gemm: 90 + 110 predicted for 100 + 100: bias 0, spans off by 10 % both. Exchange: 30 for 20 on both ranks: +50 %.
  const Comparison c = compare({timeline("ep", 90, 110, 30)}, {timeline("ep", 100, 100, 20)}, {});
  REQUIRE(c.rows.size() == 2);
  CHECK(c.rows[0].name == "gemm");  // most measured time first
  CHECK(c.rows[0].bias == doctest::Approx(0));
  CHECK(c.rows[0].median == doctest::Approx(0.1));
  CHECK(c.rows[0].p90 == doctest::Approx(0.1));
  CHECK(c.rows[0].predicted == us(200));
  CHECK(row(c.rows, "all_to_all_v").bias == doctest::Approx(0.5));
  CHECK(row(c.rows, "all_to_all_v").spans == 2);
  // End to end 110 + 30 for 100 + 20: 140 / 120 - 1.
  CHECK(c.strategies[0].error == doctest::Approx(1.0 / 6));
  CHECK(c.worst[0].name == "l0.up");  // 10 us off twice; the exchange is 10 us off twice too, and the sums tie
  CHECK(c.passed());
}

TEST_CASE("MoE layers: from when their first op could begin to the end of their last, mean over ranks") {
  // Layer 0: (90 + 110) / 2 predicted for 100 measured. Layer 1 begins when a rank is there: ranks 0 and 1 take 140 -
  // 90 and 140 - 110 when predicted, 20 when measured.
  const Comparison c = compare({timeline("ep", 90, 110, 30)}, {timeline("ep", 100, 100, 20)}, {});
  CHECK(c.strategies[0].moe_layers == 2);
  CHECK(c.strategies[0].moe_predicted == us(70));
  CHECK(c.strategies[0].moe_measured == us(60));
  CHECK(c.strategies[0].moe_error == doctest::Approx(1.0 / 6));
  // Errors of 0 and (40 - 20) / 20: between them.
  CHECK(c.moe_median == doctest::Approx(0.5));
  CHECK(c.moe_p90 == doctest::Approx(0.9));
  CHECK(render(c).find("MoE layers, 2 of them: error 50.0 % (median), 90.0 % (90 % quantile)") != std::string::npos);
  TimelineFile dense = timeline("ep", 90, 110, 30);
  for (TimelineOp& op : dense.ops) op.category = "dense";
  CHECK(render(compare({dense}, {dense}, {})).find("MoE") == std::string::npos);
  CompareOptions by_layer;
  by_layer.judge = CompareOptions::Judge::moe_layer;
  CHECK_THROWS_AS(compare({dense}, {dense}, by_layer), InputError);
}

TEST_CASE("judged by MoE layers: what is outside them does not count, for errors and for the order") {
  // Attention of 1000 us is predicted as 100; MoE layers are right, and so is their order.
  const auto with_attention = [](const std::string& strategy, std::int64_t attention, std::int64_t experts) {
    TimelineFile f = timeline(strategy, attention, attention, experts);
    f.ops[0] = {"l0.attention", "attention_core", "attention", Layer(0)};
    return f;
  };
  const std::vector<TimelineFile> p{with_attention("a", 100, 30), with_attention("b", 100, 60)};
  const std::vector<TimelineFile> m{with_attention("a", 1000, 30), with_attention("b", 960, 60)};
  CHECK(!compare(p, m, {}).passed());
  CompareOptions by_layer;
  by_layer.judge = CompareOptions::Judge::moe_layer;
  const Comparison c = compare(p, m, by_layer);
  CHECK(c.passed());
  CHECK(c.strategies[0].strategy == "a");
  CHECK(render(c).find("passed: MoE-layer errors within 25 %") != std::string::npos);
  const Comparison swapped = compare({with_attention("a", 1, 60), with_attention("b", 1, 30)}, m, by_layer);
  CHECK(swapped.misordered.size() == 1);
}

TEST_CASE("strategies that one side lacks are an error, or left out when asked for") {
  const std::vector<TimelineFile> p{timeline("a", 10, 10, 10), timeline("b", 10, 10, 10)};
  const std::vector<TimelineFile> m{timeline("b", 10, 10, 10), timeline("c", 10, 10, 10)};
  CHECK_THROWS_AS(compare(p, m, {}), InputError);
  CompareOptions options;
  options.common = true;
  const Comparison c = compare(p, m, options);
  REQUIRE(c.strategies.size() == 1);
  CHECK(c.strategies[0].strategy == "b");
  CHECK_THROWS_AS(compare({p[0]}, m, options), InputError);
}

TEST_CASE("ranks on one GPU are compared with no prediction of ranks on their own, nor the other way round") {
  TimelineFile p = timeline("a", 10, 10, 10);
  TimelineFile m = timeline("a", 10, 10, 10);
  m.timeline.kind = Timeline::Kind::measured_virtual_ranks;
  CHECK(message({p}, {m}).find("--virtual-ranks") != std::string::npos);
  p.timeline.kind = Timeline::Kind::predicted_virtual_ranks;
  CHECK(message({p}, {m}) == "nothing");
  m.timeline.kind = Timeline::Kind::measured_wall;
  CHECK(message({p}, {m}).find("on one GPU where it is predicted, and not where it is measured") != std::string::npos);
}

TEST_CASE("waiting for peers is nobody's work") {
  const Comparison c = compare({timeline("ep", 10, 100, 20)}, {timeline("ep", 10, 100, 20, us(50))}, {});
  CHECK(row(c.rows, "all_to_all_v").bias == doctest::Approx(0));
  CHECK(c.strategies[0].error == doctest::Approx(120.0 / 170 - 1));
}

TEST_CASE("rows by layer, rank and strategy") {
  const std::vector<TimelineFile> p{timeline("a", 90, 120, 30), timeline("b", 10, 10, 10)};
  const std::vector<TimelineFile> m{timeline("a", 100, 100, 20), timeline("b", 10, 10, 10)};
  using By = CompareOptions::By;
  const Comparison layers = compare(p, m, {By::layer});
  REQUIRE(layers.rows.size() == 2);
  CHECK(layers.rows[0].predicted == us(90 + 120 + 20));
  CHECK(layers.rows[1].predicted == us(60 + 20));
  const Comparison ranks = compare(p, m, {By::rank});
  REQUIRE(ranks.rows.size() == 2);
  CHECK(ranks.rows[0].predicted == us(90 + 30 + 20));
  CHECK(ranks.rows[1].measured == us(100 + 20 + 20));
  const Comparison strategies = compare(p, m, {By::strategy});
  CHECK(row(strategies.rows, "b").bias == doctest::Approx(0));
  CHECK(row(strategies.rows, "a").predicted == us(90 + 120 + 60));
  CHECK(layers.worst[0].name == "a/l0.up");
}

TEST_CASE("the tolerance decides, on the end-to-end error alone") {
  const auto p = timeline("ep", 130, 130, 0);
  const auto m = timeline("ep", 100, 100, 0);
  CompareOptions options;
  CHECK_FALSE(compare({p}, {m}, options).passed());
  options.tolerance = 0.31;
  CHECK(compare({p}, {m}, options).passed());
  CHECK(render(compare({p}, {m}, {})).find("past the tolerance") != std::string::npos);
  const auto j = nlohmann::json::parse(to_json(compare({p}, {m}, {})));
  CHECK(j.at("passed") == false);
  CHECK(j.at("strategies")[0].at("error").get<double>() == doctest::Approx(0.3));
}

TEST_CASE("the order of strategies: wrong only where they are farther apart than the tolerance") {
  CompareOptions options;
  options.tolerance = 0.25;
  // a 100, b 120 measured: 20 % apart, predicted the other way round: too close to tell.
  const Comparison close = compare({timeline("a", 110, 0, 0), timeline("b", 105, 0, 0)},
                                   {timeline("a", 100, 0, 0), timeline("b", 120, 0, 0)}, options);
  CHECK(close.misordered.empty());
  CHECK(close.close.size() == 1);
  CHECK(close.passed());
  // a 100, b 130 measured, 120 and 110 predicted: both within 25 %, and the order is wrong.
  const Comparison wrong = compare({timeline("a", 120, 0, 0), timeline("b", 110, 0, 0)},
                                   {timeline("a", 100, 0, 0), timeline("b", 130, 0, 0)}, options);
  CHECK(wrong.misordered.size() == 1);
  CHECK_FALSE(wrong.passed());
}

TEST_CASE("timelines that do not match op for op are refused, saying where") {
  const auto good = timeline("ep", 10, 10, 10);
  auto other = good;
  other.ops[1].name = "l1.combine";
  CHECK(message({good}, {other}).find("op 1 is all_to_all_v 'l1.dispatch' of layer 1 when predicted") !=
        std::string::npos);
  other = good;
  other.ops.pop_back();
  other.timeline.spans.resize(2);
  CHECK(message({good}, {other}).find("2 ops predicted, 1 measured") != std::string::npos);
  other = good;
  other.plan_hash = "fedcba9876543210";
  CHECK(message({good}, {other}).find("same ops and other counts") != std::string::npos);
  other = good;
  other.timeline.spans.pop_back();
  CHECK(message({good}, {other}).find("op 1 'l1.dispatch' on rank 1 is predicted only") != std::string::npos);
  CHECK(message({good}, {timeline("tp", 10, 10, 10)}).find("strategy 'ep' is predicted only") != std::string::npos);
  CHECK(message({good, good}, {good}).find("more than once") != std::string::npos);
  CHECK(message({good}, {good}) == "nothing");
}

TEST_CASE("a directory of timelines, by name; one without any is refused") {
  const auto dir = std::filesystem::path(test::scratch("compare"));
  std::filesystem::create_directories(dir);
  CHECK_THROWS_AS(read_timelines(dir.string()), InputError);
  write_timeline(timeline("b", 1, 2, 3), (dir / "b.timeline.json").string());
  write_timeline(timeline("a", 1, 2, 3), (dir / "a.timeline.json").string());
  write_file((dir / "report.json").string(), "{}");
  const std::vector<TimelineFile> read = read_timelines(dir.string());
  REQUIRE(read.size() == 2);
  CHECK(read[0].strategy == "a");
  CHECK(read[1].timeline.spans == timeline("b", 1, 2, 3).timeline.spans);
}
