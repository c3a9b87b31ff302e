// A study's result as files: report.json, ops.csv, Chrome trace.
#include "support/files.hpp"

#include <fmt/format.h>
#include <fmt/ostream.h>

#include <nlohmann/json.hpp>
#include <ostream>

#include "moesim/version.hpp"
#include "plan/timeline_file.hpp"
#include "study/result.hpp"

namespace moesim::study {
namespace {

using nlohmann::ordered_json;

ordered_json pairs(const std::vector<std::pair<std::string, std::string>>& items) {
  ordered_json out = ordered_json::object();
  for (const auto& [key, value] : items) out[key] = value;
  return out;
}

ordered_json to_json(const backend::Measurement& m) {
  ordered_json runs = ordered_json::array();
  for (const Picoseconds t : m.makespans) runs.push_back(to_microseconds(t));
  return {{"clock", to_string(m.timeline.kind)},
          {"method", m.method},
          {"median_us", to_microseconds(m.median())},
          {"spread", m.spread()},
          {"runs_us", runs},
          {"result_hash", fmt::format("{:016x}", m.result_hash)}};
}

// The 90 % interval; null without a calibration.
ordered_json bounds(Picoseconds time, const Interval& interval) {
  if (interval.log_sigma <= 0) return nullptr;
  // Whole picoseconds: the same text whatever the last bit of exp() on a machine.
  return {to_microseconds(scale(time, 1 / interval.reach())), to_microseconds(scale(time, interval.reach()))};
}

ordered_json to_json(const StrategyResult& r) {
  ordered_json out = {{"strategy", r.label}, {"kind", r.kind}, {"possible", r.infeasible.empty()}};
  if (!r.infeasible.empty()) {
    out["why_not"] = r.infeasible;
    return out;
  }
  if (!r.placement.empty()) out["placement"] = r.placement;
  const Summary& s = r.summary;
  out["step_us"] = to_microseconds(s.step);
  out["moe_layer_us"] = to_microseconds(s.moe_layer);
  if (r.measured) out["measured"] = to_json(*r.measured);
  out["step_us_90"] = bounds(s.step, s.step_interval);
  out["moe_layer_us_90"] = bounds(s.moe_layer, s.moe_layer_interval);
  out["outside_calibrated_range"] = s.outside;
  out["speedup"] = r.to_baseline;
  out["moe_layer_speedup"] = r.layer_to_baseline;
  out["straggler_factor"] = s.straggler;
  out["slowest_rank"] = s.slowest.value();
  out["dropped_share"] = s.dropped;
  out["sent_bytes_per_rank"] = s.sent.value();
  out["received_bytes_per_rank"] = s.received.value();
  out["expert_flops_per_rank"] = {{"min", s.expert_flops_min.value()}, {"max", s.expert_flops_max.value()}};
  ordered_json roles = ordered_json::object();
  for (const auto& [role, bytes] : s.memory.by_role) roles[std::string(to_string(role))] = bytes.value();
  out["memory"] = {{"peak_bytes", s.memory.total.value()},
                   {"limit_bytes", s.memory_limit.value()},
                   {"fits", s.fits},
                   {"by_role", roles}};
  ordered_json parts = ordered_json::object();
  for (std::size_t p = 0; p < part_count; ++p)
    parts[std::string(to_string(static_cast<Part>(p)))] = to_microseconds(s.parts[p]);
  out["parts_us"] = parts;
  ordered_json links = ordered_json::array();
  for (const BusyLink& l : s.links)
    links.push_back({{"link", l.name}, {"bytes", l.bytes.value()}, {"busy", l.busy}, {"utilization", l.utilization}});
  out["links"] = links;
  ordered_json full = ordered_json::array();
  for (const FullLinks& l : s.full)
    full.push_back({{"links", l.name}, {"count", l.links}, {"full_us", to_microseconds(l.time)}, {"share", l.share}});
  out["full_links"] = full;
  out["network_us"] = to_microseconds(s.network);
  if (!r.measured)
    out["step_us_network"] = {to_microseconds(s.step - s.network_early), to_microseconds(s.step + s.network_late)};
  out["bottleneck"] = s.bottleneck;
  if (r.iterations.empty()) return out;
  ordered_json iterations = ordered_json::array();
  for (const IterationPoint& i : r.iterations)
    iterations.push_back({{"step_us", to_microseconds(i.step)},
                          {"moe_layer_us", to_microseconds(i.moe_layer)},
                          {"parameters_us", to_microseconds(i.parameters)},
                          {"straggler_factor", i.straggler},
                          {"memory_peak_bytes", i.memory.value()}});
  out["iterations"] = iterations;
  return out;
}

}  // namespace

std::string report_json(const StudyResult& study) {
  ordered_json points = ordered_json::array();
  for (const PointResult& p : study.points) {
    ordered_json strategies = ordered_json::array();
    for (const StrategyResult& s : p.strategies) strategies.push_back(to_json(s));
    points.push_back({{"at", pairs(p.axes)},
                      {"model", p.model},
                      {"cluster", p.cluster},
                      {"workload", p.workload},
                      {"calibration", p.calibration},
                      {"routing", p.routing},
                      {"routing_synthetic", p.routing_synthetic},
                      {"strategies", strategies}});
  }
  ordered_json published = ordered_json::array();
  for (const PublishedRow& row : study.published)
    published.push_back({{"strategy", row.strategy},
                         {"metric", row.metric},
                         {"at", pairs(row.at)},
                         {"published", row.published},
                         {"predicted", row.predicted ? ordered_json(*row.predicted) : ordered_json()},
                         {"unit", row.unit},
                         {"used_in_fit", row.used_in_fit},
                         {"source", row.source}});
  ordered_json out = {{"report_version", report_version},
                      {"moesim_version", version},
                      {"study", study.name},
                      {"baseline", study.baseline},
                      {"feasible", study.feasible()},
                      {"points", points},
                      {"published", published}};
  if (!study.executor.empty()) out["executor"] = study.executor;
  return out.dump(2) + "\n";
}

void write_ops_csv(const std::string& path, const Plan& plan, const Timeline& timeline, const Errors& errors) {
  write_file(path, [&](std::ostream& out) {
    fmt::print(out,
               "strategy,op,kind,category,layer,rank,stream,ready_us,start_us,end_us,launch_us,wait_us,"
               "log_sigma,in_range\n");
    for (const Span& s : timeline.spans) {
      const Op& op = plan.op(s.op);
      const OpError e = errors.ops.empty() ? OpError{} : errors.ops[s.op.index()];
      fmt::print(out, "{},{},{},{},{},{},{},{:.6f},{:.6f},{:.6f},{:.6f},{:.6f},{:.4f},{}\n", plan.strategy, op.name,
                 to_string(op.work), to_string(op.category), op.layer.value(), s.rank.value(), op.stream,
                 to_microseconds(s.ready), to_microseconds(s.start), to_microseconds(s.end), to_microseconds(s.launch),
                 to_microseconds(s.wait), e.log_sigma, e.in_range ? 1 : 0);
    }
  });
}

void write_trace(const std::string& path, const Plan& plan, const Timeline& timeline, const Cluster& cluster) {
  constexpr std::array<const char*, 3> streams{"compute", "communication", "copies"};
  write_file(path, [&](std::ostream& out) {
    const char* separator = "\n";
    const auto event = [&](const std::string& json) {
      out << separator << json;
      separator = ",\n";
    };
    const auto name_of = [&](const char* what, int pid, int tid, const std::string& name) {
      event(fmt::format(R"({{"ph":"M","name":"{}","pid":{},"tid":{},"args":{{"name":"{}"}}}})", what, pid, tid, name));
    };
    out << "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[";
    for (int r = 0; r < timeline.ranks; ++r) {
      name_of("process_name", r, 0,
              fmt::format("rank {} (node {} GPU {})", r, r / cluster.gpus_per_node, r % cluster.gpus_per_node));
      for (std::size_t s = 0; s < streams.size(); ++s) name_of("thread_name", r, static_cast<int>(s), streams[s]);
    }
    for (const Span& s : timeline.spans) {
      const Op& op = plan.op(s.op);
      event(fmt::format(
          R"({{"ph":"X","name":"{}","cat":"{}","pid":{},"tid":{},"ts":{:.6f},"dur":{:.6f},"args":{{"op":"{}","ready_us":{:.3f},"launch_us":{:.3f},"wait_us":{:.3f}}}}})",
          op.name, to_string(op.category), s.rank.value(), op.stream, to_microseconds(s.start),
          to_microseconds(s.end - s.start), to_string(op.work), to_microseconds(s.ready), to_microseconds(s.launch),
          to_microseconds(s.wait)));
    }
    const int links = timeline.ranks;  // a process after the last rank
    name_of("process_name", links, 0, "links");
    std::vector<bool> named(cluster.topology->links().size());
    for (const LinkInterval& i : timeline.link_intervals) {
      const Link& link = cluster.topology->links()[i.link.index()];
      const int tid = i.link.value();
      if (!named[i.link.index()]) name_of("thread_name", links, tid, link.name);
      named[i.link.index()] = true;
      event(fmt::format(
          R"({{"ph":"X","name":"{}","cat":"link","pid":{},"tid":{},"ts":{:.6f},"dur":{:.6f},"args":{{"bytes":{}}}}})",
          plan.op(i.op).name, links, tid, to_microseconds(i.start), to_microseconds(i.end - i.start), i.bytes.value()));
    }
    out << "\n]}\n";
  });
}

}  // namespace moesim::study
