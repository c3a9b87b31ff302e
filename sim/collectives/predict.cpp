#include "sim/collectives/predict.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "sim/collectives/group.hpp"

namespace moesim::sim {

namespace {

using Kind = Collective::Kind;

std::int32_t rows(Bytes bytes, std::int64_t cols) {
  const std::int64_t n = bytes.value() / cols;
  if (n > std::numeric_limits<std::int32_t>::max()) throw std::overflow_error("a collective of more than 2 TiB");
  return static_cast<std::int32_t>(n);
}

Bytes nccl_size(const Group& group) {
  const auto n = static_cast<std::int64_t>(group.size());
  Bytes total;
  switch (group.collective().kind) {
    case Kind::all_to_all_v:
    case Kind::send_recv:
      for (std::size_t i = 0; i < group.size(); ++i) total += group.contribution(i);
      return total / n;
    case Kind::all_gather_v:
    case Kind::reduce_scatter_v:
      for (std::size_t i = 0; i < group.size(); ++i) total += group.contribution(i);
      return total;
    case Kind::all_reduce:
      return group.contribution(0);
    case Kind::broadcast:
    case Kind::reduce:
      return group.contribution(static_cast<std::size_t>(group.collective().root));
    case Kind::sparse_all_gather:
    case Kind::sparse_reduce_scatter:
      for (const Stage& stage : lower(group.plan(), group.collective(), 0, group.cluster()))
        for (const Flow& f : stage.flows) total += f.bytes;
      return total / n;
  }
  throw std::logic_error("unknown collective");
}

}  // namespace

double busbw_factor(Kind kind, int ranks) {
  const double n = ranks;
  switch (kind) {
    case Kind::all_reduce:
      return 2 * (n - 1) / n;
    case Kind::all_gather_v:
    case Kind::reduce_scatter_v:
    case Kind::all_to_all_v:
      return (n - 1) / n;
    case Kind::broadcast:
    case Kind::reduce:
    case Kind::send_recv:
    case Kind::sparse_all_gather:
    case Kind::sparse_reduce_scatter:
      return 1;
  }
  throw std::logic_error("unknown collective");
}

Plan single_collective(Kind kind, Collective::Algorithm algorithm, int ranks, Bytes size,
                       const std::vector<double>& skew) {
  if (ranks < 1 || size.value() < 0) throw std::invalid_argument("a collective needs a rank and a size");
  if (!skew.empty() && static_cast<int>(skew.size()) != ranks)
    throw std::invalid_argument("one weight per destination");
  Plan plan;
  plan.ranks = ranks;
  plan.groups.emplace_back(1);
  for (int r = 0; r < ranks; ++r) plan.groups[0][0].emplace_back(r);
  Collective c;
  c.kind = kind;
  c.algorithm = algorithm;
  c.groups = GroupsId(0);
  c.counts = TableId(0);
  c.dtype = DType::int8;
  c.cols = size.value() < (std::int64_t{1} << 30) ? 1 : 1024;
  Table counts(1, 1);
  const std::int64_t n = ranks;
  switch (kind) {
    case Kind::all_to_all_v: {
      counts = Table(1, ranks);
      const double total = std::accumulate(skew.begin(), skew.end(), 0.0);
      for (int j = 0; j < ranks; ++j) {
        const double weight = skew.empty() ? 1.0 / static_cast<double>(n) : skew[static_cast<std::size_t>(j)] / total;
        counts.at(0, j) = rows(Bytes(static_cast<std::int64_t>(static_cast<double>(size.value()) * weight)), c.cols);
      }
      break;
    }
    case Kind::send_recv:  // around a ring, as nccl-tests' sendrecv
      counts = Table(ranks, ranks);
      for (int r = 0; r < ranks; ++r) counts.at(r, (r + 1) % ranks) = rows(size, c.cols);
      break;
    case Kind::all_gather_v:
    case Kind::reduce_scatter_v:
      counts.at(0, 0) = rows(size / n, c.cols);
      break;
    case Kind::all_reduce:
    case Kind::broadcast:
    case Kind::reduce:
      counts.at(0, 0) = rows(size, c.cols);
      break;
    case Kind::sparse_all_gather:
    case Kind::sparse_reduce_scatter:
      throw std::invalid_argument("a sparse collective needs placements");
  }
  plan.tables.push_back(std::move(counts));
  Op& op = plan.ops.emplace_back();
  op.name = "collective";
  op.work = c;
  return plan;
}

Prediction predict(const Plan& plan, const Collective& collective, std::size_t index, const Cluster& cluster,
                   Fidelity fidelity) {
  const Group group(plan, collective, index, cluster);
  const std::vector<Stage> stages = lower(plan, collective, index, cluster);
  Prediction out;
  out.time = cluster.collectives.launch;
  Picoseconds early, late;  // how much the bracket opens, summed over stages
  const auto network = make_network(*cluster.topology, fidelity);
  for (const Stage& stage : stages) {
    out.time += stage.latency;
    out.flows += static_cast<std::int64_t>(stage.flows.size());
    const TransferId id = network->start(out.time, stage.flows);
    std::vector<Completion> done;
    while (const auto next = network->next()) network->advance(*next, done);
    if (done.empty()) continue;
    out.time = done.back().time;
    const Bracket bracket = network->bracket(id);
    early += out.time - std::min(bracket.low, out.time);
    late += std::max(bracket.high, out.time) - out.time;
  }
  out.bracket = {out.time - early, out.time + late};
  out.least = cluster.collectives.launch + least_time(stages, *cluster.topology);
  out.size = nccl_size(group);
  const double seconds = to_seconds(out.time);
  out.algbw = BytesPerSecond(seconds > 0 ? static_cast<double>(out.size.value()) / seconds : 0);
  out.busbw = out.algbw * busbw_factor(collective.kind, static_cast<int>(group.size()));
  return out;
}

Prediction predict(const Plan& plan, const Cluster& cluster, Fidelity fidelity) {
  return predict(plan, std::get<Collective>(plan.ops.at(0).work), 0, cluster, fidelity);
}

}  // namespace moesim::sim
