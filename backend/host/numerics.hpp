// What a plan computes, for tests: every buffer of every rank after one run.
#pragma once

#include "backend/host/runs.hpp"

namespace moesim::backend {

enum class Run : std::uint8_t { one_at_a_time, threads };

// Row-major floats of a rank's buffer.
std::vector<float> values(const Program& program, BufferId buffer);
// The buffer of that name; throws std::out_of_range where the plan has none.
BufferId buffer_named(const Plan& plan, std::string_view name);
// before: the training step that weights and optimizer states come from.
Programs compute(const Plan& plan, const Inputs& inputs, Run how = Run::one_at_a_time,
                 const RanksBefore* before = nullptr);

}  // namespace moesim::backend
