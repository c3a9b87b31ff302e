#include "study/uncertainty.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "models/cost/host_model.hpp"
#include "models/fit/shipped.hpp"
#include "sim/collectives/lowering.hpp"
#include "sim/op_cost.hpp"

namespace moesim::study {
namespace {

constexpr double z90 = 1.6449;

ErrorKind kind_of(const Work& work) {
  struct Kind {
    ErrorKind operator()(const Gemm&) const { return ErrorKind::gemm; }
    ErrorKind operator()(const GroupedGemm&) const { return ErrorKind::experts; }
    ErrorKind operator()(const AttentionCore&) const { return ErrorKind::attention; }
    ErrorKind operator()(const Elementwise&) const { return ErrorKind::memory; }
    ErrorKind operator()(const Permute&) const { return ErrorKind::memory; }
    ErrorKind operator()(const Copy&) const { return ErrorKind::memory; }
    ErrorKind operator()(const HostSync&) const { return ErrorKind::launching; }
    ErrorKind operator()(const Collective&) const { return ErrorKind::collectives; }
  };
  return std::visit(Kind{}, work);
}

std::optional<cost::CollectiveKind> as_measured(Collective::Kind kind) {
  switch (kind) {
    case Collective::Kind::all_to_all_v:
    case Collective::Kind::send_recv:
      return cost::CollectiveKind::all_to_all;
    case Collective::Kind::all_gather_v:
    case Collective::Kind::sparse_all_gather:
      return cost::CollectiveKind::all_gather;
    case Collective::Kind::reduce_scatter_v:
    case Collective::Kind::sparse_reduce_scatter:
      return cost::CollectiveKind::reduce_scatter;
    case Collective::Kind::all_reduce:
    case Collective::Kind::broadcast:
    case Collective::Kind::reduce:
      return cost::CollectiveKind::all_reduce;
  }
  return std::nullopt;
}

bool sparse(Collective::Kind kind) {
  return kind == Collective::Kind::sparse_all_gather || kind == Collective::Kind::sparse_reduce_scatter;
}

// As nccl-tests count: the full buffer.
double buffer_bytes(const Plan& plan, const Collective& c, Rank rank, int group) {
  const Traffic t = traffic(plan, c, rank);
  const double bytes = static_cast<double>(std::max(t.sent, t.received).value());
  return c.kind == Collective::Kind::all_reduce ? bytes : bytes * group / std::max(1, group - 1);
}

// Where the calibration times the collective (sim/collectives/measured.cpp) its held-out error; else `sigma`, the error
// of the machine file's latencies against nccl-tests, and what a transfer adds.
OpError collective_error(const Plan& plan, const Collective& c, Rank rank, const Cluster& cluster,
                         const Calibration& calibration, double sigma) {
  OpError out{ErrorKind::collectives, sigma, false};
  const cost::FitEntry* entry = cost::find_entry(*calibration.fits, "nccl", "");
  if (!entry || !c.groups.valid()) return out;
  for (const std::vector<Rank>& g : plan.groups[c.groups.index()]) {
    if (std::ranges::find(g, rank) == g.end()) continue;
    const auto node = [&](Rank r) { return r.value() / cluster.gpus_per_node; };
    const auto [low, high] = std::ranges::minmax_element(g, {}, node);
    const int nodes = node(*high) - node(*low) + 1;
    if (const auto kernel = sim::exchange_kernel(c); kernel && cluster.communication)
      if (const auto* e =
              cost::find_entry(*calibration.fits, "deepep", cost::exchange_name(kernel->kind, kernel->low_latency)))
        return {ErrorKind::collectives, cost::log_sigma(*e, cost::exchange_regime(nodes), nodes),
                e->transferred_from.empty() && cost::inside(*e, "nodes", nodes)};
    cost::CollectiveShape shape;
    shape.kind = as_measured(c.kind).value_or(cost::CollectiveKind::all_reduce);
    shape.gpus = static_cast<int>(g.size());
    shape.nodes = nodes;
    shape.bytes = buffer_bytes(plan, c, rank, shape.gpus);
    const bool timed = cluster.communication && !sparse(c.kind);
    out.log_sigma = timed ? cost::log_sigma(*entry, cost::collective_regime(shape), nodes)
                          : std::hypot(sigma, entry->transfer_sigma);
    out.in_range = cost::in_range(*entry, shape);
  }
  return out;
}

}  // namespace

std::string_view to_string(ErrorKind kind) {
  constexpr std::array<std::string_view, error_kinds> names{"GEMM",   "expert GEMM", "attention",
                                                            "memory", "collectives", "launching"};
  return names[static_cast<std::size_t>(kind)];
}

double Interval::reach() const { return std::exp(z90 * log_sigma); }

Errors errors(const Plan& plan, const Timeline& timeline, const Cluster& cluster, const cost::KernelModel& kernels,
              const Calibration& calibration) {
  Errors out;
  if (!calibration.fits) return out;
  const std::map<std::string, double> others = fit::uncalibrated_sigma();
  const auto uncalibrated = [&](ErrorKind kind) {
    const auto it = others.find(std::string(to_string(kind)));
    return it == others.end() ? 0.0 : it->second;
  };
  out.launch_sigma = uncalibrated(ErrorKind::launching);
  const sim::OpCosts costs(plan, cluster, kernels);
  out.ops.resize(plan.ops.size());
  // Spans are sorted by op: the longest of each run.
  for (auto s = timeline.spans.begin(); s != timeline.spans.end();) {
    const auto end = std::find_if(s, timeline.spans.end(), [&](const Span& x) { return x.op != s->op; });
    const Span& longest =
        *std::max_element(s, end, [](const Span& a, const Span& b) { return a.end - a.start < b.end - b.start; });
    s = end;
    const Op& op = plan.op(longest.op);
    OpError& e = out.ops[longest.op.index()];
    e.kind = kind_of(op.work);
    if (const auto* c = std::get_if<Collective>(&op.work)) {
      if (const auto* host = cost::find_host_entry(*calibration.fits, cost::HostKernel::transfer)) {
        const auto regime = cost::host_regime(to_microseconds(longest.end - longest.start));
        e = {ErrorKind::collectives, cost::log_sigma(*host, regime), true};
        continue;
      }
      e = collective_error(plan, *c, longest.rank, cluster, calibration, uncalibrated(e.kind));
      continue;
    }
    const sim::OpCost cost = costs(op, longest.rank);
    e.log_sigma = cost.log_sigma > 0 ? cost.log_sigma : uncalibrated(e.kind);
    e.in_range = cost.in_range;
  }
  return out;
}

void copies_for_collectives(const Plan& plan, Errors& errors) {
  OpError streaming;
  for (const OpError& e : errors.ops)
    if (e.kind == ErrorKind::memory) streaming = e.log_sigma > streaming.log_sigma ? e : streaming;
  for (std::size_t i = 0; i < errors.ops.size(); ++i)
    if (std::holds_alternative<Collective>(plan.ops[i].work)) errors.ops[i] = streaming;
}

Interval interval(const Errors& errors, const Exposure& exposure) {
  if (errors.ops.empty()) return {};
  std::array<double, error_kinds> by_kind{};
  double computing = 0;
  double total = exposure.wait_us + exposure.launch_us;
  for (std::size_t i = 0; i < errors.ops.size(); ++i) {
    const double part = exposure.op_us[i] * errors.ops[i].log_sigma;
    by_kind[static_cast<std::size_t>(errors.ops[i].kind)] += part;
    total += exposure.op_us[i];
    if (errors.ops[i].kind == ErrorKind::collectives) continue;
    computing += exposure.op_us[i];
  }
  if (total <= 0) return {};
  // Peers that are waited for run the same kernels: their error moves with these.
  if (computing > 0)
    for (const ErrorKind k : {ErrorKind::gemm, ErrorKind::experts, ErrorKind::attention, ErrorKind::memory})
      by_kind[static_cast<std::size_t>(k)] *= 1 + exposure.wait_us / computing;
  by_kind[static_cast<std::size_t>(ErrorKind::launching)] += exposure.launch_us * errors.launch_sigma;
  double squares = 0;
  for (const double s : by_kind) squares += s * s;
  return {std::sqrt(squares) / total};
}

std::string outside_range(const Errors& errors, const Exposure& exposure) {
  std::array<double, error_kinds> outside{};
  double total = 0;
  for (std::size_t i = 0; i < errors.ops.size(); ++i) {
    total += exposure.op_us[i];
    if (!errors.ops[i].in_range) outside[static_cast<std::size_t>(errors.ops[i].kind)] += exposure.op_us[i];
  }
  std::string out;
  for (std::size_t k = 0; k < error_kinds; ++k)
    if (outside[k] > 0.05 * total)
      out += fmt::format("{}{} ({:.0f} % of the time)", out.empty() ? "" : ", ", to_string(static_cast<ErrorKind>(k)),
                         100 * outside[k] / total);
  return out;
}

}  // namespace moesim::study
