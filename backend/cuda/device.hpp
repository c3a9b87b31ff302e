// A GPU as a rank's host thread sees it: memory, streams of commands, events, communicators. The module moesim_cuda
// implements it with CUDA, cuBLAS and NCCL (driver/); tests with the processor. The module shares no code with the
// program but these headers, so that the program runs where CUDA is not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "backend/cuda/command.hpp"

namespace moesim::backend::gpu {

struct DeviceDescription {
  std::string name;  // "NVIDIA H200"
  int major = 0, minor = 0;
  int multiprocessors = 0;
  std::int64_t memory = 0;    // bytes
  std::int64_t l2_cache = 0;  // bytes
};

class OutOfMemory : public std::runtime_error {
 public:
  OutOfMemory(std::int64_t wanted_bytes, std::int64_t free_bytes)
      : std::runtime_error("out of device memory"), wanted(wanted_bytes), free(free_bytes) {}
  std::int64_t wanted;
  std::int64_t free;
};

// What NCCL's ranks agree on before they meet (ncclUniqueId).
using MeetingId = std::vector<char>;

// All calls throw std::runtime_error with the library's own message when they fail; then the device is lost. Streams,
// events and stamps are numbers from 0, made at first use. Not thread-safe: one host thread per device.
class Device {
 public:
  enum class Memory : std::uint8_t { device, host };

  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  virtual ~Device() = default;  // releases all memory
  [[nodiscard]] virtual const DeviceDescription& description() const = 0;

  // Aligned to 256 bytes. Throws OutOfMemory.
  virtual std::byte* allocate(std::int64_t bytes, Memory where) = 0;
  virtual void upload(std::byte* to, std::span<const std::byte> from) = 0;
  virtual void download(std::span<std::byte> to, const std::byte* from) = 0;

  virtual void enqueue(const Command& command, int stream) = 0;
  // A stream goes on only after what another had been given before `event` was recorded.
  virtual void record(int event, int stream) = 0;
  virtual void wait(int event, int stream) = 0;
  // Points in time, for measuring. reached: the device has come to it since it was last put into a stream.
  virtual void stamp(int stamp, int stream) = 0;
  [[nodiscard]] virtual double nanoseconds(int from, int to) = 0;
  [[nodiscard]] virtual bool reached(int stamp) = 0;
  // False when not all streams are done within `patience` seconds, or `give_up` says so; throws when a kernel or NCCL
  // failed.
  virtual bool finish(double patience, const std::function<bool()>& give_up) = 0;
  // Overwrites the L2 cache, so that a run finds none of what the one before left there.
  virtual void flush_cache(int stream) = 0;

  // Between begin_capture and end_capture commands are not carried out but become a graph; all streams that are used
  // must have waited for stream 0 and be waited for by it. replay carries the last graph out on stream 0.
  virtual void begin_capture() = 0;
  virtual void end_capture() = 0;
  virtual void replay() = 0;

  // Blocks until all members have come; they call it in the same order. Returns the communicator's number.
  virtual int join(const MeetingId& id, int members, int position) = 0;
  // Where give_up says so, now and then asked on a thread of its own, communicators end, so that a host thread that a
  // launch keeps waiting for peers comes back with an error. An empty function ends the watch.
  virtual void watch(std::function<bool()> give_up) = 0;
  // Ends communicators without waiting for anybody: after it the device only serves to be destroyed.
  virtual void abort() noexcept = 0;
};

class Driver {
 public:
  Driver() = default;
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;
  virtual ~Driver() = default;
  // Why there is no device, in a sentence; empty where there is one.
  [[nodiscard]] virtual std::string trouble() const = 0;
  [[nodiscard]] virtual int devices() const = 0;
  // How many ranks of one communicator a device takes: 1, or more where NCCL does that.
  [[nodiscard]] virtual int ranks_per_device() const = 0;
  [[nodiscard]] virtual std::string versions() const = 0;  // "CUDA 13.0, driver 580.65, cuBLAS 13.1, NCCL 2.28.9"
  virtual std::unique_ptr<Device> open(int device) = 0;
  virtual MeetingId meeting_id() = 0;
};

// The module's one symbol; nullptr for another version of this interface.
inline constexpr int driver_interface = 3;
inline constexpr const char* driver_symbol = "moesim_cuda_driver";
using DriverFunction = Driver* (*)(int interface_version);

}  // namespace moesim::backend::gpu
