#include "backend/cuda/among_virtual_ranks.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "backend/bind.hpp"
#include "backend/host/clock.hpp"
#include "backend/host/training.hpp"
#include "backend/one_gpu.hpp"

namespace moesim::backend {
namespace gpu {
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

Meeting meeting_of_call(const Plan& plan, const Op& op, const Call& call, Rank rank) {
  if (const auto* c = std::get_if<CollectiveCall>(&call)) return meeting_of(plan, op, *c, rank);
  if (const auto* t = std::get_if<TrainingCall>(&call)) return meeting_of(plan, op, *t, rank);
  return {};
}

std::vector<Phases> among_virtual_ranks(const Plan& plan,
                                        const std::function<Meeting(std::size_t op, Rank)>& meeting_at) {
  const auto ranks = static_cast<std::size_t>(plan.ranks);
  std::vector<Phases> out(plan.ops.size());
  for (std::size_t i = 0; i < plan.ops.size(); ++i) {
    if (!std::holds_alternative<Collective>(plan.ops[i].work)) continue;
    std::vector<Meeting> meetings(ranks);
    std::size_t phases = 0;
    for (std::size_t r = 0; r < ranks; ++r) {
      meetings[r] = meeting_at(i, Rank(r));
      phases = std::max(phases, meetings[r].phases.size());
    }
    out[i].assign(phases, std::vector<std::vector<Command>>(ranks));
    for (std::size_t r = 0; r < ranks; ++r) {
      std::vector<const Meeting*> members;
      for (const Rank m : meetings[r].group) members.push_back(&meetings[m.index()]);
      for (std::size_t p = 0; p < meetings[r].phases.size(); ++p)
        out[i][p][r] = commands_of(plan.ops[i], meetings[r], p, members);
    }
  }
  return out;
}

}  // namespace gpu

namespace {

// The calls of all ranks, [rank][op]. Binding and meeting only reckon with addresses, so that made-up ones serve.
std::vector<std::vector<Call>> bound_on_paper(const Plan& plan, const Inputs& inputs) {
  constexpr std::uintptr_t apart = 256;
  std::uintptr_t next = apart;
  const auto room = [&](DType dtype, std::int64_t rows, std::int64_t cols) {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): nothing is there, and nobody looks
    const Tensor t{reinterpret_cast<std::byte*>(next), dtype, rows, cols};
    next += (static_cast<std::uintptr_t>(t.bytes()) / apart + 1) * apart;
    return t;
  };
  RowMaps maps(plan, inputs);
  std::vector<std::vector<Call>> calls;
  for (int r = 0; r < plan.ranks; ++r) {
    std::vector<Tensor> buffers;
    for (const Buffer& b : plan.buffers) buffers.push_back(room(b.dtype, plan.rows(b.rows, Rank(r)), b.cols));
    const auto before = [&](BufferId id) {
      const Buffer b = at_start(plan, id, Rank(r));
      return room(b.dtype, plan.rows(b.rows, Rank(r)), b.cols);
    };
    calls.push_back(
        bind(plan, inputs, maps, Rank(r), {"here", [&](BufferId id) { return buffers[id.index()]; }, before}));
    for (Call& call : calls.back())
      if (auto* c = std::get_if<CollectiveCall>(&call); c != nullptr && !c->counts.empty())
        c->in = room(c->in.dtype, c->in.rows, c->in.cols);
  }
  return calls;
}

}  // namespace

std::string misfit(const Plan& plan, const Inputs& inputs) {
  for (const Buffer& b : plan.buffers)
    if (!computable(b.dtype) && b.dtype != DType::i32) return {};
  try {
    static_cast<void>(bound_on_paper(plan, inputs));
  } catch (const Refused& e) {
    return e.what();
  }
  return {};
}

std::vector<PaperCollective> collectives_on_one_gpu(const Plan& plan, const Inputs& inputs) {
  const std::vector<std::vector<Call>> calls = bound_on_paper(plan, inputs);
  const auto phases = gpu::among_virtual_ranks(plan, [&](std::size_t op, Rank rank) {
    return gpu::meeting_of_call(plan, plan.ops[op], calls[rank.index()][op], rank);
  });
  std::vector<PaperCollective> out(phases.size());
  for (std::size_t op = 0; op < phases.size(); ++op)
    for (const auto& phase : phases[op]) {
      auto& bytes = out[op].emplace_back(phase.size());
      for (std::size_t r = 0; r < phase.size(); ++r)
        for (const gpu::Command& c : phase[r]) {
          const auto* sum = std::get_if<gpu::Sum>(&c);
          bytes[r].push_back(sum != nullptr
                                 ? storage(sum->elements, sum->dtype) * static_cast<std::int64_t>(sum->terms.size() + 1)
                                 : Bytes(2 * std::get<gpu::CopyBytes>(c).bytes));
        }
    }
  return out;
}

Timeline compose(const Plan& plan, const std::vector<std::vector<Picoseconds>>& durations) {
  std::vector<std::vector<Nanoseconds>> rounded(durations.size());
  for (std::size_t r = 0; r < durations.size(); ++r)
    for (const Picoseconds d : durations[r]) rounded[r].push_back(d.value() < 0 ? -1 : (d.value() + 500) / 1000);
  return composed_timeline(plan, rounded);
}

}  // namespace moesim::backend
