#include "backend/host/numerics.hpp"

#include <cstring>
#include <stdexcept>

namespace moesim::backend {

std::vector<float> values(const Program& program, BufferId buffer) {
  const Tensor& t = program.memory().tensor(buffer);
  const std::int64_t n = t.rows * t.cols;
  std::vector<float> out(static_cast<std::size_t>(n));
  if (t.dtype != DType::i32) {
    to_float(t.data, t.dtype, n, out.data());
    return out;
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::int32_t v = 0;
    std::memcpy(&v, t.data + i * sizeof v, sizeof v);
    out[i] = static_cast<float>(v);
  }
  return out;
}

BufferId buffer_named(const Plan& plan, std::string_view name) {
  for (std::size_t i = 0; i < plan.buffers.size(); ++i)
    if (plan.buffers[i].name == name) return BufferId(i);
  throw std::out_of_range("the plan has no buffer '" + std::string(name) + "'");
}

Programs compute(const Plan& plan, const Inputs& inputs, Run how, const RanksBefore* before) {
  std::vector<Rank> ranks;
  for (int r = 0; r < plan.ranks; ++r) ranks.emplace_back(r);
  Programs programs = make_programs(plan, inputs, ranks, before);
  if (how == Run::one_at_a_time) {
    run_one_at_a_time(programs);
  } else {
    run_threads(plan, programs, 1, 60, [](const std::vector<Marks>&) { return false; });
  }
  return programs;
}

}  // namespace moesim::backend
