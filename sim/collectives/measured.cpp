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

std::vector<Stage> expert_exchange(const Group& group) {
  const cost::Communication& c = *group.cluster().communication;
  const auto kind = exchange_kernel(group.collective());
  if (!kind) return {};
  const std::optional<cost::ExchangeParameters>& kernel =
      *kind == cost::ExchangeKind::dispatch ? c.dispatch : c.combine;
  if (!kernel || group.costs().sms <= 0) return {};
  std::vector<Stage> out = all_to_all_hierarchical(group);
  std::vector<Flow> flows;
  for (const Stage& stage : out) flows.insert(flows.end(), stage.flows.begin(), stage.flows.end());
  if (flows.empty()) return out;
  const Plan& plan = group.plan();
  const Ports busiest = ports(group, flows);
  cost::ExchangeLoad load;
  load.row = size_of(group.bytes(1));
  for (std::size_t i = 0; i < group.size(); ++i) {
    Bytes received;
    for (std::size_t j = 0; j < group.size(); ++j) received += group.for_member(j, i);
    load.copies = std::max({load.copies, size_of(group.contribution(i)) / load.row, size_of(received) / load.row});
    if (const std::size_t r = group.rank(i).index(); r < plan.owner_of_rank.size())
      load.tokens = std::max(load.tokens,
                             static_cast<double>(plan.tokens.count(static_cast<std::size_t>(plan.owner_of_rank[r]))));
  }
  load.link = busiest.link;
  load.nic = busiest.nic;
  load.relays = busiest.nic / load.row;
  load.sms = group.costs().sms;
  const double us = cost::exchange_us(*kernel, c.fabric, load);
  set_latency(group, out.front(), us - drain_us(c, busiest, flows));
  for (std::size_t i = 1; i < out.size(); ++i) out[i].latency = {};
  return out;
}

}  // namespace

std::optional<cost::ExchangeKind> exchange_kernel(const Collective& c) {
  if (c.kind != Kind::all_to_all_v || c.algorithm != Algorithm::hierarchical) return std::nullopt;
  if (c.dtype == DType::i32) return std::nullopt;  // counts, no activations
  return cost::ExchangeKind::dispatch;
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
    case Kind::send_recv:
      if (a == Algorithm::automatic || a == Algorithm::direct) return one(Form::exchange, all_to_all_direct(group));
      return expert_exchange(group);
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
