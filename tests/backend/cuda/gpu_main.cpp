// Exits with 77 ("skipped") where there is no GPU, so that nothing is reported as passed that did not run.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>

#include "backend/cuda/executor.hpp"
#include "tests/backend/cuda/gpu_test.hpp"

namespace gpu = moesim::backend::gpu;

gpu::Driver& moesim::test::driver() { return *gpu::loaded().driver; }

int main(int argc, char** argv) {
  if (const std::string trouble = gpu::loaded().trouble; !trouble.empty()) {
    std::printf("skipped: %s\n", trouble.c_str());
    return 77;
  }
  std::printf("%s\n", moesim::test::driver().versions().c_str());
  doctest::Context context(argc, argv);
  return context.run();
}
