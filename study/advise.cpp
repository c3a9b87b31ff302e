#include "study/advise.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <numeric>

#include "models/load/part.hpp"
#include "moesim/error.hpp"
#include "study/resolve.hpp"
#include "support/parallel.hpp"

namespace moesim::study {
namespace {

// A strategy and the maps that it is given, if any.
struct Candidate {
  std::string name;
  ResolvedStrategy strategy;
  const placement::Judged* judged = nullptr;
};

using Given = std::map<std::string, strategies::OptionValue>;

ResolvedStrategy strategy_of(const std::string& kind, Given options) {
  const strategies::Strategy* s = strategies::find(kind);
  return {kind, s, strategies::Options(s->options, std::move(options))};
}

// Options of the scenario's first strategy of this kind, without those that say where experts are.
Given options_of(const Scenario& scenario, std::string_view kind) {
  Given out;
  for (const StrategyChoice& choice : scenario.strategies)
    if (choice.kind == kind) {
      for (const OptionValue& option : choice.options) out.emplace(option.key, option.value);
      break;
    }
  for (const char* key : {"placement", "map", "replicas", "replica_choice", "size", "capacity_factor"}) out.erase(key);
  return out;
}

int replicas_of(const AdviseRequest& request, const PlacingInput& in) {
  if (request.replicas >= 0) return request.replicas;
  const int gpus = in.shape.gpus;
  const int filled = in.shape.slots_per_gpu * gpus - in.info.experts;  // where experts do not divide by GPUs
  return in.shape.slots_per_gpu < in.info.experts ? filled + gpus : filled;
}

placement::Assessment assess_input(const PlacingInput& in, const AdviseRequest& request, int replicas) {
  placement::AssessRequest ask;
  ask.place.shape = in.shape;
  ask.place.shape.slots_per_gpu = placement::slots_for(in.info.experts, in.shape.gpus, replicas);
  ask.place.dispatch = request.dispatch;
  ask.place.groups = in.groups;
  ask.place.expert_bytes = in.expert_bytes;
  ask.tokens_per_step = in.tokens_per_step;
  ask.train_share = request.train_share;
  return placement::assess(*in.all, ask);
}

struct StepResult {
  Picoseconds step;
  double straggler = 1;
  MemoryPeak memory;
  bool fits = true;
  std::string infeasible;
};

void fill(Contender& out, const std::vector<StepResult>& steps, const std::vector<StepResult>& baseline) {
  std::vector<double> mine;
  std::vector<double> theirs;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (!steps[i].infeasible.empty()) {
      out.infeasible = steps[i].infeasible;
      return;
    }
    mine.push_back(static_cast<double>(steps[i].step.value()));
    if (baseline[i].infeasible.empty()) theirs.push_back(static_cast<double>(baseline[i].step.value()));
    out.straggler += (steps[i].straggler - 1) / static_cast<double>(steps.size());
    if (steps[i].memory.total >= out.memory.total) out.memory = steps[i].memory;
    out.fits = out.fits && steps[i].fits;
  }
  out.step = Picoseconds(std::accumulate(mine.begin(), mine.end(), std::int64_t{0}, [&](std::int64_t sum, double ps) {
    return sum + static_cast<std::int64_t>(ps) / static_cast<std::int64_t>(mine.size());
  }));
  if (theirs.size() == mine.size()) out.gain = placement::saving(theirs, mine);
}

}  // namespace

Advice advise(const std::string& path, const AdviseRequest& request, const RunOptions& options) {
  Advice out;
  out.request = request;
  Scenario scenario = expand(read_scenario(path)).front().scenario;
  scenario.cluster.overlays.insert(scenario.cluster.overlays.end(), options.overlays.begin(), options.overlays.end());
  out.input = placing_input(scenario, request.train_share, request.steps);
  const PlacingInput& in = out.input;
  const Setup setup = resolve(scenario);
  out.replicas = replicas_of(request, in);
  const placement::Assessment assessment = assess_input(in, request, out.replicas);
  out.skew = assessment.skew;
  out.bound_unreplicated = assessment.methods.front().plan.bound_unreplicated();

  std::vector<Candidate> candidates;
  const Given exchange = options_of(scenario, "expert_parallel");
  for (const placement::Judged& judged : assessment.methods) {
    Given given = exchange;
    given.emplace("replica_choice", std::string(to_string(request.dispatch)));
    candidates.push_back({std::string(to_string(judged.plan.method)), strategy_of("expert_parallel", given), &judged});
  }
  for (const char* kind : {"expert_sharding", "tensor_parallel"})
    candidates.push_back({kind, strategy_of(kind, options_of(scenario, kind)), nullptr});

  const std::int64_t tokens = in.tokens_per_step;
  out.steps = static_cast<int>(std::clamp<std::int64_t>(in.test->tokens() / tokens, 1, request.steps));
  if (in.test->tokens() < tokens)
    out.input.notes.push_back(
        fmt::format("a step has {} tokens, the judged window {}: they are repeated, and gains have no interval", tokens,
                    in.test->tokens()));
  std::vector<std::vector<StepResult>> results(candidates.size(),
                                               std::vector<StepResult>(static_cast<std::size_t>(out.steps)));
  std::mutex mutex;
  int done = 0;
  const int jobs = out.steps * static_cast<int>(candidates.size());
  parallel_for(jobs, [&](int job) {
    const auto c = static_cast<std::size_t>(job % static_cast<int>(candidates.size()));
    const int step = job / static_cast<int>(candidates.size());
    const Candidate& candidate = candidates[c];
    const load::Part routing(in.test, step * tokens, tokens);
    StepResult& result = results[c][static_cast<std::size_t>(step)];
    try {
      const Plan plan = candidate.strategy.strategy->plan(
          {setup.model, setup.cluster, setup.workload, routing, candidate.strategy.options, candidate.name, nullptr,
           candidate.judged != nullptr ? &candidate.judged->plan.maps : nullptr});
      const auto kernels = make_kernels(setup.calibration, setup.cluster.gpu);
      const Summary s = summarize(plan, predict(plan, setup, *kernels, options, false, {}), setup.cluster);
      result = {s.step, s.straggler, s.memory, s.fits, {}};
    } catch (const strategies::Infeasible& e) {
      result.infeasible = e.what();
    }
    const std::scoped_lock lock(mutex);
    ++done;
    if (options.progress) options.progress(static_cast<double>(done) / jobs, candidate.name);
  });

  for (std::size_t c = 0; c < candidates.size(); ++c) {
    Contender contender;
    contender.name = candidates[c].name;
    fill(contender, results[c], results.front());
    if (const placement::Judged* judged = candidates[c].judged) {
      contender.placed = true;
      contender.moving = judged->moving;
      contender.replica_memory = judged->replica_memory;
      contender.break_even = placement::break_even_steps(
          judged->moving.time, out.contenders.empty() ? contender.step : out.contenders.front().step, contender.step);
    }
    out.contenders.push_back(std::move(contender));
  }
  out.verdict = verdict(out);
  return out;
}

}  // namespace moesim::study
