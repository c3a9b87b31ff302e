#include "strategies/placement/milp.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>

namespace moesim::placement {

int Milp::add_column(Column column) {
  columns_.push_back(std::move(column));
  return static_cast<int>(columns_.size()) - 1;
}

void Milp::add_row(std::string name, double lower, double upper, std::vector<Term> terms) {
  rows_.push_back({std::move(name), lower, upper, std::move(terms)});
}

void Milp::fix(int column, double value) {
  Column& c = columns_[static_cast<std::size_t>(column)];
  c.lower = c.upper = value;
}

void Milp::set_objective(int column, double factor) { columns_[static_cast<std::size_t>(column)].objective = factor; }

double Milp::objective(std::span<const double> x) const {
  double sum = 0;
  for (std::size_t c = 0; c < columns_.size(); ++c) sum += columns_[c].objective * x[c];
  return sum;
}

double Milp::violation(std::span<const double> x) const {
  double worst = 0;
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    worst = std::max({worst, columns_[c].lower - x[c], x[c] - columns_[c].upper});
    if (columns_[c].integer) worst = std::max(worst, std::abs(x[c] - std::round(x[c])));
  }
  for (const Row& row : rows_) {
    double sum = 0;
    double scale = 1;
    for (const Term& t : row.terms) {
      sum += t.factor * x[static_cast<std::size_t>(t.column)];
      scale = std::max(scale, std::abs(t.factor));
    }
    worst = std::max({worst, (row.lower - sum) / scale, (sum - row.upper) / scale});
  }
  return worst;
}

double MilpSolution::gap() const {
  if (x.empty() || lower_bound == -milp_infinity) return milp_infinity;
  const double distance = std::max(0.0, objective - lower_bound);
  return distance == 0 ? 0 : distance / std::max(std::abs(objective), 1e-12);
}

std::string_view to_string(MilpSolution::Status status) {
  switch (status) {
    case MilpSolution::Status::optimal:
      return "optimal";
    case MilpSolution::Status::feasible:
      return "feasible";
    case MilpSolution::Status::infeasible:
      return "infeasible";
    case MilpSolution::Status::no_solution:
      return "no_solution";
  }
  return "";
}

namespace {

std::string expression(const Milp& problem, std::span<const Milp::Term> terms) {
  std::string out;
  int on_line = 0;
  for (const Milp::Term& t : terms) {
    if (++on_line % 8 == 0) out += "\n  ";
    out += fmt::format(" {} {} {}", t.factor < 0 ? '-' : '+', std::abs(t.factor),
                       problem.columns()[static_cast<std::size_t>(t.column)].name);
  }
  return out;
}

std::string bound(double value) {
  return value == milp_infinity ? "+inf" : value == -milp_infinity ? "-inf" : fmt::format("{}", value);
}

}  // namespace

std::string to_lp(const Milp& problem) {
  std::vector<Milp::Term> objective;
  for (std::size_t c = 0; c < problem.columns().size(); ++c)
    if (problem.columns()[c].objective != 0) objective.push_back({static_cast<int>(c), problem.columns()[c].objective});
  std::string out = "Minimize\n obj:" + expression(problem, objective) + "\nSubject To\n";
  for (const Milp::Row& row : problem.rows()) {
    const std::string sum = expression(problem, row.terms);
    if (row.lower == row.upper) {
      out += fmt::format(" {}:{} = {}\n", row.name, sum, row.lower);
      continue;
    }
    if (row.lower != -milp_infinity) out += fmt::format(" {}_lo:{} >= {}\n", row.name, sum, row.lower);
    if (row.upper != milp_infinity) out += fmt::format(" {}_up:{} <= {}\n", row.name, sum, row.upper);
  }
  out += "Bounds\n";
  for (const Milp::Column& c : problem.columns())
    out += fmt::format(" {} <= {} <= {}\n", bound(c.lower), c.name, bound(c.upper));
  out += "Generals\n";
  for (const Milp::Column& c : problem.columns())
    if (c.integer) out += " " + c.name + "\n";
  return out + "End\n";
}

std::string to_mps(const Milp& problem) {
  std::vector<std::vector<Milp::Term>> column_terms(problem.columns().size());  // (row, factor)
  std::string out = "NAME placement FREE\nROWS\n N obj\n";
  for (std::size_t r = 0; r < problem.rows().size(); ++r) {
    const Milp::Row& row = problem.rows()[r];
    out += fmt::format(" {} {}\n", row.lower == row.upper ? 'E' : row.upper == milp_infinity ? 'G' : 'L', row.name);
    for (const Milp::Term& t : row.terms)
      column_terms[static_cast<std::size_t>(t.column)].push_back({static_cast<int>(r), t.factor});
  }
  out += "COLUMNS\n";
  bool in_integers = false;
  for (std::size_t c = 0; c < problem.columns().size(); ++c) {
    const Milp::Column& column = problem.columns()[c];
    if (column.integer != in_integers) {
      in_integers = column.integer;
      out += fmt::format(" MARKER 'MARKER' '{}'\n", in_integers ? "INTORG" : "INTEND");
    }
    out += fmt::format(" {} obj {}\n", column.name, column.objective);
    for (const Milp::Term& t : column_terms[c])
      out += fmt::format(" {} {} {}\n", column.name, problem.rows()[static_cast<std::size_t>(t.column)].name, t.factor);
  }
  if (in_integers) out += " MARKER 'MARKER' 'INTEND'\n";
  out += "RHS\n";
  std::string ranges;
  for (const Milp::Row& row : problem.rows()) {
    const double side = row.upper == milp_infinity ? row.lower : row.upper;
    if (side != 0) out += fmt::format(" rhs {} {}\n", row.name, side);
    if (row.lower != row.upper && row.lower != -milp_infinity && row.upper != milp_infinity)
      ranges += fmt::format(" range {} {}\n", row.name, row.upper - row.lower);
  }
  if (!ranges.empty()) out += "RANGES\n" + ranges;
  out += "BOUNDS\n";
  for (const Milp::Column& c : problem.columns()) {
    if (c.lower == -milp_infinity && c.upper == milp_infinity) {
      out += fmt::format(" FR bound {}\n", c.name);
      continue;
    }
    out += c.lower == -milp_infinity ? fmt::format(" MI bound {}\n", c.name)
                                     : fmt::format(" LO bound {} {}\n", c.name, c.lower);
    out += c.upper == milp_infinity ? fmt::format(" PL bound {}\n", c.name)
                                    : fmt::format(" UP bound {} {}\n", c.name, c.upper);
  }
  return out + "ENDATA\n";
}

}  // namespace moesim::placement
