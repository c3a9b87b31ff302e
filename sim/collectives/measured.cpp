// Collectives as fast as they were measured: NCCL's protocols and DeepEP's kernels (models/cost/collective_model.hpp,
// exchange_model.hpp), with the bytes that this plan sends. The model gives the time t of a collective that has the
// machine for itself; what drains on the links shares them as ever, and the rest of t passes before:
//   latency = t - launch - drain,   drain = max over members of bytes / simulated rate of its NVLinks, of its NICs
// So a collective alone takes t, or the drain where skew or a thin network makes that longer, and no time beats the
// wire. A protocol that leaves the links half empty (LL, LL128) is latency here: two of them at once do not slow each
// other down but for their bytes.
// Hierarchical exchanges of activations are DeepEP's normal kernels, on as many SMs as the machine file gives
// collectives. Limits: NVSwitch nodes only (what was measured); a group with members of unequal bytes is timed by its
// busiest member; forms with several launches (per_root) and sparse collectives stay with the machine file's latencies.
#include <algorithm>
#include <bit>
#include <cmath>

#include "models/cost/communication.hpp"
#include "sim/collectives/group.hpp"

namespace moesim::sim {

namespace {

using Algorithm = Collective::Algorithm;
using Kind = Collective::Kind;
using Form = cost::CollectiveForm;

double size_of(Bytes b) { return static_cast<double>(b.value()); }

// Most bytes of any member, by port and direction.
struct Ports {
  double link = 0, nic = 0, pair = 0;
  int peers = 1;  // most members that one sends to, and itself
};

Ports ports(const Group& group, const std::vector<Flow>& flows) {
  std::vector<std::pair<Rank, std::size_t>> place_of;
  for (std::size_t i = 0; i < group.size(); ++i) place_of.emplace_back(group.rank(i), i);
  std::ranges::sort(place_of);
  const auto find = [&](Rank r) {
    return std::ranges::lower_bound(place_of, r, {}, &std::pair<Rank, std::size_t>::first)->second;
  };
  struct Member {
    double link_out = 0, link_in = 0, nic_out = 0, nic_in = 0;
    int sends = 0;
  };
  std::vector<Member> members(group.size());
  Ports out;
  for (const Flow& f : flows) {
    const std::size_t from = find(f.from), to = find(f.to);
    const bool crosses = group.crosses(from, to);
    const double bytes = size_of(f.bytes);
    (crosses ? members[from].nic_out : members[from].link_out) += bytes;
    (crosses ? members[to].nic_in : members[to].link_in) += bytes;
    ++members[from].sends;
    out.pair = std::max(out.pair, bytes);
  }
  for (const Member& m : members) {
    out.link = std::max({out.link, m.link_out, m.link_in});
    out.nic = std::max({out.nic, m.nic_out, m.nic_in});
    out.peers = std::max(out.peers, m.sends + 1);
  }
  return out;
}

// Largest part that a member keeps; it is copied inside its GPU.
double own_part(const Group& group) {
  Bytes most;
  for (std::size_t i = 0; i < group.size(); ++i)
    most =
        std::max(most, group.collective().kind == Kind::all_to_all_v ? group.for_member(i, i) : group.contribution(i));
  return size_of(most);
}

double drain_us(const cost::Communication& c, const Ports& p, const std::vector<Flow>& flows) {
  double us = std::max(p.link / c.link, p.nic > 0 ? p.nic / c.nic : 0);
  for (const Flow& f : flows)
    if (f.cap.value() > 0) us = std::max(us, size_of(f.bytes) / f.cap.value() * 1e6);
  return us;
}

void set_latency(const Group& group, Stage& stage, double us) {
  const double before = us - to_microseconds(group.costs().launch);
  stage.latency = from_microseconds(std::max(0.0, before));
}

struct Candidate {
  cost::CollectiveLoad load;
  Ports ports;
  std::vector<Stage> stages;
};

Candidate candidate(const Group& group, Form form, std::vector<Stage> stages) {
  Candidate out{{}, ports(group, stages.front().flows), std::move(stages)};
  const double members = static_cast<double>(group.size());
  const double islands = static_cast<double>(group.islands().size());
  double width = 0;
  for (const auto& island : group.islands()) width = std::max(width, static_cast<double>(island.size()));
  const Kind kind = group.collective().kind;
  const double climb = 2.0 * static_cast<double>(std::bit_width(group.islands().size() - 1));
  const double twice = kind == Kind::all_reduce ? 2 : 1;
  cost::CollectiveLoad& l = out.load;
  l.form = form;
  l.link = out.ports.link;
  l.nic = out.ports.nic;
  l.pair = out.ports.pair;
  l.peers = out.ports.peers;
  switch (form) {
    case Form::ring:
      l.steps = twice * (members - islands);
      l.hops = twice * (islands - 1);
      if (kind == Kind::all_gather_v || kind == Kind::reduce_scatter_v) l.own = own_part(group);
      break;
    case Form::tree:
      l.steps = 2 * (width - 1);
      l.hops = climb;
      break;
    case Form::in_switch:
      l.link = size_of(group.contribution(0));
      l.hops = climb;
      break;
    case Form::exchange:
      l.hops = l.nic > 0 ? 1 : 0;
      if (kind == Kind::all_to_all_v) l.own = own_part(group);
      break;
  }
  return out;
}

std::vector<Stage> fastest(const Group& group, std::vector<Candidate> candidates) {
  const cost::Communication& c = *group.cluster().communication;
  std::vector<cost::CollectiveLoad> loads;
  for (const Candidate& x : candidates) loads.push_back(x.load);
  const auto chosen = static_cast<std::size_t>(&cost::fastest_form(c.nccl, c.fabric, loads) - loads.data());
  Candidate& best = candidates[chosen];
  Stage& stage = best.stages.front();
  if (!stage.flows.empty())
    set_latency(group, stage, cost::collective_us(c.nccl, c.fabric, loads) - drain_us(c, best.ports, stage.flows));
  return std::move(best.stages);
}

std::vector<Stage> all_reduce(const Group& group) {
  const Algorithm a = group.collective().algorithm;
  std::vector<Candidate> out;
  if (a == Algorithm::automatic || a == Algorithm::ring)
    out.push_back(candidate(group, Form::ring, all_reduce_ring(group)));
  if ((a == Algorithm::automatic && group.islands().size() > 1) || a == Algorithm::tree)
    out.push_back(candidate(group, Form::tree, all_reduce_tree(group)));
  if ((a == Algorithm::automatic && group.costs().in_switch > 0 && group.size() > 2 &&
       group.size() > group.islands().size()) ||
      a == Algorithm::in_switch)
    out.push_back(candidate(group, Form::in_switch, all_reduce_in_switch(group)));
  if (out.empty()) return {};
  return fastest(group, std::move(out));
}

// What the busiest member sends or receives; its own rows are copied as those of others are.
cost::ExchangeLoad exchange_load(const Group& group, const Ports& busiest) {
  const Plan& plan = group.plan();
  cost::ExchangeLoad out;
  out.row = size_of(group.bytes(1));
  std::vector<Bytes> received(group.size());
  for (std::size_t i = 0; i < group.size(); ++i)
    for (std::size_t j = 0; j < group.size(); ++j) received[j] += group.for_member(i, j);
  for (std::size_t i = 0; i < group.size(); ++i) {
    out.copies = std::max({out.copies, size_of(group.contribution(i)) / out.row, size_of(received[i]) / out.row});
    const std::size_t r = group.rank(i).index();
    if (r >= plan.owner_of_rank.size()) continue;
    const auto owner = static_cast<std::size_t>(plan.owner_of_rank[r]);
    out.tokens = std::max(out.tokens, static_cast<double>(plan.tokens.count(owner)));
  }
  out.link = busiest.link;
  out.nic = busiest.nic;
  out.relays = busiest.nic / out.row;
  out.sms = group.costs().sms;
  for (const ExpertPlacement& p : plan.placements) out.experts = std::max(out.experts, static_cast<double>(p.slots()));
  return out;
}

std::vector<Stage> expert_exchange(const Group& group, ExchangeKernel kernel) {
  const cost::Communication& c = *group.cluster().communication;
  const bool dispatch = kernel.kind == cost::ExchangeKind::dispatch;
  const auto& normal = dispatch ? c.dispatch : c.combine;
  const auto& quick = dispatch ? c.quick_dispatch : c.quick_combine;
  if (kernel.low_latency ? !quick : !normal || group.costs().sms <= 0) return {};
  std::vector<Stage> out = kernel.low_latency ? all_to_all_direct(group) : all_to_all_hierarchical(group);
  std::vector<Flow> flows;
  for (const Stage& stage : out) flows.insert(flows.end(), stage.flows.begin(), stage.flows.end());
  if (flows.empty()) return out;
  const Ports busiest = ports(group, flows);
  const cost::ExchangeLoad load = exchange_load(group, busiest);
  const double us =
      kernel.low_latency ? cost::exchange_us(*quick, c.fabric, load) : cost::exchange_us(*normal, c.fabric, load);
  set_latency(group, out.front(), us - drain_us(c, busiest, flows));
  for (std::size_t i = 1; i < out.size(); ++i) out[i].latency = {};
  return out;
}

}  // namespace

std::optional<ExchangeKernel> exchange_kernel(const Collective& c) {
  if (c.kind != Kind::all_to_all_v || c.dtype == DType::i32) return std::nullopt;  // i32: counts, no activations
  const auto kind = c.returns ? cost::ExchangeKind::combine : cost::ExchangeKind::dispatch;
  if (c.algorithm == Algorithm::direct) return ExchangeKernel{kind, true};
  if (c.algorithm == Algorithm::hierarchical || (c.algorithm == Algorithm::automatic && c.island_rows.valid()))
    return ExchangeKernel{kind, false};
  return std::nullopt;
}

std::vector<Stage> measured(const Group& group) {
  if (group.cluster().communication == nullptr) return {};
  const Algorithm a = group.collective().algorithm;
  const bool ring = a == Algorithm::automatic || a == Algorithm::ring;
  const auto one = [&](Form form, std::vector<Stage> stages) {
    std::vector<Candidate> only;
    only.push_back(candidate(group, form, std::move(stages)));
    return fastest(group, std::move(only));
  };
  switch (group.collective().kind) {
    case Kind::all_to_all_v:
      if (const auto kernel = exchange_kernel(group.collective()))
        if (std::vector<Stage> out = expert_exchange(group, *kernel); !out.empty()) return out;
      [[fallthrough]];
    case Kind::send_recv:
      if (a == Algorithm::automatic || a == Algorithm::direct)
        return group.collective().island_rows.valid() ? std::vector<Stage>{}
                                                      : one(Form::exchange, all_to_all_direct(group));
      return {};
    case Kind::all_gather_v:
      return ring ? one(Form::ring, all_gather_ring(group)) : std::vector<Stage>{};
    case Kind::reduce_scatter_v:
      return ring ? one(Form::ring, reduce_scatter_ring(group)) : std::vector<Stage>{};
    case Kind::broadcast:
      return ring ? one(Form::ring, broadcast_ring(group)) : std::vector<Stage>{};
    case Kind::reduce:
      return ring ? one(Form::ring, reduce_ring(group)) : std::vector<Stage>{};
    case Kind::all_reduce:
      return all_reduce(group);
    case Kind::sparse_all_gather:
    case Kind::sparse_reduce_scatter:
      break;
  }
  return {};
}

}  // namespace moesim::sim
