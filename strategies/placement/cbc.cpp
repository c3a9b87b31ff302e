// COIN-OR CBC through its C interface, in a child process with a deadline.
//
// The child writes records to a pipe: bounds while it searches, then the result. A child that overruns is killed, and
// what it had written of bounds still counts.
#include <coin/Cbc_C_Interface.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <optional>
#include <stdexcept>

#include "strategies/placement/milp.hpp"

namespace moesim::placement {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The start of a record; a result is followed by `values` doubles.
struct Record {
  enum class Kind : std::int32_t { bound, result } kind;
  std::int32_t infeasible;
  std::int64_t values;
  double lower_bound;
};

void write_all(int fd, const void* data, std::size_t size) {
  const char* p = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = write(fd, p, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) _exit(3);  // nobody is listening
    p += n;
    size -= static_cast<std::size_t>(n);
  }
}

// ---- the child ----------------------------------------------------------------------------------------------------

int child_pipe = -1;

// CBC's progress lines carry the best possible objective as their second real number (message Cbc0010I).
void on_message(Cbc_Model*, int number, int reals, const double* real, int, const int*, int, char**) {
  constexpr int progress = 10;
  if (number != progress || reals < 2 || !std::isfinite(real[1]) || std::abs(real[1]) > 1e40) return;
  const Record record{Record::Kind::bound, 0, 0, real[1]};
  write_all(child_pipe, &record, sizeof record);
}

void load(Cbc_Model* model, const Milp& problem) {
  std::vector<CoinBigIndex> start{0};
  std::vector<int> index;
  std::vector<double> value;
  std::vector<std::vector<Milp::Term>> by_column(problem.columns().size());  // (row, factor)
  std::vector<double> row_lower;
  std::vector<double> row_upper;
  for (const Milp::Row& row : problem.rows()) {
    for (const Milp::Term& t : row.terms)
      by_column[static_cast<std::size_t>(t.column)].push_back({static_cast<int>(row_lower.size()), t.factor});
    row_lower.push_back(row.lower);
    row_upper.push_back(row.upper);
  }
  for (const auto& terms : by_column) {
    for (const Milp::Term& t : terms) {
      index.push_back(t.column);
      value.push_back(t.factor);
    }
    start.push_back(static_cast<CoinBigIndex>(index.size()));
  }
  std::vector<double> lower;
  std::vector<double> upper;
  std::vector<double> objective;
  for (const Milp::Column& c : problem.columns()) {
    lower.push_back(c.lower);
    upper.push_back(c.upper);
    objective.push_back(c.objective);
  }
  Cbc_loadProblem(model, static_cast<int>(lower.size()), static_cast<int>(row_lower.size()), start.data(), index.data(),
                  value.data(), lower.data(), upper.data(), objective.data(), row_lower.data(), row_upper.data());
  Cbc_setObjSense(model, 1);
  for (std::size_t c = 0; c < problem.columns().size(); ++c)
    if (problem.columns()[c].integer) Cbc_setInteger(model, static_cast<int>(c));
}

[[noreturn]] void run_child(int pipe, const Milp& problem, const MilpLimits& limits,
                            std::span<const double> warm_start) {
  child_pipe = pipe;
  if (const int null = open("/dev/null", O_WRONLY); null >= 0) {
    dup2(null, STDOUT_FILENO);  // CBC prints whatever its log level says
    dup2(null, STDERR_FILENO);
  }
  Cbc_Model* model = Cbc_newModel();
  load(model, problem);
  Cbc_registerCallBack(model, on_message);
  Cbc_setLogLevel(model, 1);
  Cbc_setParameter(model, "threads", "0");
  Cbc_setMaximumSeconds(model, limits.seconds * 0.9);  // leave time to write the result
  Cbc_setAllowableFractionGap(model, limits.gap);
  Cbc_setAllowableGap(model, std::max(limits.distance, 1e-10));
  if (!warm_start.empty()) {
    std::vector<int> columns(warm_start.size());
    for (std::size_t c = 0; c < columns.size(); ++c) columns[c] = static_cast<int>(c);
    Cbc_setMIPStartI(model, static_cast<int>(columns.size()), columns.data(), warm_start.data());
  }
  Cbc_solve(model);

  Record record{Record::Kind::result, Cbc_isProvenInfeasible(model) != 0 ? 1 : 0, 0,
                Cbc_getBestPossibleObjValue(model)};
  const double* best = record.infeasible == 0 ? Cbc_bestSolution(model) : nullptr;
  if (best != nullptr) record.values = static_cast<std::int64_t>(problem.columns().size());
  write_all(pipe, &record, sizeof record);
  if (best != nullptr) write_all(pipe, best, problem.columns().size() * sizeof(double));
  _exit(0);  // no destructors, no handlers: they belong to the parent
}

// ---- the parent ---------------------------------------------------------------------------------------------------

struct Answer {
  bool infeasible = false;
  bool complete = false;
  double lower_bound = -milp_infinity;
  std::vector<double> x;
};

Answer parse(const std::vector<char>& bytes) {
  Answer answer;
  std::size_t offset = 0;
  while (offset + sizeof(Record) <= bytes.size()) {
    Record record{};
    std::memcpy(&record, bytes.data() + offset, sizeof record);
    offset += sizeof record;
    if (std::abs(record.lower_bound) < 1e40) answer.lower_bound = std::max(answer.lower_bound, record.lower_bound);
    if (record.kind == Record::Kind::bound) continue;
    const std::size_t size = static_cast<std::size_t>(record.values) * sizeof(double);
    if (offset + size > bytes.size()) break;
    answer.complete = true;
    answer.infeasible = record.infeasible != 0;
    answer.x.resize(static_cast<std::size_t>(record.values));
    if (size > 0) std::memcpy(answer.x.data(), bytes.data() + offset, size);
    break;
  }
  return answer;
}

// Everything the child writes until it closes the pipe or the deadline comes.
std::vector<char> read_until(int fd, Clock::time_point deadline) {
  std::vector<char> bytes;
  std::vector<char> chunk(std::size_t{1} << 16);
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return bytes;
    pollfd p{fd, POLLIN, 0};
    const int ready = poll(&p, 1, static_cast<int>(std::min<long long>(left, 1'000'000)));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) continue;
    const ssize_t n = read(fd, chunk.data(), chunk.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return bytes;
    bytes.insert(bytes.end(), chunk.begin(), chunk.begin() + n);
  }
}

}  // namespace

MilpSolution solve(const Milp& problem, const MilpLimits& limits, std::span<const double> warm_start,
                   double known_bound) {
  const auto start = Clock::now();
  constexpr double tolerance = 1e-6;
  MilpSolution out;
  out.lower_bound = known_bound;
  if (!warm_start.empty()) {
    if (warm_start.size() != problem.columns().size() || problem.violation(warm_start) > tolerance)
      throw std::invalid_argument("the warm start of a program is not feasible");
    out.x.assign(warm_start.begin(), warm_start.end());
    out.objective = problem.objective(warm_start);
  }
  const auto close_enough = [&] {
    return out.gap() <= limits.gap + 1e-9 || out.objective - out.lower_bound <= limits.distance * (1 + 1e-9);
  };
  const auto finish = [&] {
    if (!out.x.empty()) out.status = close_enough() ? MilpSolution::Status::optimal : MilpSolution::Status::feasible;
    out.seconds = seconds_since(start);
    return out;
  };
  if (!out.x.empty() && close_enough()) return finish();

  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error(fmt::format("pipe: {}", std::strerror(errno)));
  const pid_t child = fork();
  if (child < 0) {
    const int error = errno;
    close(ends[0]);
    close(ends[1]);
    throw std::runtime_error(fmt::format("fork: {}", std::strerror(error)));
  }
  if (child == 0) run_child(ends[1], problem, limits, warm_start);
  close(ends[1]);
  const auto deadline =
      start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(limits.seconds));
  const Answer answer = parse(read_until(ends[0], deadline));
  close(ends[0]);
  kill(child, SIGKILL);
  while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }

  out.killed = !answer.complete;
  out.lower_bound = std::max(out.lower_bound, answer.lower_bound);
  if (answer.infeasible && out.x.empty()) {
    out.status = MilpSolution::Status::infeasible;
    out.seconds = seconds_since(start);
    return out;
  }
  if (!answer.x.empty()) {
    std::vector<double> x = answer.x;
    for (std::size_t c = 0; c < x.size(); ++c)
      if (problem.columns()[c].integer) x[c] = std::round(x[c]);
    const double objective = problem.objective(x);
    if (problem.violation(x) <= tolerance * 10 && objective < out.objective) {
      out.x = std::move(x);
      out.objective = objective;
    }
  }
  out.lower_bound = std::min(out.lower_bound, out.objective);  // a bound above a solution is rounding
  return finish();
}

}  // namespace moesim::placement
