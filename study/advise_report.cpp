#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "study/advise.hpp"
#include "study/text_table.hpp"
#include "support/text.hpp"

namespace moesim::study {
namespace {

using nlohmann::ordered_json;

constexpr double worthwhile = 0.01;  // of a step; less is lost in what a prediction does not know

std::string percent(const placement::Interval& i) {
  return i.low == i.high ? fmt::format("{:.1f} %", 100 * i.mean)
                         : fmt::format("{:.1f} % [{:.1f}, {:.1f}]", 100 * i.mean, 100 * i.low, 100 * i.high);
}

std::string steps_text(const std::optional<std::int64_t>& steps) {
  return steps ? fmt::format("{} step{}", *steps, *steps == 1 ? "" : "s") : "no number of steps";
}

bool usable(const Contender& c) { return c.infeasible.empty() && c.fits; }

const Contender* best_of(const Advice& a, bool placed) {
  const Contender* best = nullptr;
  for (const Contender& c : a.contenders)
    if (&c != &a.contenders.front() && c.placed == placed && usable(c) && (best == nullptr || c.step < best->step))
      best = &c;
  return best;
}

std::string balancing(const Advice& a, const Contender* best) {
  if (best == nullptr) return "no balanced placement fits in memory";
  const bool experts_skewed = a.skew.experts > 1.1;
  const bool gpus_skewed = a.skew.gpus > 1.05;
  if (best->gain.mean < worthwhile) {
    const std::string why = !experts_skewed ? "experts are even"
                            : !gpus_skewed  ? "experts are skewed but GPUs are not"
                                            : "GPUs are uneven, but a step does not wait for that";
    return fmt::format("{}: balancing gains {}", why, percent(best->gain));
  }
  if (best->gain.low <= 0)
    return fmt::format("balancing gains {}: steps differ by more than that", percent(best->gain));
  return fmt::format(
      "balancing is worth it: {}{} saves {} of a step, takes {} more memory a GPU, and moving there pays "
      "after {}",
      best->name, a.replicas > 0 ? fmt::format(" with {} replicas a layer", a.replicas) : "", percent(best->gain),
      human_binary(best->replica_memory), steps_text(best->break_even));
}

ordered_json to_json(const Contender& c) {
  ordered_json out = {{"name", c.name}, {"possible", c.infeasible.empty()}};
  if (!c.infeasible.empty()) {
    out["why_not"] = c.infeasible;
    return out;
  }
  out["step_us"] = to_microseconds(c.step);
  out["saved"] = {{"mean", c.gain.mean}, {"low", c.gain.low}, {"high", c.gain.high}};
  out["straggler_factor"] = c.straggler;
  out["memory_peak_bytes"] = c.memory.total.value();
  out["fits"] = c.fits;
  if (!c.placed) return out;
  out["replica_bytes_per_gpu"] = c.replica_memory.value();
  out["moving"] = {{"experts", c.moving.moved},
                   {"bytes", c.moving.total.value()},
                   {"bytes_between_nodes", c.moving.between_nodes.value()},
                   {"least_us", to_microseconds(c.moving.time)}};
  if (c.break_even) out["moving"]["pays_after_steps"] = *c.break_even;
  return out;
}

}  // namespace

std::string verdict(const Advice& a) {
  const Contender& contiguous = a.contenders.front();
  const Contender* placed = best_of(a, true);
  const Contender* other = best_of(a, false);
  if (!usable(contiguous) && placed == nullptr && other == nullptr)
    return "nothing fits in memory: more GPUs, or smaller number formats";
  std::string out = balancing(a, placed);
  const Contender* best = placed != nullptr && (!usable(contiguous) || placed->step < contiguous.step) ? placed
                          : usable(contiguous)                                                         ? &contiguous
                                                                                                       : nullptr;
  if (other != nullptr && (best == nullptr || other->step < best->step))
    out += best == nullptr
               ? fmt::format("; {} fits and takes {} a step", other->name, human(other->step))
               : fmt::format("; {} is faster than any placement of whole experts: {} a step against {} of {}",
                             other->name, human(other->step), human(best->step), best->name);
  return out;
}

std::string render(const Advice& a) {
  const PlacingInput& in = a.input;
  std::string out = fmt::format("{}\nrouting: {}{}\n", in.title, in.routing, in.synthetic ? " (synthetic)" : "");
  out += fmt::format(
      "hottest expert / mean {:.2f}, fullest GPU / mean {:.2f} in order, at least {:.2f} without replicas\n",
      a.skew.experts, a.skew.gpus, a.bound_unreplicated);
  out += fmt::format("maps planned on {} tokens, judged on {} step{} of {} later ones; {} replicas a layer\n\n",
                     in.train->tokens(), a.steps, a.steps == 1 ? "" : "s", in.tokens_per_step, a.replicas);
  TextTable table(
      {"", "step", "saved, 95 %", "straggler", "peak memory", "fits", "replicas", "to move", "at least", "pays after"});
  for (const Contender& c : a.contenders) {
    if (!c.infeasible.empty()) continue;
    std::vector<std::string> row{c.name,
                                 human(c.step),
                                 percent(c.gain),
                                 fmt::format("{:.2f}", c.straggler),
                                 human_binary(c.memory.total),
                                 c.fits ? "yes" : "NO"};
    if (c.placed && c.moving.moved > 0) {
      row.push_back(human_binary(c.replica_memory));
      row.push_back(human(c.moving.total));
      row.push_back(human(c.moving.time));
      row.push_back(c.break_even ? steps_text(c.break_even) : "never");
    } else {
      row.insert(row.end(), 4, "-");
    }
    table.add(std::move(row));
  }
  out += table.text();
  for (const Contender& c : a.contenders)
    if (!c.infeasible.empty()) out += fmt::format("{}: not possible: {}\n", c.name, c.infeasible);
  for (const std::string& note : in.notes) out += fmt::format("note: {}\n", note);
  return out + fmt::format("\n{}\n", a.verdict);
}

std::string advice_json(const Advice& a) {
  ordered_json contenders = ordered_json::array();
  for (const Contender& c : a.contenders) contenders.push_back(to_json(c));
  const ordered_json out = {{"advice_version", 1},
                            {"input", a.input.title},
                            {"routing", a.input.routing},
                            {"routing_synthetic", a.input.synthetic},
                            {"tokens_per_step", a.input.tokens_per_step},
                            {"planned_tokens", a.input.train->tokens()},
                            {"judged_steps", a.steps},
                            {"replicas", a.replicas},
                            {"expert_skew", a.skew.experts},
                            {"gpu_skew", a.skew.gpus},
                            {"lower_bound_without_replicas", a.bound_unreplicated},
                            {"contenders", contenders},
                            {"notes", a.input.notes},
                            {"verdict", a.verdict}};
  return out.dump(1) + '\n';
}

}  // namespace moesim::study
