// Carries kernels out on the processor, thread by thread: the threads of a block are fibers that run in a random order
// between the points where they wait for each other, warps far ahead of others included; blocks run one at a time, in
// a random order. So a missing barrier shows as a wrong number. What is undefined on a GPU is a Fault here:
//
// - threads that wait at different places, or for one that has ended; a shuffle that names a lane that is not there;
// - more threads, blocks or shared memory than a launch may ask for; writing past the end of shared memory;
// - what a kernel throws, such as number.hpp for an address that is not aligned.
//
// Not seen: races between blocks, what needs two threads to run at the same instant, and time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <stdexcept>

#include "backend/cuda/command.hpp"

namespace moesim::test {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr Dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct Here {
  Dim3 thread, block, threads, blocks;
};
inline Here here;  // of the thread that runs

// Says the kernel (by its parameters), block, thread and what is wrong.
class Fault : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

void seed_emulator(unsigned seed);
void run_kernel(const char* type, Dim3 blocks, Dim3 threads, std::size_t shared, const std::function<void()>& thread);

// For kernels: waits for the block, or for `lanes` of the warp; then the value of the lane that differs in the bits
// `with`.
void meet_block(std::source_location at);
std::uint32_t meet_lanes(std::uint32_t lanes, std::uint32_t value, int with, std::source_location at);

// Kernels of our own emulated, all else as the processor does it.
void emulate(const backend::gpu::Command& command);

}  // namespace moesim::test
