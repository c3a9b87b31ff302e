#include "study/runner.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <stdexcept>

#include "backend/one_gpu.hpp"
#include "moesim/error.hpp"
#include "moesim/version.hpp"
#include "plan/timeline_file.hpp"
#include "strategies/load_history.hpp"
#include "study/one_gpu.hpp"
#include "support/files.hpp"
#include "support/parallel.hpp"

namespace moesim::study {
namespace {

// "model.experts=64,workload.sequences=8", fit for a file name.
std::string slug(const std::vector<std::pair<std::string, std::string>>& axes) {
  std::string out;
  for (const auto& [key, value] : axes) out += fmt::format("{}{}={}", out.empty() ? "" : ",", key, value);
  for (char& c : out)
    if (c == '/' || c == ' ' || c == '"') c = '_';
  return out;
}

std::string cluster_line(const Cluster& c) {
  return fmt::format("{} node{} x {} {}", c.nodes, c.nodes == 1 ? "" : "s", c.gpus_per_node, c.gpu.name);
}

std::string step_name(Workload::Phase phase) {
  switch (phase) {
    case Workload::Phase::encode:
      return "step";
    case Workload::Phase::prefill:
      return "TTFT";
    case Workload::Phase::decode:
      return "TPOT";
    case Workload::Phase::train:
      return "iteration";
  }
  return {};
}

backend::Measurement measure(const Plan& plan, const Setup& setup, const RunOptions& options,
                             const std::function<void(double)>& progress) {
  backend::RunOptions measurement = options.measurement;
  const auto asked = measurement.progress;
  measurement.progress = [&](double done) {
    progress(done);
    return !asked || asked(done);
  };
  return options.executor->run(plan, {*setup.routing}, measurement);
}

// What a plan says about the making of its expert maps.
std::string placement_of(const Plan& plan) {
  const auto option = [&](const char* name) {
    const auto at = plan.options.find(name);
    return at == plan.options.end() ? std::string() : at->second;
  };
  if (!option("map").empty()) return fmt::format("experts placed as in {}", option("map"));
  if (option("planned_on").empty()) return {};
  const std::string path = option("placement_path");
  return fmt::format("experts placed by {}{}, {} replicas a layer, planned on {}; max/mean there {}",
                     option("placement"), path.empty() ? "" : fmt::format(" ({})", path), option("replicas"),
                     option("planned_on"), option("planned_max_over_mean"));
}

// What a strategy did at one point goes to files: its ops, a trace, its timeline.
void write_files(const std::string& prefix, const Plan& plan, const Timeline& timeline, const Cluster& cluster,
                 const Errors& known, const std::string& method) {
  if (prefix.empty()) return;
  write_ops_csv(prefix + ".ops.csv", plan, timeline, known);
  write_trace(prefix + ".trace.json", plan, timeline, cluster);
  write_timeline(timeline_file(plan, timeline, method), prefix + ".timeline.json");
}

std::string prediction_of(const Setup& setup, const RunOptions& options) {
  if (options.one_gpu)
    return fmt::format("predicted by moesim {} for virtual ranks on one {}", version, setup.cluster.gpu.name);
  return fmt::format("predicted by moesim {} for {}", version, cluster_line(setup.cluster));
}

// Files are of the last iteration. Plans follow from loads and from what was decided before, never from times: a few
// are made, then simulated side by side. Memory is the same however many iterations there are.
void run_iterations(const Setup& setup, const ResolvedStrategy& chosen, const RunOptions& options,
                    const std::string& prefix, int side_by_side, const std::function<void(double)>& progress,
                    StrategyResult& out) {
  const std::unique_ptr<load::LoadSequence> loads = setup.loads();
  strategies::LoadHistory past;
  IterationMean mean;
  const auto kernels = make_kernels(setup.calibration, setup.cluster.gpu);
  for (int first = 0; first < setup.iterations; first += side_by_side) {
    std::vector<Plan> plans;
    for (int i = first; i < std::min(first + side_by_side, setup.iterations); ++i) {
      if (i > 0) loads->advance();
      const std::unique_ptr<const Routing> routing = loads->routing();
      plans.push_back(chosen.strategy->plan({setup.model, setup.cluster, setup.workload, *routing, chosen.options,
                                             chosen.label, nullptr, nullptr, &past, kernels.get()}));
      past.record(*routing);
    }
    std::vector<Summary> summaries(plans.size());
    parallel_for(static_cast<int>(plans.size()), [&](int i) {
      const Plan& plan = plans[static_cast<std::size_t>(i)];
      const bool last = first + i + 1 == setup.iterations;
      const Timeline timeline = predict(plan, setup, *kernels, options, last && !prefix.empty(), {});
      // Relative errors are alike in all iterations: those of the last stand for the mean.
      const Errors known = last ? errors(plan, timeline, setup.cluster, *kernels, setup.calibration) : Errors{};
      if (last) write_files(prefix, plan, timeline, setup.cluster, known, prediction_of(setup, options));
      summaries[static_cast<std::size_t>(i)] = summarize(plan, timeline, setup.cluster, known);
    });
    for (const Summary& s : summaries) {
      mean.add(s);
      if (setup.iterations > 1) out.iterations.push_back(point_of(s));
    }
    progress(static_cast<double>(first + static_cast<int>(plans.size())) / setup.iterations);
  }
  out.summary = mean.summary();
}

// One strategy at one point.
StrategyResult run_strategy(const Setup& setup, const ResolvedStrategy& chosen, const RunOptions& options,
                            const std::string& directory, int side_by_side,
                            const std::function<void(double)>& progress) {
  StrategyResult out;
  out.label = chosen.label;
  out.kind = chosen.plan ? "plan file" : std::string(chosen.strategy->name);
  const std::string prefix = directory.empty() ? "" : directory + "/" + chosen.label;
  if (options.measurement.progress && !options.measurement.progress(0)) {
    out.infeasible = "not measured: the run was interrupted";
    out.interrupted = true;
    return out;
  }
  Plan plan;
  try {
    // With real numbers, and on one GPU, it is the first iteration.
    if (setup.loads && options.executor == nullptr && !options.one_gpu && !chosen.plan) {
      run_iterations(setup, chosen, options, prefix, side_by_side, progress, out);
      return out;
    }
    plan = make_plan(setup, chosen);
  } catch (const strategies::Infeasible& e) {
    out.infeasible = e.what();
    return out;
  }
  out.placement = placement_of(plan);
  Timeline timeline;
  Errors known;  // of predictions; measurements have none
  std::string method = prediction_of(setup, options);
  try {
    if (options.executor == nullptr) {
      const auto kernels = make_kernels(setup.calibration, setup.cluster.gpu);
      timeline = options.one_gpu ? predict_on_one_gpu(plan, setup, *kernels)
                                 : predict(plan, setup, *kernels, options, !directory.empty(), progress);
      known = errors(plan, timeline, setup.cluster, *kernels, setup.calibration);
      if (options.one_gpu) copies_for_collectives(plan, known);
    } else {
      out.measured = measure(plan, setup, options, progress);
      timeline = out.measured->timeline;
      method = out.measured->method;
    }
  } catch (const backend::Refused& e) {
    out.infeasible = e.what();
    return out;
  }
  out.summary = summarize(plan, timeline, setup.cluster, known);
  write_files(prefix, plan, timeline, setup.cluster, known, method);
  return out;
}

void rank_strategies(PointResult& point, const Scenario& scenario) {
  const auto baseline = std::ranges::find(point.strategies, scenario.report.baseline, &StrategyResult::label);
  if (baseline != point.strategies.end() && baseline->infeasible.empty()) {
    const Summary reference = baseline->summary;
    for (StrategyResult& s : point.strategies) {
      if (!s.infeasible.empty()) continue;
      if (s.summary.step.value() > 0) s.to_baseline = reference.step / s.summary.step;
      if (s.summary.moe_layer.value() > 0) s.layer_to_baseline = reference.moe_layer / s.summary.moe_layer;
    }
  }
  const auto value = [&](const StrategyResult& s) -> std::int64_t {
    switch (scenario.report.sort) {
      case ReportChoice::Sort::step:
        return s.summary.step.value();
      case ReportChoice::Sort::moe_layer:
        return s.summary.moe_layer.value();
      case ReportChoice::Sort::memory:
        return s.summary.memory.total.value();
      case ReportChoice::Sort::scenario:
        return 0;
    }
    return 0;
  };
  std::ranges::stable_sort(point.strategies, [&](const StrategyResult& a, const StrategyResult& b) {
    const auto key = [&](const StrategyResult& s) {
      return std::tuple(!s.infeasible.empty(), s.infeasible.empty() && !s.summary.fits, value(s));
    };
    return key(a) < key(b);
  });
}

// Says before anything is computed that nothing can be written there. Files of strategies that an earlier study left
// would be taken for this one's.
void prepare(const std::string& directory) {
  namespace fs = std::filesystem;
  if (fs::exists(directory + "/report.json"))
    for (const auto& entry : fs::directory_iterator(directory))
      for (const std::string_view ending : {".timeline.json", ".ops.csv", ".trace.json"})
        if (entry.is_regular_file() && entry.path().string().ends_with(ending)) fs::remove(entry.path());
  const std::string probe = directory + "/.moesim";
  write_file(probe, "");
  fs::remove(probe);
}

std::vector<PublishedRow> compare_published(const Scenario& scenario, const std::vector<PointResult>& points) {
  std::vector<PublishedRow> rows;
  for (const Published& p : scenario.published) {
    PublishedRow row{p.strategy, p.metric, p.at, p.value, std::nullopt, p.unit, p.used_in_fit, p.source};
    for (const PointResult& point : points) {
      const bool here = std::ranges::all_of(
          p.at, [&](const auto& axis) { return std::ranges::find(point.axes, axis) != point.axes.end(); });
      const auto found = std::ranges::find(point.strategies, p.strategy, &StrategyResult::label);
      if (!here || found == point.strategies.end() || !found->infeasible.empty()) continue;
      row.predicted = metric_value(*found, p.metric);
      break;
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace

Timeline predict(const Plan& plan, const Setup& setup, const cost::KernelModel& kernels, const RunOptions& options,
                 bool link_intervals, const std::function<void(double)>& progress) {
  sim::SimulationOptions simulation;
  const SimulationChoice& c = setup.simulation;
  using Kind = sim::Fidelity::Kind;
  simulation.fidelity =
      options.fidelity.value_or(sim::Fidelity{c.exact ? Kind::exact : Kind::bounded, c.network_error});
  simulation.link_intervals = link_intervals;
  simulation.progress = progress;
  return sim::simulate(plan, setup.cluster, kernels, simulation);
}

double metric_value(const StrategyResult& result, std::string_view metric) {
  const Summary& s = result.summary;
  if (metric == "step_ms") return to_milliseconds(s.step);
  if (metric == "moe_layer_ms") return to_milliseconds(s.moe_layer);
  if (metric == "speedup") return result.to_baseline;
  if (metric == "moe_layer_speedup") return result.layer_to_baseline;
  if (metric == "straggler") return s.straggler;
  if (metric == "memory_gb") return static_cast<double>(s.memory.total.value()) / 1e9;
  if (metric == "sent_bytes") return static_cast<double>(s.sent.value());
  if (metric == "received_bytes") return static_cast<double>(s.received.value());
  if (metric == "dropped") return s.dropped;
  throw std::logic_error("no metric " + std::string(metric));
}

Plan make_plan(const Setup& setup, const ResolvedStrategy& strategy) {
  if (strategy.plan) return *strategy.plan;
  return strategy.strategy->plan({setup.model, setup.cluster, setup.workload, *setup.routing, strategy.options,
                                  strategy.label, setup.history.get()});
}

StudyResult run_study(const Scenario& scenario, const RunOptions& options) {
  std::vector<ScenarioPoint> points = expand(scenario);
  for (ScenarioPoint& p : points) {
    p.scenario.cluster.force = options.force;
    p.scenario.cluster.overlays.insert(p.scenario.cluster.overlays.end(), options.overlays.begin(),
                                       options.overlays.end());
  }
  StudyResult out;
  out.name = scenario.name;
  out.description = scenario.description;
  out.scenario = scenario.path;
  out.baseline = scenario.report.baseline;
  if (options.executor != nullptr) out.executor = options.executor->name();

  std::vector<Setup> setups;
  setups.reserve(points.size());
  struct Job {
    std::size_t point;
    std::size_t strategy;
  };
  std::vector<Job> jobs;
  for (const ScenarioPoint& p : points) {
    setups.push_back(resolve(p.scenario));
    Setup& s = setups.back();
    if (!options.plan.empty()) {
      if (points.size() > 1)
        throw InputError({scenario.path, 0, 0}, "has a sweep, and a plan is for one point of it",
                         "give a scenario without [[sweep]], or no --plan");
      s.strategies.clear();
      s.strategies.push_back(strategy_of_plan(options.plan, s));
      if (const std::string why = backend::misfit(*s.strategies.front().plan, {*s.routing}); !why.empty())
        throw InputError({options.plan, 0, 0}, why, "give the scenario that the plan was made from, or mend the plan");
    }
    PointResult& r = out.points.emplace_back();
    r.axes = p.axes;
    r.model = s.model.name;
    r.cluster = cluster_line(s.cluster);
    r.routing = s.routing->description();
    r.routing_synthetic = s.routing->synthetic();
    r.workload = to_string(s.workload);
    r.calibration = options.executor == nullptr ? s.calibration.line : "none: measured";
    if (options.one_gpu) r.calibration += "; all ranks on one GPU, one op at a time: collectives are copies there";
    r.step = step_name(s.workload.phase);
    r.strategies.resize(s.strategies.size());
    for (std::size_t i = 0; i < s.strategies.size(); ++i) jobs.push_back({setups.size() - 1, i});
  }

  if (!options.out_dir.empty()) prepare(options.out_dir);
  const int count = static_cast<int>(jobs.size());
  const int side_by_side = std::max(1, threads() / std::max(1, count));  // iterations of one job
  std::mutex mutex;
  std::vector<double> shares(jobs.size());
  const auto run_job = [&](int j) {
    const Job& job = jobs[static_cast<std::size_t>(j)];
    const Setup& setup = setups[job.point];
    const auto progress = [&](double share) {
      if (!options.progress) return;
      const std::scoped_lock lock(mutex);
      shares[static_cast<std::size_t>(j)] = share;
      double sum = 0;
      for (const double s : shares) sum += s;
      options.progress(sum / static_cast<double>(shares.size()), setup.strategies[job.strategy].label);
    };
    progress(0);
    std::string directory;
    if (!options.out_dir.empty()) {
      directory = options.out_dir;
      if (!points[job.point].axes.empty()) directory += "/" + slug(points[job.point].axes);
    }
    out.points[job.point].strategies[job.strategy] =
        run_strategy(setup, setup.strategies[job.strategy], options, directory, side_by_side, progress);
    progress(1);
  };
  if (options.executor == nullptr) {
    parallel_for(count, run_job);
  } else {
    for (int j = 0; j < count; ++j) run_job(j);
  }
  for (std::size_t p = 0; p < points.size(); ++p) rank_strategies(out.points[p], points[p].scenario);
  out.published = compare_published(scenario, out.points);
  if (!options.out_dir.empty()) write_file(options.out_dir + "/report.json", report_json(out));
  return out;
}

}  // namespace moesim::study
