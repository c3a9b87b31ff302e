#include "backend/cuda/virtual_ranks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace moesim::backend::gpu {

VirtualRanks::VirtualRanks(const Plan& plan, const Inputs& inputs, Device& device) : plan_(plan), device_(device) {
  RowMaps maps(plan, inputs);
  for (int r = 0; r < plan.ranks; ++r)
    programs_.push_back(std::make_unique<Program>(plan, inputs, maps, Rank(r), device));
  collectives_ = among_virtual_ranks(plan, [this](std::size_t op, Rank rank) {
    Program& program = *programs_[rank.index()];
    const auto* collective = std::get_if<CollectiveCall>(&program.call(op));
    return meeting_of_call(plan_, plan_.ops[op], collective != nullptr ? program.placed(*collective) : program.call(op),
                           rank);
  });
}

void VirtualRanks::stamped(std::size_t rank, std::size_t op, const std::function<void()>& work) {
  if (!stamps_) return work();
  const auto at = static_cast<int>(2 + 2 * timed_.size());  // after those of the whole run
  timed_.push_back({rank, op, at, at + 1});
  device_.stamp(at, 0);
  work();
  device_.stamp(at + 1, 0);
}

void VirtualRanks::issue(Step& step, double patience) {
  auto end = step.set_ends.begin();
  for (std::size_t c = 0; c < step.commands.size(); ++c) {
    device_.enqueue(step.commands[c], 0);
    for (; end != step.set_ends.end() && *end == c + 1; ++end) await(patience, "the run");
  }
  if (step.host_sync) await(patience, "the run");
}

void VirtualRanks::await(double patience, const std::string& op) {
  const auto unfinished = [&] {
    for (const Timed& t : timed_)
      if (!device_.reached(t.end)) return fmt::format("'{}' on rank {}", plan_.ops[t.op].name, t.rank);
    return op;
  };
  try {
    if (device_.finish(patience, [] { return false; })) return;
  } catch (const std::runtime_error& e) {
    throw std::runtime_error(fmt::format("{} failed at {}: {}", device_.description().name, unfinished(), e.what()));
  }
  const std::string late = unfinished();
  device_.abort();
  throw std::runtime_error(fmt::format("{} did not finish {} within {} s", device_.description().name, late, patience));
}

Nanoseconds VirtualRanks::run_all(double patience, bool stamps) {
  stamps_ = stamps;
  timed_.clear();
  for (const auto& program : programs_) program->reset();
  device_.flush_cache(0);
  device_.stamp(0, 0);
  for (std::size_t i = 0; i < plan_.ops.size(); ++i) {
    for (std::size_t r = 0; r < programs_.size(); ++r)
      if (programs_[r]->steps()[i].takes_part && collectives_[i].empty())
        stamped(r, i, [&] { issue(programs_[r]->steps()[i], patience); });
    for (const std::vector<std::vector<Command>>& phase : collectives_[i])
      for (std::size_t r = 0; r < programs_.size(); ++r)
        if (programs_[r]->steps()[i].takes_part)
          stamped(r, i, [&] {
            for (const Command& c : phase[r]) device_.enqueue(c, 0);
          });
  }
  device_.stamp(1, 0);
  await(patience, "the run");
  return std::llround(device_.nanoseconds(0, 1));
}

std::vector<std::vector<Nanoseconds>> VirtualRanks::run(double patience) {
  run_all(patience, true);
  std::vector<std::vector<Nanoseconds>> out(programs_.size(), std::vector<Nanoseconds>(plan_.ops.size(), -1));
  for (const Timed& t : timed_) {
    Nanoseconds& sum = out[t.rank][t.op];
    sum = std::max<Nanoseconds>(sum, 0) + Nanoseconds{std::llround(device_.nanoseconds(t.begin, t.end))};
  }
  return out;
}

double VirtualRanks::stamp_overhead(double patience) {
  const auto with = static_cast<double>(run_all(patience, true));
  const auto without = static_cast<double>(run_all(patience, false));
  return without > 0 ? (with - without) / without : 0;
}

}  // namespace moesim::backend::gpu
