// A "GPU" made of the processor: it keeps streams of commands as a GPU does, and carries them out in a random order
// that respects nothing but what streams, events and NCCL's rules promise. So a missing dependency, a buffer that is
// reused too early or calls of two ranks that do not match give wrong numbers, an error or a standstill.
#pragma once

#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "backend/cuda/device.hpp"

namespace moesim::test {

// What activations may be of.
inline constexpr DType types[] = {DType::f32, DType::bf16, DType::f16};

void carry_out(const backend::gpu::Command& command);

class Processor;

// The devices of one machine.
class Machine final : public backend::gpu::Driver {
 public:
  explicit Machine(int devices, unsigned seed = 1, std::int64_t memory = std::int64_t{1} << 40)
      : devices_(devices), memory_(memory), random_(seed) {}
  [[nodiscard]] std::string trouble() const override { return {}; }
  [[nodiscard]] int devices() const override { return devices_; }
  [[nodiscard]] int ranks_per_device() const override { return sharing; }
  [[nodiscard]] std::string versions() const override { return "a processor"; }
  std::unique_ptr<backend::gpu::Device> open(int device) override;
  backend::gpu::MeetingId meeting_id() override;

  std::function<void(const backend::gpu::Command&)> carry = carry_out;
  bool join_waits = false;  // a member waits for all others where it joins, as NCCL's do; needs a thread for each
  int sharing = 1;          // ranks that a device takes
  int hang_after = -1;      // commands after which device 0 does nothing any more
  int fail_after = -1;      // commands after which finish() of device 0 throws, as NCCL's asynchronous errors do
  bool lost = false;        // then no stamp counts as reached, as on a device that is lost
  std::map<int, std::vector<backend::gpu::Command>> log;  // [device]: as enqueued
  int captures = 0;
  int replays = 0;
  int live = 0;

 private:
  friend class Processor;
  struct Communicator {
    std::vector<Processor*> members;
    std::vector<int> number;  // as each member calls it
  };
  bool step();                                 // carries out one thing that is ready, if there is one
  bool exchange(Processor& from, int stream);  // false: peers are missing
  // The stream whose next command calls the communicator, at one of its members.
  static std::optional<int> waiting(const Communicator& c, std::size_t member);

  int devices_;
  std::int64_t memory_;
  std::mt19937 random_;
  std::recursive_mutex mutex_;
  std::vector<Processor*> open_;
  std::map<backend::gpu::MeetingId, std::shared_ptr<Communicator>> communicators_;
  int meetings_ = 0;
  std::string failure_;
};

class Processor final : public backend::gpu::Device {
 public:
  Processor(Machine& machine, int number);
  ~Processor() override;
  [[nodiscard]] const backend::gpu::DeviceDescription& description() const override { return description_; }
  std::byte* allocate(std::int64_t bytes, Memory where) override;
  void upload(std::byte* to, std::span<const std::byte> from) override;
  void download(std::span<std::byte> to, const std::byte* from) override;
  void enqueue(const backend::gpu::Command& command, int stream) override;
  void record(int event, int stream) override;
  void wait(int event, int stream) override;
  void stamp(int stamp, int stream) override;
  double nanoseconds(int from, int to) override;
  bool reached(int stamp) override;
  bool finish(double patience, const std::function<bool()>& give_up) override;
  void flush_cache(int stream) override;
  void begin_capture() override;
  void end_capture() override;
  void replay() override;
  int join(const backend::gpu::MeetingId& id, int members, int position) override;
  void watch(std::function<bool()> give_up) override;
  void abort() noexcept override;

 private:
  friend class Machine;
  struct Item {
    enum class Kind { command, record, wait, stamp };
    Kind kind = Kind::command;
    int number = 0;  // event or stamp
    std::int64_t ticket = 0;
    backend::gpu::Command command;
    int stream = 0;
  };
  void put(Item item);
  [[nodiscard]] bool idle() const;

  Machine& machine_;
  int number_;
  backend::gpu::DeviceDescription description_;
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::vector<std::unique_ptr<std::byte, Free>> memory_;
  std::int64_t used_ = 0;
  std::map<int, std::deque<Item>> streams_;
  std::map<int, std::int64_t> recorded_;  // event -> ticket of the last record call
  std::map<int, std::int64_t> done_;      // event -> ticket of the last that was carried out
  std::map<int, double> stamps_;
  std::set<int> pending_stamps_;
  std::vector<std::pair<std::shared_ptr<Machine::Communicator>, int>> communicators_;
  bool capturing_ = false;
  std::vector<Item> graph_;
  std::int64_t carried_ = 0;
  bool aborted_ = false;
};

}  // namespace moesim::test
