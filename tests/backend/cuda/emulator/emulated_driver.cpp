// The driver of the tests that a GPU runs too (gpu_test.cpp): a processor that carries our kernels out by emulation.
#include "backend/cuda/driver/kernels.hpp"
#include "tests/backend/cuda/emulator/emulator.hpp"
#include "tests/backend/cuda/gpu_test.hpp"
#include "tests/backend/cuda/processor.hpp"

namespace moesim::test {

void emulate(const backend::gpu::Command& command) {
  std::visit(
      [&](const auto& c) {
        if constexpr (requires { launch(c, backend::gpu::Stream{}); })
          launch(c, nullptr);
        else
          carry_out(command);
      },
      command);
}

backend::gpu::Driver& driver() {
  static Machine machine(1);
  machine.carry = emulate;
  return machine;
}

}  // namespace moesim::test
