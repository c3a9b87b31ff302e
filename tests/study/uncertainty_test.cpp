// Intervals of a step from those of its ops, on numbers that can be worked out on paper; and which fit a scenario runs
// on.
#include "study/uncertainty.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "models/fit/shipped.hpp"
#include "moesim/error.hpp"
#include "study/runner.hpp"
#include "support/files.hpp"

using namespace moesim;
using namespace moesim::study;

namespace {

constexpr const char* small = R"(
name = "small"
[model]
name = "mixtral-8x7b"
layers = 2
activations = "bf16"
[cluster]
machine = "MACHINE"
gpus_per_node = 4
EXTRA
[workload]
phase = "prefill"
sequences = 8
sequence_length = 256
[routing]
law = "uniform"
[[strategy]]
kind = "expert_parallel"
)";

std::string scenario(const std::string& machine, const std::string& extra = "") {
  std::string text = small;
  text.replace(text.find("MACHINE"), 7, machine);
  text.replace(text.find("EXTRA"), 5, extra);
  return text;
}

StudyResult run(const std::string& text) { return run_study(parse_scenario(text, "small.toml"), {}); }
const Summary& summary(const StudyResult& r) { return r.points[0].strategies[0].summary; }

std::string fault(const std::string& text) {
  try {
    run(text);
  } catch (const InputError& e) {
    return e.diagnostics().front().message + " | " + e.diagnostics().front().hint;
  }
  return "accepted";
}

}  // namespace

TEST_CASE("errors of one kind add up, of different kinds are independent") {
  Errors e;
  e.ops = {{ErrorKind::gemm, 0.1, true}, {ErrorKind::gemm, 0.1, true}, {ErrorKind::collectives, 0.2, true}};
  // sqrt((30 * 0.1 + 30 * 0.1)^2 + (40 * 0.2)^2) / 100 = sqrt(36 + 64) / 100 = 0.1
  const Interval i = interval(e, {{30, 30, 40}, 0, 0});
  CHECK(i.log_sigma == doctest::Approx(0.1));
  CHECK(i.reach() == doctest::Approx(std::exp(0.16449)));
}

TEST_CASE("waiting moves with the kernels, launching with the host") {
  Errors e;
  e.ops = {{ErrorKind::experts, 0.1, true}, {ErrorKind::collectives, 0.5, true}};
  e.launch_sigma = 0.3;
  // Waiting 50 beside 50 of experts: experts count double, 100 * 0.1 = 10 of 100.
  CHECK(interval(e, {{50, 0}, 50, 0}).log_sigma == doctest::Approx(0.1));
  // Half the step behind the host: sqrt((50 * 0.1)^2 + (50 * 0.3)^2) / 100.
  CHECK(interval(e, {{50, 0}, 0, 50}).log_sigma == doctest::Approx(std::sqrt(25.0 + 225.0) / 100));
  CHECK(interval({}, {{}, 10, 10}).log_sigma == 0);
  CHECK(interval({}, {}).reach() == 1);
}

TEST_CASE("what is outside the calibrated range is named when it takes time") {
  Errors e;
  e.ops = {{ErrorKind::gemm, 0.1, false}, {ErrorKind::experts, 0.1, true}, {ErrorKind::attention, 0.1, false}};
  CHECK(outside_range(e, {{20, 78, 2}, 0, 0}) == "GEMM (20 % of the time)");
  CHECK(outside_range(e, {{1, 97, 2}, 0, 0}).empty());
}

TEST_CASE("measured machines have intervals, transferred ones wider, the roofline none") {
  const StudyResult h100 = run(scenario("h100_sxm"));
  const StudyResult h200 = run(scenario("h200_sxm"));
  const StudyResult b200 = run(scenario("b200_sxm"));
  const StudyResult none = run(scenario("h100_sxm", "calibration = \"none\""));
  CHECK(summary(h100).step_interval.log_sigma > 0.01);
  CHECK(summary(h100).step_interval.log_sigma < 0.3);
  CHECK(summary(h200).step_interval.log_sigma > summary(h100).step_interval.log_sigma);
  CHECK(summary(b200).step_interval.log_sigma > summary(h200).step_interval.log_sigma);
  CHECK(summary(none).step_interval.log_sigma == 0);
  CHECK(h100.points[0].calibration.find("measured on h100_sxm") != std::string::npos);
  CHECK(h200.points[0].calibration.find("transferred from h100_sxm") != std::string::npos);
  CHECK(none.points[0].calibration.starts_with("none"));
  CHECK_FALSE(summary(h200).outside.empty());
  // The roofline at the same efficiencies has no tiles and no launches: it must be the faster one.
  CHECK(summary(none).step < summary(h100).step);
  const auto j = nlohmann::json::parse(report_json(h100)).at("points")[0].at("strategies")[0];
  CHECK(j.at("step_us_90")[0].get<double>() < j.at("step_us").get<double>());
  CHECK(j.at("step_us_90")[1].get<double>() > j.at("step_us").get<double>());
  const auto k = nlohmann::json::parse(report_json(none)).at("points")[0].at("strategies")[0];
  CHECK(k.at("step_us_90").is_null());
}

TEST_CASE("attention, which no fit covers, is outside the calibrated range where it takes time") {
  std::string text = scenario("h100_sxm");
  text.replace(text.find("sequence_length = 256"), 21, "sequence_length = 16384");
  CHECK(summary(run(text)).outside.find("attention") != std::string::npos);
  CHECK(summary(run(scenario("h100_sxm"))).outside.find("attention") == std::string::npos);  // under 5 % of the time
}

TEST_CASE("a library that is asked for is not faster than the fastest") {
  const Picoseconds best = summary(run(scenario("h100_sxm"))).step;
  for (const char* library : {"vllm", "trtllm"})
    CHECK(summary(run(scenario("h100_sxm", std::string("library = \"") + library + "\""))).step >= best);
}

TEST_CASE("calibrations that cannot be") {
  CHECK(fault(scenario("h100_sxm", "library = \"vlm\"")).find("did you mean 'vllm'?") != std::string::npos);
  CHECK(fault(scenario("h100_sxm", "calibration = \"some\"")).find("is no calibration") != std::string::npos);
  CHECK(fault(scenario("h100_sxm", "calibration = \"absent.fit.toml\"")) != "accepted");
  const std::string a100 = data_path("models/fitted/a100_80g_sxm.fit.toml");
  CHECK(fault(scenario("h100_sxm", "calibration = \"" + a100 + "\"")).find("is of machine 'a100_80g_sxm'") !=
        std::string::npos);
}

TEST_CASE("a processor has no relative among GPUs; every GPU has one") {
  CHECK_FALSE(fit::fits_for(hardware::load_machine("host")));
  for (const std::string& name : hardware::machine_names())
    if (name != "host") CHECK_MESSAGE(fit::fits_for(hardware::load_machine(name)).has_value(), name);
}
