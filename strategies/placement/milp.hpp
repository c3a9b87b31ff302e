// One small interface to solvers of mixed-integer linear programs: minimize objective * x, rows lower <= a x <= upper,
// columns lower <= x <= upper, some x whole numbers. COIN-OR CBC answers; any other solver reads the .lp or .mps file.
#pragma once

#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moesim::placement {

inline constexpr double milp_infinity = std::numeric_limits<double>::infinity();

class Milp {
 public:
  struct Column {
    std::string name;  // letters, digits and _: what every .lp reader accepts
    double lower = 0;
    double upper = 1;
    double objective = 0;
    bool integer = false;
  };
  struct Term {
    int column;
    double factor;
  };
  struct Row {
    std::string name;
    double lower;
    double upper;
    std::vector<Term> terms;  // distinct columns
  };

  int add_column(Column column);
  int add_binary(std::string name, double objective = 0) {
    return add_column({.name = std::move(name), .objective = objective, .integer = true});
  }
  void add_row(std::string name, double lower, double upper, std::vector<Term> terms);
  void add_equal(std::string name, double value, std::vector<Term> terms) {
    add_row(std::move(name), value, value, std::move(terms));
  }
  void fix(int column, double value);
  void set_objective(int column, double factor);

  [[nodiscard]] const std::vector<Column>& columns() const { return columns_; }
  [[nodiscard]] const std::vector<Row>& rows() const { return rows_; }
  [[nodiscard]] double objective(std::span<const double> x) const;
  // The largest violation of a row, a column bound or a whole number by x.
  [[nodiscard]] double violation(std::span<const double> x) const;

 private:
  std::vector<Column> columns_;
  std::vector<Row> rows_;
};

struct MilpLimits {
  double seconds = 60;  // hard: the solver's process is killed then
  double gap = 0;       // stop when (objective - bound) / |objective| is no larger,
  double distance = 0;  // or when objective - bound is no larger
};

struct MilpSolution {
  enum class Status : std::uint8_t {
    optimal,      // within the asked gap or distance
    feasible,     // x is the best found when the limit came
    infeasible,   // proven: no x satisfies all rows
    no_solution,  // none found in the limit
  };
  Status status = Status::no_solution;
  std::vector<double> x;  // empty where there is none
  double objective = milp_infinity;
  double lower_bound = -milp_infinity;
  double seconds = 0;
  bool killed = false;               // the process overran its own limit: x is the warm start
  [[nodiscard]] double gap() const;  // 0 ... 1 and more; infinite without x or bound
};
std::string_view to_string(MilpSolution::Status status);

// CBC in a child process, because it overruns its time limits (by up to four times, shared toolchain measurements) and
// cannot be stopped from within. `warm_start` is a feasible x or empty; the answer is never worse than it.
// `known_bound` is a lower bound that the caller has proven. Throws std::invalid_argument for a warm start that is not
// feasible and std::runtime_error where no process can be started.
MilpSolution solve(const Milp& problem, const MilpLimits& limits, std::span<const double> warm_start = {},
                   double known_bound = -milp_infinity);

// CPLEX LP format and free-form MPS. Column and row names are used as they are.
std::string to_lp(const Milp& problem);
std::string to_mps(const Milp& problem);

}  // namespace moesim::placement
