#include "strategies/placement/milp.hpp"

#include <coin/Cbc_C_Interface.h>
#include <doctest/doctest.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <random>

#include "recorded.hpp"
#include "strategies/placement/programs.hpp"
#include "support/files.hpp"
#include "tests/scratch.hpp"

namespace moesim::placement {
namespace {

// max 5 a + 4 b + 3 c with weights 2, 3, 1 and room for 5: a + b, value 9 (a + b + c weighs 6).
Milp knapsack() {
  Milp p;
  const int a = p.add_binary("a", -5);
  const int b = p.add_binary("b", -4);
  const int c = p.add_binary("c", -3);
  p.add_row("room", -milp_infinity, 5, {{a, 2}, {b, 3}, {c, 1}});
  return p;
}

TEST_CASE("a knapsack: optimal, with bound and objective equal") {
  const MilpSolution s = solve(knapsack(), {.seconds = 20});
  CHECK(s.status == MilpSolution::Status::optimal);
  CHECK(s.x == std::vector<double>{1, 1, 0});
  CHECK(s.objective == doctest::Approx(-9));
  CHECK(s.lower_bound == doctest::Approx(-9));
  CHECK(s.gap() == doctest::Approx(0));
  CHECK(s.seconds < 20);
}

TEST_CASE("a proof that there is no solution") {
  Milp p;
  const int a = p.add_binary("a");
  const int b = p.add_binary("b");
  p.add_equal("odd", 3, {{a, 2}, {b, 2}});
  const MilpSolution s = solve(p, {.seconds = 20});
  CHECK(s.status == MilpSolution::Status::infeasible);
  CHECK(s.x.empty());
}

TEST_CASE("a warm start is checked, kept where nothing is better, and not needed where it meets the bound") {
  const Milp p = knapsack();
  CHECK_THROWS_AS((void)solve(p, {}, std::vector<double>{1, 1, 1}), std::invalid_argument);
  CHECK_THROWS_AS((void)solve(p, {}, std::vector<double>{1, 1}), std::invalid_argument);
  CHECK_THROWS_AS((void)solve(p, {}, std::vector<double>{0.5, 0, 0}), std::invalid_argument);
  const MilpSolution better = solve(p, {.seconds = 20}, std::vector<double>{0, 0, 1});
  CHECK(better.objective == doctest::Approx(-9));
  const MilpSolution known = solve(p, {.seconds = 20}, std::vector<double>{1, 1, 0}, -9);
  CHECK(known.status == MilpSolution::Status::optimal);
}

// Partitioning numbers into equal halves: no bound but zero, so that a solver without luck searches on and on.
BalanceProgram hard_program() {
  std::mt19937_64 rng(1);
  std::vector<double> loads;
  for (int i = 0; i < 60; ++i) loads.push_back(static_cast<double>(rng() % 1'000'000'007ULL));
  return BalanceProgram(loads, 6, true);
}

TEST_CASE("the time limit is hard, and the warm start survives it") {
  const BalanceProgram program = hard_program();
  std::vector<int> clusters;
  for (int e = 0; e < 60; ++e) clusters.push_back(e % 6);
  const std::vector<double> start = program.encode(clusters);
  REQUIRE(program.problem().violation(start) < 1e-6);
  for (const double limit : {0.05, 0.4}) {
    const MilpSolution s = solve(program.problem(), {.seconds = limit}, start);
    CHECK(s.seconds < limit + 1.5);  // room for a machine that is busy with other things
    CHECK(s.status == MilpSolution::Status::feasible);
    CHECK(s.objective <= program.problem().objective(start));
    CHECK(program.problem().violation(s.x) < 1e-5);
  }
}

TEST_CASE("without a start, a limit may leave nothing; that is said") {
  const MilpSolution s = solve(hard_program().problem(), {.seconds = 0.01});
  CHECK(s.status == MilpSolution::Status::no_solution);
  CHECK(s.gap() == milp_infinity);
}

// The exported file read by another reader (CBC's own) has the same optimum.
double solved_from(const std::string& text, const char* suffix, int (*read)(Cbc_Model*, const char*)) {
  const std::string path = test::scratch(std::string("milp") + suffix);
  write_file(path, text);
  Cbc_Model* model = Cbc_newModel();
  const int status = read(model, path.c_str());
  REQUIRE(status == 0);
  Cbc_setLogLevel(model, 0);
  Cbc_solve(model);
  const double objective = Cbc_getObjValue(model);
  Cbc_deleteModel(model);
  return objective;
}

TEST_CASE("exported .lp and .mps files have the same optimum") {
  Milp p = knapsack();
  const int whole = p.add_column({.name = "whole", .lower = -3, .upper = 7, .objective = -1, .integer = true});
  const int real = p.add_column({.name = "real", .lower = -milp_infinity, .upper = milp_infinity, .objective = 0.5});
  p.add_row("window", -4, 2.5, {{whole, 1}, {real, 1}});  // lower and upper side
  p.add_row("floor", -2, milp_infinity, {{real, 1}, {0, -1}});
  p.add_equal("tie", 0, {{0, 1}, {1, -1}});
  const MilpSolution s = solve(p, {.seconds = 20});
  REQUIRE(s.status == MilpSolution::Status::optimal);
  // a = b = 1: -9; real = -1 at least (floor), whole at most 3.5 -> 3: -9 - 3 - 0.5
  CHECK(s.objective == doctest::Approx(-12.5));
  CHECK(solved_from(to_lp(p), ".lp", Cbc_readLp) == doctest::Approx(-12.5));
  CHECK(solved_from(to_mps(p), ".mps", Cbc_readMps) == doctest::Approx(-12.5));
}

TEST_CASE("MoETuner's first program, exported, has the optimum of all partitions") {
  const std::vector<double> loads{9, 7, 6, 5, 4};
  const BalanceProgram program(loads, 2, false);
  double best = 1e300;
  for (unsigned mask = 1; mask < 31; ++mask) {  // both clusters get an expert
    std::vector<int> cluster_of;
    for (unsigned e = 0; e < 5; ++e) cluster_of.push_back((mask >> e) & 1U);
    best = std::min(best, deviation(loads, 2, cluster_of));
  }
  CHECK(best == doctest::Approx(1));  // 9 + 6 against 7 + 5 + 4, mean 15.5
  const std::string lp = to_lp(program.problem());
  CHECK(solved_from(lp, ".lp", Cbc_readLp) == doctest::Approx(best));
  CHECK(solved_from(to_mps(program.problem()), ".mps", Cbc_readMps) == doctest::Approx(best));
  CHECK(solve(program.problem(), {.seconds = 20}).objective == doctest::Approx(best));
}

}  // namespace
}  // namespace moesim::placement
