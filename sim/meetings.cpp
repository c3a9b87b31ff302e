#include "sim/meetings.hpp"

#include <algorithm>

namespace moesim::sim {
namespace {

// The SMs that run the collective, and the memory bandwidth that feeds the rank's first link in both directions.
Demand held_by_collective(const Cluster& cluster, Rank rank, std::span<const Rank> group) {
  Demand d;
  if (cluster.gpu.sms > 0) d.compute = static_cast<double>(cluster.collectives.sms) / cluster.gpu.sms;
  const auto peer = std::ranges::find_if(group, [&](Rank r) { return r != rank; });
  if (peer == group.end()) return {};
  const LinkId first = cluster.topology->route(rank, *peer).front();
  d.memory = 2 * (cluster.topology->links()[first.index()].capacity / cluster.gpu.memory_bandwidth);
  return d;
}

}  // namespace

Meetings::Meetings(const Plan& plan, const Cluster& cluster, Network& network, bool record_links)
    : plan_(plan), cluster_(cluster), network_(network), record_links_(record_links) {
  for (const Groups& groups : plan.groups) {
    std::vector<Member>& members = members_.emplace_back(static_cast<std::size_t>(plan.ranks));
    for (std::size_t g = 0; g < groups.size(); ++g)
      for (std::size_t p = 0; p < groups[g].size(); ++p)
        members[groups[g][p].index()] = {static_cast<int>(g), static_cast<int>(p)};
  }
}

bool Meetings::takes_part(const Collective& work, Rank rank) const {
  return members_[work.groups.index()][rank.index()].group >= 0;
}

Meetings::Entry Meetings::enter(Rank rank, OpId op, Picoseconds now, std::vector<Wakeup>& out) {
  const Member me = member(op, rank);
  const auto [found, first] = by_group_.emplace(std::pair{op, me.group}, static_cast<int>(meetings_.size()));
  if (first) {
    Meeting& m = meetings_.emplace_back();
    m.op = op;
    m.group = static_cast<std::size_t>(me.group);
    m.guests.resize(ranks(m).size());
  }
  const int id = found->second;
  Meeting& m = meetings_[static_cast<std::size_t>(id)];
  const Demand held = held_by_collective(cluster_, rank, ranks(m));
  m.guests[static_cast<std::size_t>(me.position)] = {now, held, false};
  if (++m.arrived < m.guests.size()) return {id, held, false};

  m.stages = lower(plan_, work(op), m.group, cluster_);
  m.stage_begin = now + cluster_.collectives.launch;
  if (!m.stages.empty()) m.stage_begin += m.stages.front().latency;
  out.push_back({m.stage_begin, ranks(m).front(), id, false});
  return {id, held, true};
}

void Meetings::start_stage(int meeting, Picoseconds now, std::vector<Wakeup>& out) {
  Meeting& m = meetings_[static_cast<std::size_t>(meeting)];
  if (m.stage < m.stages.size() && !m.stages[m.stage].flows.empty()) {
    const std::vector<Flow>& flows = m.stages[m.stage].flows;
    flows_ += static_cast<std::int64_t>(flows.size());
    for (const Flow& f : flows) {
      if (f.from == f.to || f.bytes.value() == 0) continue;
      for (const Rank end : {f.from, f.to}) {
        Guest& guest = m.guests[static_cast<std::size_t>(member(m.op, end).position)];
        m.busy += guest.busy ? 0 : 1;
        guest.busy = true;
      }
    }
    const TransferId transfer = network_.start(now, flows);
    if (m.busy > 0) by_transfer_.emplace(transfer, meeting);
  }
  if (m.stage + 1 >= m.stages.size())
    for (std::size_t p = 0; p < m.guests.size(); ++p)
      if (!m.guests[p].busy) out.push_back({now, ranks(m)[p], meeting, true});
  if (m.busy == 0) stage_done(meeting, now, out);
}

void Meetings::flows_done(const Completion& c, std::vector<Wakeup>& out) {
  const auto found = by_transfer_.find(c.transfer);
  if (found == by_transfer_.end()) return;  // a transfer whose flows all stayed where they were
  const int id = found->second;
  Meeting& m = meetings_[static_cast<std::size_t>(id)];
  Guest& guest = m.guests[static_cast<std::size_t>(member(m.op, c.rank).position)];
  if (!guest.busy) return;
  guest.busy = false;
  if (m.stage + 1 >= m.stages.size()) out.push_back({c.time, c.rank, id, true});
  if (--m.busy > 0) return;
  ended_.push_back({m.op, m.stage, c.transfer, c.time});
  by_transfer_.erase(found);
  stage_done(id, c.time, out);
}

void Meetings::stage_done(int meeting, Picoseconds now, std::vector<Wakeup>& out) {
  Meeting& m = meetings_[static_cast<std::size_t>(meeting)];
  if (record_links_ && m.stage < m.stages.size()) record(m, now);
  if (m.stage + 1 >= m.stages.size()) {
    m.stages = {};  // flows of a large exchange are megabytes
    return;
  }
  ++m.stage;
  m.stage_begin = now + m.stages[m.stage].latency;
  out.push_back({m.stage_begin, ranks(m).front(), meeting, false});
}

void Meetings::record(const Meeting& m, Picoseconds end) {
  std::map<LinkId, Bytes> carried;
  for (const Flow& f : m.stages[m.stage].flows)
    for (const LinkId l : cluster_.topology->route(f.from, f.to)) carried[l] += f.bytes;
  for (const auto& [link, bytes] : carried)
    if (bytes.value() > 0) intervals_.push_back({link, m.op, m.stage_begin, end, bytes});
}

std::pair<Picoseconds, Picoseconds> Meetings::network_error() const {
  std::map<std::pair<OpId, std::size_t>, std::pair<Picoseconds, Picoseconds>> most;
  for (const Ended& e : ended_) {
    const Bracket b = network_.bracket(e.transfer);
    auto& [early, late] = most[{e.op, e.stage}];
    early = std::max(early, e.end - b.low);
    late = std::max(late, b.high - e.end);
  }
  std::pair<Picoseconds, Picoseconds> out;
  for (const auto& [key, error] : most) {
    out.first += error.first;
    out.second += error.second;
  }
  return out;
}

Meetings::Visit Meetings::visit(int meeting, Rank rank) const {
  const Meeting& m = meetings_[static_cast<std::size_t>(meeting)];
  return {m.op, m.guests[static_cast<std::size_t>(member(m.op, rank).position)].held};
}

std::vector<std::pair<Rank, Picoseconds>> Meetings::entries(int meeting) const {
  const Meeting& m = meetings_[static_cast<std::size_t>(meeting)];
  std::vector<std::pair<Rank, Picoseconds>> out;
  for (std::size_t p = 0; p < m.guests.size(); ++p) out.emplace_back(ranks(m)[p], m.guests[p].entered);
  return out;
}

}  // namespace moesim::sim
