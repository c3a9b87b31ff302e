#include "study/one_gpu.hpp"

#include <algorithm>

#include "backend/one_gpu.hpp"
#include "sim/op_cost.hpp"

namespace moesim::study {
namespace {

class OneGpu {
 public:
  explicit OneGpu(const Gpu& gpu) : gpu_(gpu) {}

  // A time stamp is taken when the GPU comes to it, and not before the host has put it there.
  void stamp() { begun_ = device_ = std::max(device_, host_); }
  void kernel(Picoseconds duration) {
    host_ += gpu_.launch;
    device_ = std::max(device_, host_) + duration;
  }
  void wait() { host_ = device_ = std::max(host_, device_) + gpu_.host_sync; }
  [[nodiscard]] Picoseconds since_stamp() const { return device_ - begun_; }

 private:
  const Gpu& gpu_;
  Picoseconds host_, device_, begun_;
};

bool host_waits(const Op& op) {
  const auto* p = std::get_if<Permute>(&op.work);
  const auto* g = std::get_if<GroupedGemm>(&op.work);
  return (p != nullptr && p->launch.host_waits) || (g != nullptr && g->launch.host_waits);
}

}  // namespace

Timeline predict_on_one_gpu(const Plan& plan, const Setup& setup, const cost::KernelModel& kernels) {
  const sim::OpCosts costs(plan, setup.cluster, kernels);
  const auto collectives = backend::collectives_on_one_gpu(plan, {*setup.routing});
  const auto ranks = static_cast<std::size_t>(plan.ranks);
  std::vector<std::vector<Picoseconds>> durations(ranks, std::vector<Picoseconds>(plan.ops.size(), Picoseconds(-1)));
  OneGpu gpu(setup.cluster.gpu);
  for (std::size_t i = 0; i < plan.ops.size(); ++i) {
    const Op& op = plan.ops[i];
    if (const auto* c = std::get_if<Collective>(&op.work)) {
      for (const std::vector<Rank>& group : plan.groups[c->groups.index()])
        for (const Rank r : group) durations[r.index()][i] = Picoseconds(0);
      for (const auto& phase : collectives[i])
        for (std::size_t r = 0; r < ranks; ++r) {
          gpu.stamp();
          for (const Bytes bytes : phase[r]) {
            const cost::KernelCost cost = kernels.streaming(bytes, Flops(0));
            cost::check_physics(setup.cluster.gpu, Math::f32, cost);
            gpu.kernel(cost.duration);
          }
          if (durations[r][i].value() >= 0) durations[r][i] += gpu.since_stamp();
        }
      continue;
    }
    for (std::size_t r = 0; r < ranks; ++r) {
      gpu.stamp();
      const sim::OpCost cost = costs(op, Rank(r));
      for (std::size_t k = 0; k < cost.kernels.size(); ++k) {
        if (cost.kernels[k].value() > 0) gpu.kernel(cost.kernels[k]);  // nothing is launched for no rows
        if (host_waits(op) && (k + 1) % static_cast<std::size_t>(cost.set) == 0) gpu.wait();
      }
      if (std::holds_alternative<HostSync>(op.work)) gpu.wait();
      durations[r][i] = gpu.since_stamp();
    }
  }
  Timeline out = backend::compose(plan, durations);
  out.kind = Timeline::Kind::predicted_virtual_ranks;
  return out;
}

}  // namespace moesim::study
