#include "study/summary.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <map>
#include <set>

#include "study/moe_layers.hpp"
#include "support/text.hpp"

namespace moesim::study {
namespace {

Part part_of(Category c) {
  switch (c) {
    case Category::attention:
      return Part::attention;
    case Category::gate:
      return Part::gate;
    case Category::dispatch:
      return Part::dispatch;
    case Category::experts:
      return Part::experts;
    case Category::combine:
      return Part::combine;
    case Category::dense:
      return Part::dense;
    case Category::embedding:
      return Part::embedding;
    case Category::parameters:
      return Part::parameters;
    case Category::optimizer:
      return Part::optimizer;
    case Category::other:
      return Part::other;
  }
  return Part::other;
}

// A stretch of a rank's time that an op claims; the claim of the highest rank in `claim order` wins.
struct Claim {
  Picoseconds begin;
  Picoseconds end;
  int order;  // 0 kernels, 1 transfers, 2 waiting, 3 launching
  Part part;
  std::size_t op;
};

void claims_of(const Op& op, const Span& s, std::vector<Claim>& out) {
  const Part part = part_of(op.category);
  const auto add = [&](Picoseconds from, Picoseconds to, int order, Part p) {
    if (from < to) out.push_back({from, to, order, p, s.op.index()});
  };
  if (std::holds_alternative<Collective>(op.work)) {
    add(s.ready, s.ready + s.launch, 3, Part::launch);
    add(s.ready + s.launch, s.start, 2, Part::wait);
    add(s.start, s.end, 1, part);
    return;
  }
  if (std::holds_alternative<HostSync>(op.work)) return add(s.ready, s.end, 3, Part::launch);
  // Time that the kernels of one op waited for the host lies between them; it is shown after them.
  const Picoseconds starved = s.launch - (s.start - s.ready);
  add(s.ready, s.start, 3, Part::launch);
  add(s.start, s.end - starved, op.stream == 0 ? 0 : 1, part);
  add(s.end - starved, s.end, 3, Part::launch);
}

void expose(const Claim& c, Picoseconds time, Exposure& out) {
  (c.order == 3 ? out.launch_us : c.order == 2 ? out.wait_us : out.op_us[c.op]) += to_microseconds(time);
}

struct Shares {
  std::array<Picoseconds, part_count>& parts;
  Exposure step, moe_layer;
};

// Sweeps the claims of one rank; adds to `shares`.
void sweep(const std::vector<bool>& moe, std::vector<Claim>& claims, Picoseconds step, Shares& shares) {
  std::array<Picoseconds, part_count>& parts = shares.parts;
  struct Edge {
    Picoseconds time;
    bool begins;
    const Claim* claim;
  };
  std::vector<Edge> edges;
  edges.reserve(2 * claims.size());
  for (const Claim& c : claims) {
    edges.push_back({c.begin, true, &c});
    edges.push_back({c.end, false, &c});
  }
  std::ranges::sort(edges, [](const Edge& a, const Edge& b) { return a.time < b.time; });
  const auto less = [](const Claim* a, const Claim* b) {
    return std::pair(a->order, a) < std::pair(b->order, b);  // claims lie in one vector
  };
  std::set<const Claim*, decltype(less)> active(less);
  Picoseconds now;
  for (const Edge& e : edges) {
    const Part part = active.empty() ? Part::idle : (*active.begin())->part;
    parts[static_cast<std::size_t>(part)] += e.time - now;
    if (!active.empty()) {
      const Claim& claim = **active.begin();
      expose(claim, e.time - now, shares.step);
      if (moe[claim.op]) expose(claim, e.time - now, shares.moe_layer);
    }
    now = e.time;
    if (e.begins) {
      active.insert(e.claim);
    } else {
      active.erase(e.claim);
    }
  }
  parts[static_cast<std::size_t>(Part::idle)] += step - now;
}

std::string bottleneck(const Summary& s, const Cluster& cluster) {
  const auto largest = static_cast<std::size_t>(std::ranges::max_element(s.parts) - s.parts.begin());
  const Part part = static_cast<Part>(largest);
  const double share = s.step.value() > 0 ? 100.0 * (s.parts[largest] / s.step) : 0;
  std::string out = fmt::format("{} takes {:.0f} % of the step", to_string(part), share);
  if (s.straggler > 1.02)
    out += fmt::format("; rank {} (node {}) has most expert work, the slowest of a layer {:.2f} times the mean",
                       s.slowest.value(), s.slowest.value() / cluster.gpus_per_node, s.straggler);
  if (!s.links.empty())
    out += fmt::format("; busiest link {} (in use for {:.0f} % of the step, {:.0f} % full then)", s.links.front().name,
                       100 * s.links.front().busy, 100 * s.links.front().utilization);
  if (!s.full.empty() && s.full.front().share >= 0.01)
    out += fmt::format("; {} full for {:.0f} % of the time of collectives", s.full.front().name,
                       100 * s.full.front().share);
  return out;
}

constexpr std::size_t most_links = 5;

Picoseconds time_in_collectives(const Plan& plan, const Timeline& timeline) {
  std::vector<std::pair<Picoseconds, Picoseconds>> spans;
  for (const Span& s : timeline.spans)
    if (std::holds_alternative<Collective>(plan.op(s.op).work) && s.start < s.end) spans.emplace_back(s.start, s.end);
  std::ranges::sort(spans);
  Picoseconds total, until;
  for (const auto& [start, end] : spans) {
    if (end <= until) continue;
    total += end - std::max(start, until);
    until = end;
  }
  return total;
}

// "leaf5>n3/nic5" is in the group "leaf*>n3/nic*", "leaf5>spine0" in "leaf5>spine*".
std::string group_of(std::string_view link) {
  const auto digit = [&](std::size_t i) {
    return i < link.size() && std::isdigit(static_cast<unsigned char>(link[i]));
  };
  const auto word_begins = [&](std::size_t i) {
    return i == 0 || !std::isalnum(static_cast<unsigned char>(link[i - 1]));
  };
  std::size_t kept = std::string_view::npos;  // where the number that stays begins
  for (std::size_t i = 0; i + 1 < link.size() && kept == std::string_view::npos; ++i)
    if (link[i] == 'n' && word_begins(i) && digit(i + 1)) kept = i + 1;
  for (std::size_t i = 0; i < link.size() && kept == std::string_view::npos; ++i)
    if (digit(i)) kept = i;
  std::string out;
  for (std::size_t i = 0; i < link.size();) {
    if (!digit(i)) {
      out += link[i++];
      continue;
    }
    const std::size_t begin = i;
    while (digit(i)) ++i;
    out += begin == kept ? link.substr(begin, i - begin) : "*";
  }
  return out;
}

std::vector<FullLinks> full_links(const Timeline& timeline, const Cluster& cluster, Picoseconds network) {
  std::map<std::string, FullLinks> groups;
  for (const LinkUse& l : timeline.links) {
    if (l.full.value() == 0) continue;
    const std::string name = group_of(cluster.topology->links()[l.link.index()].name);
    FullLinks& g = groups[name];
    g.name = name;
    ++g.links;
    g.time = std::max(g.time, l.full);
  }
  std::vector<FullLinks> out;
  for (auto& [name, group] : groups) {
    group.share = network.value() > 0 ? std::min(group.time / network, 1.0) : 0;
    out.push_back(std::move(group));
  }
  std::ranges::stable_sort(out, std::greater<>{}, &FullLinks::time);
  if (out.size() > most_links) out.resize(most_links);
  return out;
}

}  // namespace

std::string_view to_string(Part part) {
  constexpr std::array<std::string_view, part_count> names{
      "attention", "gate",       "dispatch",  "experts", "combine", "dense", "embedding",
      "other",     "parameters", "optimizer", "waiting", "launch",  "idle"};
  return names[static_cast<std::size_t>(part)];
}

Summary summarize(const Plan& plan, const Timeline& timeline, const Cluster& cluster, const Errors& errors) {
  Summary out;
  out.step = timeline.makespan;
  const auto ranks = static_cast<std::size_t>(plan.ranks);

  std::vector<std::vector<Claim>> claims(ranks);
  for (const Span& s : timeline.spans) claims_of(plan.op(s.op), s, claims[s.rank.index()]);
  const std::vector<TimelineOp> ops = timeline_ops(plan);
  std::vector<bool> moe;
  for (const TimelineOp& op : ops) moe.push_back(in_moe_layer(op));

  Shares shares{out.parts, {}, {}};
  shares.step.op_us.resize(plan.ops.size());
  shares.moe_layer.op_us.resize(plan.ops.size());
  for (std::vector<Claim>& c : claims) sweep(moe, c, out.step, shares);
  out.step_interval = interval(errors, shares.step);
  out.moe_layer_interval = interval(errors, shares.moe_layer);
  out.outside = outside_range(errors, shares.step);
  for (Picoseconds& p : out.parts) p = p / plan.ranks;

  Picoseconds total;
  std::int64_t count = 0;
  for (const auto& [layer, time] : moe_layers(ops, timeline)) {
    total += time.sum;
    count += time.ranks;
  }
  if (count > 0) out.moe_layer = total / count;

  // The first expert GEMM of a layer has the layer's copies.
  std::vector<std::int64_t> load(ranks);
  double most_sum = 0;
  double mean_sum = 0;
  Layer seen;
  for (const Op& op : plan.ops) {
    const auto* g = std::get_if<GroupedGemm>(&op.work);
    if (g == nullptr || op.layer == seen || op.pass != Pass::forward) continue;
    seen = op.layer;
    std::int64_t most = 0;
    std::int64_t sum = 0;
    for (std::size_t r = 0; r < ranks; ++r) {
      const std::int64_t rows = plan.table(g->rows).row_sum(static_cast<int>(r));
      load[r] += rows;
      most = std::max(most, rows);
      sum += rows;
    }
    most_sum += static_cast<double>(most);
    mean_sum += static_cast<double>(sum) / static_cast<double>(ranks);
  }
  if (mean_sum > 0) out.straggler = most_sum / mean_sum;
  out.slowest = Rank(static_cast<std::size_t>(std::ranges::max_element(load) - load.begin()));

  bool first = true;
  for (int r = 0; r < plan.ranks; ++r) {
    Bytes sent;
    Bytes received;
    Flops flops;
    for (const Op& op : plan.ops) {
      if (const auto* c = std::get_if<Collective>(&op.work)) {
        const Traffic t = traffic(plan, *c, Rank(r));
        sent += t.sent;
        received += t.received;
      } else if (const auto* g = std::get_if<GroupedGemm>(&op.work)) {
        flops += Flops(2 * plan.table(g->rows).row_sum(r)) * detail::checked_mul(g->n, g->k);
      }
    }
    out.sent = std::max(out.sent, sent);
    out.received = std::max(out.received, received);
    out.expert_flops_max = first ? flops : std::max(out.expert_flops_max, flops);
    out.expert_flops_min = first ? flops : std::min(out.expert_flops_min, flops);
    first = false;
  }

  out.together = on_one_gpu(timeline.kind);
  out.memory = out.together ? memory_of_all_ranks(plan) : worst_memory_peak(plan);
  out.memory_limit = cluster.gpu.memory - cluster.gpu.reserved;
  out.fits = out.memory.total <= out.memory_limit;
  if (plan.routed_copies > 0)
    out.dropped = static_cast<double>(plan.dropped_copies) / static_cast<double>(plan.routed_copies);

  // The busiest link is the one whose bytes take longest at its capacity.
  struct Loaded {
    LinkUse use;
    double seconds;
  };
  std::vector<Loaded> links;
  for (const LinkUse& l : timeline.links) {
    const Link& link = cluster.topology->links()[l.link.index()];
    links.push_back({l, static_cast<double>(l.bytes.value()) / link.capacity.value()});
  }
  std::ranges::stable_sort(links, std::greater<>{}, &Loaded::seconds);
  if (links.size() > most_links) links.resize(most_links);
  for (const auto& [use, seconds] : links)
    out.links.push_back({cluster.topology->links()[use.link.index()].name, use.bytes, use.busy / out.step,
                         use.busy.value() > 0 ? seconds / to_seconds(use.busy) : 0});
  out.network = time_in_collectives(plan, timeline);
  out.full = full_links(timeline, cluster, out.network);
  out.network_early = timeline.network_early;
  out.network_late = timeline.network_late;
  out.bottleneck = bottleneck(out, cluster);
  return out;
}

}  // namespace moesim::study
