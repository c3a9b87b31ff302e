// Predicted against measured on this computer: a quick calibration, then the same plans in the simulator and on the
// host executor, in one process. Hard: the same ops, the same results every time. By the clock: end-to-end errors
// within 25 % and the order of strategies that are farther apart than that. Observed: errors of -8 to +2 % on a loaded
// machine (docs/host_executor.md).
#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "backend/executor.hpp"
#include "models/cost/fit_file.hpp"
#include "study/compare.hpp"
#include "study/host_calibration.hpp"
#include "study/runner.hpp"
#include "support/files.hpp"
#include "tests/scratch.hpp"

using namespace moesim;
using namespace moesim::study;

namespace {

namespace fs = std::filesystem;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool instrumented = true;  // times are the sanitizer's
#else
constexpr bool instrumented = false;
#endif

RunOptions one_at_a_time(const fs::path& out) {
  RunOptions options;
  options.out_dir = out.string();
  options.executor = &backend::host();
  options.measurement.mode = backend::RunOptions::Mode::one_at_a_time;
  options.measurement.statistic = backend::RunOptions::Statistic::minimum;
  options.measurement.repeats = instrumented ? 1 : 2;
  return options;
}

std::map<std::string, std::uint64_t> hashes(const StudyResult& study) {
  std::map<std::string, std::uint64_t> out;
  for (const StrategyResult& s : study.points.front().strategies) out[s.label] = s.measured->result_hash;
  return out;
}

// Of two measurements, the faster one of every strategy: others that use the machine only ever slow it down.
std::vector<TimelineFile> faster(std::vector<TimelineFile> a, const std::vector<TimelineFile>& b) {
  for (std::size_t i = 0; i < a.size(); ++i)
    if (b[i].timeline.makespan < a[i].timeline.makespan) a[i] = b[i];
  return a;
}

// Calibrates between two measurements, and compares the prediction with the faster of them.
Comparison calibrate_and_compare(const fs::path& dir) {
  fs::remove_all(dir);
  const Scenario scenario = read_scenario(data_path("scenarios/host_small.toml"));
  const StudyResult before = run_study(scenario, one_at_a_time(dir / "before"));

  HostCalibrationOptions quick;
  quick.probes = 12;
  quick.repeats = instrumented ? 1 : 2;
  const cost::FitFile fits = calibrate_host(backend::host(), quick);
  const std::string file = (dir / "this.fit.toml").string();
  cost::write_fit_file(fits, file);
  for (const cost::FitEntry& e : fits.entries) {
    CAPTURE(e.variant);
    REQUIRE(e.find("all") != nullptr);
    CHECK(e.find("all")->rows >= quick.probes);
  }

  const StudyResult after = run_study(scenario, one_at_a_time(dir / "after"));
  CHECK(hashes(before) == hashes(after));
  CHECK(hashes(after).size() == 5);

  RunOptions prediction;
  prediction.out_dir = (dir / "predicted").string();
  prediction.overlays = {file};
  run_study(scenario, prediction);

  Comparison c = compare(read_timelines((dir / "predicted").string()),
                         faster(read_timelines((dir / "before").string()), read_timelines((dir / "after").string())),
                         {.tolerance = 0.25});
  MESSAGE(render(c));
  fs::remove_all(dir);
  return c;
}

}  // namespace

TEST_CASE("a calibration predicts this computer: five strategies within 25 %, in their order") {
  const fs::path dir = test::scratch("differential");
  // Another process that takes the machine half-way through spoils a round, not three.
  bool passed = false;
  for (int round = 0; round < 3 && !passed; ++round) {
    const Comparison c = calibrate_and_compare(dir);
    REQUIRE(c.strategies.size() == 5);
    passed = c.passed() || instrumented;
  }
  CHECK(passed);
}

TEST_CASE("an interrupted calibration with too little to fit says so") {
  HostCalibrationOptions options;
  options.probes = 40;
  options.repeats = 1;
  options.progress = [](double) { return false; };
  CHECK_THROWS_WITH_AS(calibrate_host(backend::host(), options), doctest::Contains("too few to fit and to judge"),
                       InputError);
}
