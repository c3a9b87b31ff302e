#include "backend/cuda/virtual_ranks.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "backend/host/phase.hpp"
#include "backend/host/training.hpp"

namespace moesim::backend::gpu {
namespace {

// What a member does in one phase: it fetches the pieces that others offer, or adds them up.
std::vector<Command> commands_of(const Op& op, const Meeting& mine, std::size_t phase,
                                 const std::vector<const Meeting*>& members) {
  std::vector<Command> out;
  const Phase& p = mine.phases[phase];
  const auto source = [&](std::size_t from, std::size_t piece) {
    return members[from]->phases[phase].offers[mine.member][piece].data;
  };
  for (std::size_t j = 0; j < p.takes.size(); ++j)
    for (std::size_t i = 0; i < p.takes[j].size(); ++i) {
      const Piece& piece = p.takes[j][i];
      if (piece.data == nullptr || piece.bytes == 0 || piece.data == source(j, i)) continue;
      out.emplace_back(CopyBytes{piece.data, source(j, i), piece.bytes});
    }
  for (const backend::Sum& s : p.sums) {
    if (s.elements == 0) continue;
    if (s.terms.size() > Sum::most)
      throw Refused(
          fmt::format("op '{}': {} ranks add up, and a kernel {} results at most", op.name, s.terms.size(), Sum::most));
    Sum sum;
    for (const auto& [member, piece] : s.terms) sum.terms.push_back({source(member, piece), s.dtype});
    sum.elements = s.elements;
    sum.dtype = s.dtype;
    sum.y = s.out;
    out.emplace_back(std::move(sum));
  }
  return out;
}

}  // namespace

VirtualRanks::VirtualRanks(const Plan& plan, const Inputs& inputs, Device& device) : plan_(plan), device_(device) {
  RowMaps maps(plan, inputs);
  for (int r = 0; r < plan.ranks; ++r)
    programs_.push_back(std::make_unique<Program>(plan, inputs, maps, Rank(r), device));
  collectives_.resize(plan.ops.size());
  lower_collectives();
}

void VirtualRanks::lower_collectives() {
  for (std::size_t i = 0; i < plan_.ops.size(); ++i) {
    if (!std::holds_alternative<Collective>(plan_.ops[i].work)) continue;
    std::vector<Meeting> meetings(programs_.size());
    std::size_t phases = 0;
    for (std::size_t r = 0; r < programs_.size(); ++r) {
      if (const auto* call = std::get_if<CollectiveCall>(&programs_[r]->call(i)))
        meetings[r] = meeting_of(plan_, plan_.ops[i], programs_[r]->placed(*call), Rank(r));
      else if (const auto* training = std::get_if<TrainingCall>(&programs_[r]->call(i)))
        meetings[r] = meeting_of(plan_, plan_.ops[i], *training, Rank(r));
      phases = std::max(phases, meetings[r].phases.size());
    }
    collectives_[i].assign(phases, std::vector<std::vector<Command>>(programs_.size()));
    for (std::size_t r = 0; r < programs_.size(); ++r) {
      std::vector<const Meeting*> members;
      for (const Rank m : meetings[r].group) members.push_back(&meetings[m.index()]);
      for (std::size_t p = 0; p < meetings[r].phases.size(); ++p)
        collectives_[i][p][r] = commands_of(plan_.ops[i], meetings[r], p, members);
    }
  }
}

void VirtualRanks::stamped(std::size_t rank, std::size_t op, const std::function<void()>& work) {
  const auto at = static_cast<int>(2 * timed_.size());
  timed_.push_back({rank, op, at, at + 1});
  device_.stamp(at, 0);
  work();
  device_.stamp(at + 1, 0);
}

void VirtualRanks::issue(Step& step, double patience) {
  auto end = step.set_ends.begin();
  for (std::size_t c = 0; c < step.commands.size(); ++c) {
    device_.enqueue(step.commands[c], 0);
    for (; end != step.set_ends.end() && *end == c + 1; ++end) await(patience, {});
  }
  if (step.host_sync) await(patience, {});
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

std::vector<std::vector<Nanoseconds>> VirtualRanks::run(double patience) {
  timed_.clear();
  for (const auto& program : programs_) program->reset();
  device_.flush_cache(0);
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
  await(patience, "the run");
  std::vector<std::vector<Nanoseconds>> out(programs_.size(), std::vector<Nanoseconds>(plan_.ops.size(), -1));
  for (const Timed& t : timed_) {
    Nanoseconds& sum = out[t.rank][t.op];
    sum = std::max<Nanoseconds>(sum, 0) + static_cast<Nanoseconds>(device_.nanoseconds(t.begin, t.end) + 0.5);
  }
  return out;
}

}  // namespace moesim::backend::gpu
