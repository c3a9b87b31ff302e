// One run of a plan over ranks, in each of the three ways: one at a time, as threads, as one of several processes.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "backend/host/clock.hpp"
#include "backend/host/program.hpp"
#include "backend/transport.hpp"

namespace moesim::backend {

using Programs = std::vector<std::unique_ptr<Program>>;

// Throws Refused when the given ranks do not fit into this computer's memory.
void check_memory(const Plan& plan, const std::vector<Rank>& ranks);
// Binds the plan for the given ranks, on parallel threads. Throws Refused when it cannot run here.
// The plan and the programs, of the same ranks, of the training step before.
struct RanksBefore {
  const Plan& plan;
  const Programs& programs;
};
Programs make_programs(const Plan& plan, const Inputs& inputs, const std::vector<Rank>& ranks,
                       const RanksBefore* before = nullptr);

// Combined over ranks, in their order.
std::uint64_t result_hash(const std::vector<std::uint64_t>& of_ranks);

// Every op on every rank, one after the other, in processor time. Returns [rank][op] durations.
std::vector<std::vector<Nanoseconds>> run_one_at_a_time(const Programs& programs);

// `runs` runs with a thread for each rank; after each, done(marks of [rank][op]) decides whether there is another. An
// exception on one rank ends all. Throws std::runtime_error naming an op that not all ranks reach within `patience`
// seconds.
void run_threads(const Plan& plan, const Programs& programs, int runs, double patience,
                 const std::function<bool(std::vector<Marks>)>& done);

// One run of this process's rank, which starts together with the others.
Marks run_process(Program& program, Transport& transport, double patience);

}  // namespace moesim::backend
