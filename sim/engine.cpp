#include "sim/engine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <queue>
#include <stdexcept>
#include <unordered_map>

#include "moesim/error.hpp"
#include "sim/gpu_share.hpp"
#include "sim/meetings.hpp"
#include "sim/op_cost.hpp"

namespace moesim::sim {
namespace {

class Engine {
 public:
  Engine(const Plan& plan, const Cluster& cluster, const cost::KernelModel& kernels, const SimulationOptions& options)
      : plan_(plan), cluster_(cluster), options_(options), costs_(plan, cluster, kernels) {
    if (cluster.ranks() < plan.ranks)
      throw std::logic_error(fmt::format("the plan has {} ranks, the cluster {}", plan.ranks, cluster.ranks()));
    network_ = make_network(*cluster.topology, options.fidelity);
    meetings_ = std::make_unique<Meetings>(plan, cluster, *network_, options.link_intervals);
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
        for (const Completion& c : completions) meetings_->flows_done(c, wakeups_);
        schedule_wakeups();
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
    bool host_waiting = false;    // until all issued ops are complete
    std::int64_t incomplete = 0;  // issued ops, without those of the parameter stream, that are not complete
    GpuShare gpu;
    std::optional<Event> kernel_event;
  };

  void index_ops() {
    // Successors, and the number of predecessors, are the same on every rank that runs both ops; ranks outside a
    // collective's groups skip it.
    ops_of_rank_.resize(ranks_.size());
    successors_.resize(plan_.ops.size());
    for (std::size_t i = 0; i < plan_.ops.size(); ++i) {
      const Op& op = plan_.ops[i];
      for (const OpId a : op.after) successors_[a.index()].push_back(static_cast<int>(i));
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
    return c == nullptr || meetings_->takes_part(*c, Rank(rank));
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
        meetings_->start_stage(e.payload, e.time, wakeups_);
        return schedule_wakeups();
      case EventKind::leave:
        return leave(e.rank, e.payload, e.time);
      case EventKind::host:
        return host(e.rank, e.time);
    }
  }

  // The host stays with such an op until it is complete.
  static bool host_waits(const Op& op) {
    const auto* p = std::get_if<Permute>(&op.work);
    const auto* g = std::get_if<GroupedGemm>(&op.work);
    return (p != nullptr && p->launch.host_waits) || (g != nullptr && g->launch.host_waits);
  }

  // Parameters travel beside everything else: the host waits for them nowhere, only their readers do.
  static constexpr int parameter_stream = 3;

  // Issues ops until the host has to wait for the device.
  void host(Rank r, Picoseconds now) {
    RankState& rank = ranks_[r.index()];
    rank.host_free = std::max(rank.host_free, now);
    while (rank.next_to_launch < ops_of_rank_[r.index()].size()) {
      const int i = ops_of_rank_[r.index()][rank.next_to_launch];
      const Op& op = plan_.ops[static_cast<std::size_t>(i)];
      const bool sync = std::holds_alternative<HostSync>(op.work);
      const bool waits = host_waits(op);
      if ((sync || waits) && rank.incomplete > 0) {
        rank.host_waiting = true;
        return;
      }
      rank.host_waiting = false;
      ++rank.next_to_launch;
      if (sync) {
        sync_done(r, i, rank.host_free);
        continue;
      }
      if (op.stream != parameter_stream) ++rank.incomplete;
      const OpCost& cost = cost_of(r, i);
      OpState& s = state(r, i);
      s.launched = rank.host_free + cluster_.gpu.launch * std::min<std::int64_t>(1, cost.launches);
      rank.host_free += cluster_.gpu.launch * cost.launches;
      if (s.missing == 0) {
        s.ready = std::max(s.ready, Picoseconds(0));
        schedule(std::max(s.launched, s.ready), r, EventKind::try_start, i);
      }
      if (waits) {
        rank.host_waiting = true;
        return;
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

  // When the op's kernels end if the GPU is theirs. They queue behind each other; each starts when it is issued and its
  // predecessor is done.
  Picoseconds end_alone(const Op& op, const OpCost& cost, Picoseconds launched, Picoseconds now) const {
    if (cost.launches <= 1) return now + cost.device();
    const Picoseconds launch = cluster_.gpu.launch;
    Picoseconds t = now;
    Picoseconds issued = launched;
    const bool waits = host_waits(op);
    for (std::size_t k = 0; k < cost.kernels.size(); ++k) {
      if (waits && k > 0 && k % static_cast<std::size_t>(cost.set) == 0) issued = t + launch;
      t = std::max(t, issued) + cost.kernels[k];
      issued += launch;
    }
    return t;
  }

  // All that the op waits for on this rank is complete, and the host has issued it.
  void start(Rank r, int i, Picoseconds now) {
    OpState& s = state(r, i);
    if (s.started) return;
    s.started = true;
    const Op& op = plan_.ops[static_cast<std::size_t>(i)];
    if (std::holds_alternative<Collective>(op.work)) return enter(r, i, now);

    const OpCost& cost = cost_of(r, i);
    const Picoseconds device = cost.device();
    const Picoseconds t = end_alone(op, cost, s.launched, now);
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
    if (plan_.ops[static_cast<std::size_t>(i)].stream != parameter_stream) --rank.incomplete;
    if (rank.host_waiting && rank.incomplete == 0) schedule(now, r, EventKind::host, 0);
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
    const Meetings::Entry entry = meetings_->enter(r, OpId(i), now, wakeups_);
    ranks_[r.index()].gpu.reserve(now, entry.held);
    reschedule(r);
    const OpState& s = state(r, i);
    spans_.push_back({OpId(i), r, s.ready, now, now, now - s.ready, Picoseconds(0)});
    span_of_[key(r, i)] = spans_.size() - 1;
    if (entry.complete)
      for (const auto& [member, entered] : meetings_->entries(entry.meeting)) {
        Span& span = spans_[span_of_.at(key(member, i))];
        span.start = now;
        span.wait = now - entered;
      }
    schedule_wakeups();
  }

  void leave(Rank r, int meeting, Picoseconds now) {
    const Meetings::Visit visit = meetings_->visit(meeting, r);
    ranks_[r.index()].gpu.release(now, visit.held);
    reschedule(r);
    finish_op(r, visit.op.value(), now);
  }

  void schedule_wakeups() {
    for (const Meetings::Wakeup& w : wakeups_)
      schedule(w.time, w.rank, w.leave ? EventKind::leave : EventKind::collective_stage, w.meeting);
    wakeups_.clear();
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
      out.links.push_back({LinkId(l), totals[l].bytes, totals[l].busy, totals[l].full});
    }
    std::tie(out.network_early, out.network_late) = meetings_->network_error();
    out.link_intervals = meetings_->take_intervals();
    std::ranges::stable_sort(out.link_intervals, [](const LinkInterval& a, const LinkInterval& b) {
      return std::tie(a.start, a.link, a.op) < std::tie(b.start, b.link, b.op);
    });
    statistics_.flows = meetings_->flows();
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
  struct CachedCost {
    bool valid = false;
    std::vector<std::int32_t> key;
    OpCost cost;
  };
  std::vector<CachedCost> cost_cache_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::uint64_t sequence_ = 0;
  std::int64_t completed_ = 0;
  std::unique_ptr<Meetings> meetings_;
  std::vector<Meetings::Wakeup> wakeups_;
  std::vector<Span> spans_;
  std::unordered_map<std::uint64_t, std::size_t> span_of_;
  SimulationStatistics statistics_;
};

}  // namespace

Timeline simulate(const Plan& plan, const Cluster& cluster, const cost::KernelModel& kernels,
                  const SimulationOptions& options, SimulationStatistics* statistics) {
  return Engine(plan, cluster, kernels, options).run(statistics);
}

}  // namespace moesim::sim
