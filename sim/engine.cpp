#include "sim/engine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <queue>
#include <stdexcept>
#include <unordered_map>

#include "moesim/error.hpp"
#include "sim/collectives/lowering.hpp"
#include "sim/gpu_share.hpp"
#include "sim/op_cost.hpp"

namespace moesim::sim {
namespace {

// A collective's stay on a GPU takes these away from kernels.
Demand collective_demand(const Cluster& cluster, Rank rank, std::span<const Rank> group) {
  const Gpu& gpu = cluster.gpu;
  Demand d;
  if (gpu.sms > 0) d.compute = static_cast<double>(cluster.collectives.sms) / gpu.sms;
  // It reads what it sends and writes what it receives, at most at the speed of the rank's first link.
  for (const Rank peer : group) {
    if (peer == rank) continue;
    const auto route = cluster.topology->route(rank, peer);
    d.memory =
        std::max(d.memory, 2 * (cluster.topology->links()[route.front().index()].capacity / gpu.memory_bandwidth));
    break;
  }
  return d;
}

class Engine {
 public:
  Engine(const Plan& plan, const Cluster& cluster, const cost::KernelModel& kernels, const SimulationOptions& options)
      : plan_(plan), cluster_(cluster), options_(options), costs_(plan, cluster, kernels) {
    if (cluster.ranks() < plan.ranks)
      throw std::logic_error(fmt::format("the plan has {} ranks, the cluster {}", plan.ranks, cluster.ranks()));
    network_ = make_network(*cluster.topology, options.fidelity);
    int streams = 1;
    for (const Op& op : plan.ops) streams = std::max(streams, op.stream + 1);
    ranks_.resize(static_cast<std::size_t>(plan.ranks));
    for (RankState& r : ranks_) {
      r.streams.resize(static_cast<std::size_t>(streams));
      r.ops.resize(plan.ops.size());
    }
    cost_cache_.resize(plan.ops.size());
    index_ops();
  }

  Timeline run(SimulationStatistics* statistics) {
    for (int r = 0; r < plan_.ranks; ++r) host(Rank(r), Picoseconds(0));
    std::vector<Completion> completions;
    while (true) {
      const std::optional<Picoseconds> flows = network_->next();
      if (events_.empty() && !flows) break;
      if (flows && (events_.empty() || *flows <= events_.top().time)) {
        completions.clear();
        network_->advance(*flows, completions);
        for (const Completion& c : completions) transfer_done(c);
        continue;
      }
      const Event e = events_.top();
      events_.pop();
      ++statistics_.events;
      network_->advance(e.time, completions);
      dispatch(e);
    }
    check_finished();
    return finish(statistics);
  }

 private:
  enum class EventKind : std::uint8_t { try_start, kernel, collective_stage, leave, host };
  struct Event {
    Picoseconds time;
    Rank rank;
    std::uint64_t sequence;
    EventKind kind;
    int payload;
    friend bool operator>(const Event& a, const Event& b) {
      return std::tie(a.time, a.rank, a.sequence) > std::tie(b.time, b.rank, b.sequence);
    }
  };

  // What is known of one op on one rank.
  struct OpState {
    Picoseconds launched{-1};  // the host has issued its first kernel
    Picoseconds ready{-1};
    int missing = 0;  // dependencies and stream predecessor not complete
    bool started = false;
    bool done = false;
  };
  struct Stream {
    int last = -1;  // the stream's last op so far, in plan order
  };
  struct RankState {
    std::vector<Stream> streams;
    std::vector<OpState> ops;
    std::size_t next_to_launch = 0;  // into ops_of_rank
    Picoseconds host_free;
    int waiting_sync = -1;        // host_sync op that the host stands at
    std::int64_t incomplete = 0;  // issued ops that are not complete
    GpuShare gpu;
    std::optional<Event> kernel_event;
  };

  // One group of one collective under way.
  struct Meeting {
    int op;
    std::size_t group;
    std::size_t arrived = 0;
    Picoseconds begin;
    std::vector<Stage> stages;
    std::size_t stage = 0;
    std::vector<Picoseconds> entered;  // by member
    std::vector<int> outstanding;      // by member: 1 while flows of the stage are under way
    int open = 0;                      // members with outstanding flows
    std::vector<Demand> held;
  };

  void index_ops() {
    // Successors, and the number of predecessors, are the same on every rank that runs both ops; ranks outside a
    // collective's groups skip it.
    ops_of_rank_.resize(ranks_.size());
    successors_.resize(plan_.ops.size());
    for (std::size_t i = 0; i < plan_.ops.size(); ++i) {
      const Op& op = plan_.ops[i];
      for (const OpId a : op.after) successors_[a.index()].push_back(static_cast<int>(i));
      if (const auto* c = std::get_if<Collective>(&op.work)) {
        if (!group_of_.contains(c->groups.value())) {
          std::vector<std::pair<int, int>> members(ranks_.size(), {-1, -1});
          const Groups& groups = plan_.groups[c->groups.index()];
          for (std::size_t g = 0; g < groups.size(); ++g)
            for (std::size_t m = 0; m < groups[g].size(); ++m)
              members[groups[g][m].index()] = {static_cast<int>(g), static_cast<int>(m)};
          group_of_.emplace(c->groups.value(), std::move(members));
        }
      }
      for (std::size_t r = 0; r < ranks_.size(); ++r) {
        if (!takes_part(op, r)) continue;
        ops_of_rank_[r].push_back(static_cast<int>(i));
        OpState& state = ranks_[r].ops[i];
        Stream& stream = ranks_[r].streams[static_cast<std::size_t>(op.stream)];
        for (const OpId a : op.after) state.missing += takes_part(plan_.op(a), r) ? 1 : 0;
        if (stream.last >= 0) ++state.missing;
        stream.last = static_cast<int>(i);
        ++statistics_.ops;
      }
    }
    // Stream successor of each op, by rank.
    stream_next_.resize(ranks_.size());
    for (std::size_t r = 0; r < ranks_.size(); ++r) {
      stream_next_[r].assign(plan_.ops.size(), -1);
      std::vector<int> last(ranks_[r].streams.size(), -1);
      for (const int i : ops_of_rank_[r]) {
        int& previous = last[static_cast<std::size_t>(plan_.ops[static_cast<std::size_t>(i)].stream)];
        if (previous >= 0) stream_next_[r][static_cast<std::size_t>(previous)] = i;
        previous = i;
      }
    }
  }

  [[nodiscard]] bool takes_part(const Op& op, std::size_t rank) const {
    const auto* c = std::get_if<Collective>(&op.work);
    return c == nullptr || group_of_.at(c->groups.value())[rank].first >= 0;
  }

  OpState& state(Rank r, int op) { return ranks_[r.index()].ops[static_cast<std::size_t>(op)]; }

  void schedule(Picoseconds time, Rank rank, EventKind kind, int payload) {
    events_.push({time, rank, sequence_++, kind, payload});
  }

  void dispatch(const Event& e) {
    switch (e.kind) {
      case EventKind::try_start:
        return start(e.rank, e.payload, e.time);
      case EventKind::kernel:
        return kernel_event(e);
      case EventKind::collective_stage:
        return stage(e.payload, e.time);
      case EventKind::leave:
        return leave(e.rank, e.payload, e.time);
      case EventKind::host:
        return host(e.rank, e.time);
    }
  }

  // Issues ops until the host has to wait for the device.
  void host(Rank r, Picoseconds now) {
    RankState& rank = ranks_[r.index()];
    rank.host_free = std::max(rank.host_free, now);
    while (rank.next_to_launch < ops_of_rank_[r.index()].size()) {
      const int i = ops_of_rank_[r.index()][rank.next_to_launch];
      const Op& op = plan_.ops[static_cast<std::size_t>(i)];
      if (std::holds_alternative<HostSync>(op.work)) {
        if (rank.incomplete > 0) {
          rank.waiting_sync = i;
          return;
        }
        rank.waiting_sync = -1;
        ++rank.next_to_launch;
        sync_done(r, i, rank.host_free);
        continue;
      }
      ++rank.next_to_launch;
      ++rank.incomplete;
      const OpCost& cost = cost_of(r, i);
      OpState& s = state(r, i);
      s.launched = rank.host_free + cluster_.gpu.launch * std::min<std::int64_t>(1, cost.launches);
      rank.host_free += cluster_.gpu.launch * cost.launches;
      if (s.missing == 0) {
        s.ready = std::max(s.ready, Picoseconds(0));
        schedule(std::max(s.launched, s.ready), r, EventKind::try_start, i);
      }
    }
  }

  // The host has read its counts: the span of the sync, and the host goes on after it.
  void sync_done(Rank r, int i, Picoseconds now) {
    RankState& rank = ranks_[r.index()];
    OpState& s = state(r, i);
    const Picoseconds ready = std::max(s.ready, Picoseconds(0));
    const Picoseconds begin = std::max(now, ready);
    const Picoseconds end = begin + cluster_.gpu.host_sync;
    rank.host_free = end;
    s.started = true;
    spans_.push_back({OpId(i), r, ready, begin, end, Picoseconds(0), Picoseconds(0)});
    complete(r, i, end);
  }

  const OpCost& cost_of(Rank r, int i) {
    // Ranks with the same rows cost the same, and plans are SPMD: the last cost of an op usually serves the next rank.
    const Op& op = plan_.ops[static_cast<std::size_t>(i)];
    CachedCost& cached = cost_cache_[static_cast<std::size_t>(i)];
    const std::vector<std::int32_t> key = key_of(op, r);
    if (cached.valid && cached.key == key) return cached.cost;
    cached = {true, key, costs_(op, r)};
    return cached.cost;
  }

  // Everything rank-dependent that an op's cost looks at.
  std::vector<std::int32_t> key_of(const Op& op, Rank r) const {
    std::vector<std::int32_t> key;
    const auto rows = [&](const Rows& x) {
      if (!x.table.valid()) return;
      const std::int64_t sum = plan_.rows(x, r);
      key.push_back(static_cast<std::int32_t>(sum >> 31));
      key.push_back(static_cast<std::int32_t>(sum & 0x7fffffff));
    };
    struct Key {
      const Engine& engine;
      Rank r;
      decltype(rows)& add;
      std::vector<std::int32_t>& key;
      void operator()(const Gemm& w) const { add(w.m); }
      void operator()(const GroupedGemm& w) const {
        const auto row = engine.plan_.table(w.rows).row(r.value());
        key.assign(row.begin(), row.end());
      }
      void operator()(const AttentionCore& w) const { add(w.sequences); }
      void operator()(const Elementwise& w) const { add(w.rows); }
      void operator()(const Permute& w) const {
        add(w.rows_in);
        add(w.rows_out);
        if (w.launch.per_group) key.push_back(r.value());
      }
      void operator()(const Copy& w) const { add(w.rows); }
      void operator()(const HostSync&) const {}
      void operator()(const Collective&) const {}
    };
    std::visit(Key{*this, r, rows, key}, op.work);
    return key;
  }

  // All that the op waits for on this rank is complete, and the host has issued it.
  void start(Rank r, int i, Picoseconds now) {
    OpState& s = state(r, i);
    if (s.started) return;
    s.started = true;
    const Op& op = plan_.ops[static_cast<std::size_t>(i)];
    if (std::holds_alternative<Collective>(op.work)) return enter(r, i, now);

    // Kernels queue behind each other; each starts when it is issued and its predecessor is done.
    const OpCost& cost = cost_of(r, i);
    const Picoseconds device = cost.device();
    Picoseconds t = now;
    if (cost.launches > 1) {
      const auto per_kernel = static_cast<std::int64_t>(cost.kernels.size());
      for (std::int64_t k = 0; k < per_kernel; ++k) {
        const Picoseconds issued = s.launched + cluster_.gpu.launch * k;
        t = std::max(t, issued) + cost.kernels[static_cast<std::size_t>(k)];
      }
    } else {
      t += device;
    }
    const Picoseconds starved = t - now - device;
    spans_.push_back({OpId(i), r, s.ready, now, now, now - s.ready + starved, Picoseconds(0)});
    span_of_[key(r, i)] = spans_.size() - 1;
    if (t == now) return finish_op(r, i, now);
    RankState& rank = ranks_[r.index()];
    // Starved stretches use nothing.
    const double busy = device / (t - now);
    rank.gpu.start(i, now, t - now, {cost.demand.compute * busy, cost.demand.memory * busy});
    reschedule(r);
  }

  void reschedule(Rank r) {
    RankState& rank = ranks_[r.index()];
    rank.kernel_event.reset();
    if (const auto next = rank.gpu.next()) {
      const Event e{next->time, r, sequence_++, EventKind::kernel, next->kernel};
      rank.kernel_event = e;
      events_.push(e);
    }
  }

  void kernel_event(const Event& e) {
    RankState& rank = ranks_[e.rank.index()];
    if (!rank.kernel_event || rank.kernel_event->sequence != e.sequence) return;  // shares changed since
    rank.gpu.finish(e.payload, e.time);
    reschedule(e.rank);
    finish_op(e.rank, e.payload, e.time);
  }

  void finish_op(Rank r, int i, Picoseconds now) {
    spans_[span_of_.at(key(r, i))].end = now;
    span_of_.erase(key(r, i));
    complete(r, i, now);
    RankState& rank = ranks_[r.index()];
    --rank.incomplete;
    if (rank.waiting_sync >= 0 && rank.incomplete == 0) schedule(now, r, EventKind::host, 0);
  }

  void complete(Rank r, int i, Picoseconds now) {
    state(r, i).done = true;
    const auto unblock = [&](int successor) {
      OpState& s = state(r, successor);
      s.ready = std::max(s.ready, now);
      if (--s.missing == 0 && s.launched.value() >= 0)
        schedule(std::max(s.launched, s.ready), r, EventKind::try_start, successor);
    };
    for (const int next : successors_[static_cast<std::size_t>(i)])
      if (takes_part(plan_.ops[static_cast<std::size_t>(next)], r.index())) unblock(next);
    if (const int next = stream_next_[r.index()][static_cast<std::size_t>(i)]; next >= 0) unblock(next);
    if (options_.progress && (++completed_ & 0xfff) == 0)
      options_.progress(static_cast<double>(completed_) / static_cast<double>(statistics_.ops));
  }

  // ---- collectives ----

  void enter(Rank r, int i, Picoseconds now) {
    const auto& work = std::get<Collective>(plan_.ops[static_cast<std::size_t>(i)].work);
    const auto [group, member] = group_of_.at(work.groups.value())[r.index()];
    const std::vector<Rank>& ranks = plan_.groups[work.groups.index()][static_cast<std::size_t>(group)];
    const auto found = meeting_of_.emplace(std::pair{i, group}, static_cast<int>(meetings_.size()));
    if (found.second) {
      Meeting m{};
      m.op = i;
      m.group = static_cast<std::size_t>(group);
      m.entered.resize(ranks.size());
      m.outstanding.resize(ranks.size());
      m.held.resize(ranks.size());
      meetings_.push_back(std::move(m));
    }
    const int id = found.first->second;
    Meeting& m = meetings_[static_cast<std::size_t>(id)];
    const auto at = static_cast<std::size_t>(member);
    m.entered[at] = now;
    m.held[at] = collective_demand(cluster_, r, ranks);
    RankState& rank = ranks_[r.index()];
    rank.gpu.reserve(now, m.held[at]);
    reschedule(r);
    const OpState& s = state(r, i);
    spans_.push_back({OpId(i), r, s.ready, now, now, now - s.ready, Picoseconds(0)});
    span_of_[key(r, i)] = spans_.size() - 1;
    if (++m.arrived < ranks.size()) return;

    m.begin = now;
    for (std::size_t j = 0; j < ranks.size(); ++j) {
      Span& span = spans_[span_of_.at(key(ranks[j], i))];
      span.start = now;
      span.wait = now - m.entered[j];
    }
    m.stages = lower(plan_, work, m.group, cluster_);
    const Picoseconds first = m.stages.empty() ? Picoseconds(0) : m.stages.front().latency;
    schedule(now + cluster_.collectives.launch + first, ranks.front(), EventKind::collective_stage, id);
  }

  // Starts the flows of a meeting's current stage, or ends the meeting after the last.
  void stage(int id, Picoseconds now) {
    Meeting& m = meetings_[static_cast<std::size_t>(id)];
    const auto& work = std::get<Collective>(plan_.ops[static_cast<std::size_t>(m.op)].work);
    const std::vector<Rank>& ranks = plan_.groups[work.groups.index()][m.group];
    const bool last = m.stage + 1 >= m.stages.size();
    const bool has_flows = m.stage < m.stages.size() && !m.stages[m.stage].flows.empty();
    if (has_flows) {
      const std::vector<Flow>& flows = m.stages[m.stage].flows;
      statistics_.flows += static_cast<std::int64_t>(flows.size());
      const auto& members = group_of_.at(work.groups.value());
      for (const Flow& f : flows) {
        if (f.from == f.to || f.bytes.value() == 0) continue;
        m.outstanding[static_cast<std::size_t>(members[f.from.index()].second)] = 1;
        m.outstanding[static_cast<std::size_t>(members[f.to.index()].second)] = 1;
      }
      m.open = static_cast<int>(std::ranges::count(m.outstanding, 1));
      const TransferId transfer = network_->start(now, flows);
      if (m.open > 0) meeting_of_transfer_.emplace(transfer, id);
    }
    if (last)
      for (std::size_t j = 0; j < ranks.size(); ++j)
        if (m.outstanding[j] == 0) schedule(now, ranks[j], EventKind::leave, id);
    if (m.open == 0) stage_done(id, now);
  }

  void transfer_done(const Completion& c) {
    const auto found = meeting_of_transfer_.find(c.transfer);
    if (found == meeting_of_transfer_.end()) return;  // only flows that complete at once
    const int id = found->second;
    Meeting& m = meetings_[static_cast<std::size_t>(id)];
    const auto& work = std::get<Collective>(plan_.ops[static_cast<std::size_t>(m.op)].work);
    const auto member = static_cast<std::size_t>(group_of_.at(work.groups.value())[c.rank.index()].second);
    if (m.outstanding[member] == 0) return;
    m.outstanding[member] = 0;
    --m.open;
    if (m.stage + 1 >= m.stages.size()) schedule(c.time, c.rank, EventKind::leave, id);
    if (m.open == 0) {
      meeting_of_transfer_.erase(found);
      stage_done(id, c.time);
    }
  }

  void stage_done(int id, Picoseconds now) {
    Meeting& m = meetings_[static_cast<std::size_t>(id)];
    if (options_.link_intervals && m.stage < m.stages.size()) record_links(m, now);
    if (m.stage + 1 >= m.stages.size()) return;
    ++m.stage;
    const auto& work = std::get<Collective>(plan_.ops[static_cast<std::size_t>(m.op)].work);
    schedule(now + m.stages[m.stage].latency, plan_.groups[work.groups.index()][m.group].front(),
             EventKind::collective_stage, id);
    m.begin = now + m.stages[m.stage].latency;
  }

  void record_links(const Meeting& m, Picoseconds end) {
    std::map<LinkId, Bytes> carried;
    for (const Flow& f : m.stages[m.stage].flows)
      for (const LinkId l : cluster_.topology->route(f.from, f.to)) carried[l] += f.bytes;
    for (const auto& [link, bytes] : carried)
      if (bytes.value() > 0) intervals_.push_back({link, OpId(m.op), m.begin, end, bytes});
  }

  void leave(Rank r, int id, Picoseconds now) {
    Meeting& m = meetings_[static_cast<std::size_t>(id)];
    const auto& work = std::get<Collective>(plan_.ops[static_cast<std::size_t>(m.op)].work);
    const auto member = static_cast<std::size_t>(group_of_.at(work.groups.value())[r.index()].second);
    ranks_[r.index()].gpu.release(now, m.held[member]);
    reschedule(r);
    finish_op(r, m.op, now);
  }

  // ---- the end ----

  void check_finished() const {
    for (std::size_t r = 0; r < ranks_.size(); ++r)
      for (const int i : ops_of_rank_[r])
        if (!ranks_[r].ops[static_cast<std::size_t>(i)].done)
          throw std::logic_error(
              fmt::format("the plan cannot finish: rank {} never completes op '{}'; ranks wait for each other", r,
                          plan_.ops[static_cast<std::size_t>(i)].name));
  }

  Timeline finish(SimulationStatistics* statistics) {
    Timeline out;
    out.ranks = plan_.ranks;
    std::ranges::sort(spans_,
                      [](const Span& a, const Span& b) { return std::tie(a.op, a.rank) < std::tie(b.op, b.rank); });
    for (const Span& s : spans_) out.makespan = std::max(out.makespan, s.end);
    out.spans = std::move(spans_);
    const std::vector<LinkTotals> totals = network_->totals();
    for (std::size_t l = 0; l < totals.size(); ++l) {
      if (totals[l].bytes.value() == 0) continue;
      const Link& link = cluster_.topology->links()[l];
      // Rates are rounded per flow; a picosecond per completion is what that can amount to.
      if (totals[l].bytes / link.nominal > totals[l].busy + Picoseconds(1'000'000))
        throw PhysicsError(fmt::format("link {} carried {} bytes in {} ps, above its {} bytes/s", link.name,
                                       totals[l].bytes.value(), totals[l].busy.value(), link.nominal.value()));
      out.links.push_back({LinkId(l), totals[l].bytes, totals[l].busy});
    }
    std::ranges::stable_sort(intervals_, [](const LinkInterval& a, const LinkInterval& b) {
      return std::tie(a.start, a.link, a.op) < std::tie(b.start, b.link, b.op);
    });
    out.link_intervals = std::move(intervals_);
    if (statistics != nullptr) *statistics = statistics_;
    return out;
  }

  static std::uint64_t key(Rank r, int op) {
    return (static_cast<std::uint64_t>(r.index()) << 32) | static_cast<std::uint32_t>(op);
  }

  const Plan& plan_;
  const Cluster& cluster_;
  const SimulationOptions& options_;
  OpCosts costs_;
  std::unique_ptr<Network> network_;
  std::vector<RankState> ranks_;
  std::vector<std::vector<int>> ops_of_rank_;
  std::vector<std::vector<int>> successors_;
  std::vector<std::vector<int>> stream_next_;
  std::unordered_map<std::int32_t, std::vector<std::pair<int, int>>> group_of_;  // by GroupsId: rank -> group, member
  struct CachedCost {
    bool valid = false;
    std::vector<std::int32_t> key;
    OpCost cost;
  };
  std::vector<CachedCost> cost_cache_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::uint64_t sequence_ = 0;
  std::int64_t completed_ = 0;
  std::vector<Meeting> meetings_;
  std::map<std::pair<int, int>, int> meeting_of_;
  std::unordered_map<TransferId, int> meeting_of_transfer_;
  std::vector<Span> spans_;
  std::unordered_map<std::uint64_t, std::size_t> span_of_;
  std::vector<LinkInterval> intervals_;
  SimulationStatistics statistics_;
};

}  // namespace

Timeline simulate(const Plan& plan, const Cluster& cluster, const cost::KernelModel& kernels,
                  const SimulationOptions& options, SimulationStatistics* statistics) {
  return Engine(plan, cluster, kernels, options).run(statistics);
}

}  // namespace moesim::sim
