#include "tests/bench/network/measure.hpp"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ctime>
#include <stdexcept>

namespace moesim::bench {

namespace {

// Flow f goes from rank 0 to rank f + 1, over the links that it has in the topology: Completions are then by flow.
class Fan final : public Topology {
 public:
  Fan(const Topology& topology, const std::vector<sim::Flow>& flows) : topology_(topology), flows_(flows) {}
  [[nodiscard]] int ranks() const override { return static_cast<int>(flows_.size()) + 1; }
  [[nodiscard]] int nodes() const override { return 1; }
  [[nodiscard]] Node node_of(Rank) const override { return Node(0); }
  [[nodiscard]] std::span<const Link> links() const override { return topology_.links(); }
  [[nodiscard]] std::span<const LinkId> route(Rank, Rank to) const override {
    const sim::Flow& f = flows_[to.index() - 1];
    return topology_.route(f.from, f.to);
  }

 private:
  const Topology& topology_;
  const std::vector<sim::Flow>& flows_;
};

double processor_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

Run run_here(const Topology& topology, const std::vector<sim::Flow>& flows, sim::Fidelity fidelity) {
  Run out;
  const double begin = processor_seconds();
  const auto network = sim::make_network(topology, fidelity);
  const sim::TransferId id = network->start({}, flows);
  std::vector<sim::Completion> done;
  while (const auto next = network->next()) network->advance(*next, done);
  out.seconds = processor_seconds() - begin;
  out.finish.resize(static_cast<std::size_t>(topology.ranks()));
  for (const sim::Completion& c : done) out.finish[c.rank.index()] = to_seconds(c.time);
  out.makespan = to_seconds(done.back().time);
  out.low = to_seconds(network->bracket(id).low);
  out.high = to_seconds(network->bracket(id).high);
  return out;
}

bool move_all(int fd, void* data, std::size_t size, bool out) {
  char* at = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t n = out ? write(fd, at, size) : read(fd, at, size);
    if (n <= 0) return false;
    at += n;
    size -= static_cast<std::size_t>(n);
  }
  return true;
}

bool move_all(int fd, Run& run, bool out) {
  for (double* field : {&run.seconds, &run.makespan, &run.low, &run.high})
    if (!move_all(fd, field, sizeof *field, out)) return false;
  return run.finish.empty() || move_all(fd, run.finish.data(), run.finish.size() * sizeof(double), out);
}

}  // namespace

Run run_network(const Topology& topology, const std::vector<sim::Flow>& flows, sim::Fidelity fidelity, bool by_flow) {
  int ends[2];
  if (pipe(ends) != 0) throw std::runtime_error("pipe");
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("fork");
  if (child == 0) {
    std::vector<sim::Flow> fanned = flows;
    for (std::size_t f = 0; f < fanned.size(); ++f) {
      fanned[f].from = Rank(0);
      fanned[f].to = Rank(f + 1);
    }
    Run run = by_flow ? run_here(Fan(topology, flows), fanned, fidelity) : run_here(topology, flows, fidelity);
    if (by_flow)
      run.finish.erase(run.finish.begin());
    else
      run.finish.clear();
    _exit(move_all(ends[1], run, true) ? 0 : 3);
  }
  close(ends[1]);
  Run out;
  if (by_flow) out.finish.resize(flows.size());
  const bool ok = move_all(ends[0], out, false);
  close(ends[0]);
  int status = 0;
  rusage usage{};
  wait4(child, &status, 0, &usage);
  if (!ok || status != 0) throw std::runtime_error("the network failed");
  out.peak_mb = static_cast<double>(usage.ru_maxrss) / 1024;
  return out;
}

}  // namespace moesim::bench
