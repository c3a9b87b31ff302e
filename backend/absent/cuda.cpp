// Stands in for the CUDA executor in builds without it.
#include "backend/executor.hpp"

namespace moesim::backend {
namespace {

class AbsentCuda final : public Executor {
 public:
  [[nodiscard]] std::string_view name() const override { return "cuda"; }
  [[nodiscard]] std::string unavailable() const override {
    return "this build has no CUDA executor: install the CUDA toolkit and NCCL, and configure with -DMOESIM_CUDA=ON; "
           "'--backend host' runs on this machine's processors";
  }
  [[nodiscard]] Measurement run(const Plan&, const Inputs&, const RunOptions&) const override {
    throw Refused(unavailable());
  }
};

}  // namespace

const Executor& cuda() {
  static const AbsentCuda executor;
  return executor;
}

}  // namespace moesim::backend
