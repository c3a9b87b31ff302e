#include "tests/backend/cuda/emulator/emulator.hpp"

#include <cxxabi.h>
#include <fmt/format.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace moesim::test {
namespace {

constexpr unsigned warp = 32;
constexpr std::size_t stack_bytes = std::size_t{64} << 10;
#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t guard = 0;  // it sees what is read and written past the end
#else
constexpr std::size_t guard = 256;
#endif

struct Fiber {
  Fiber() = default;
  explicit Fiber(void (*work)())
      : stack(std::make_unique_for_overwrite<std::byte[]>(stack_bytes)), bottom(stack.get()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack.get();
    context.uc_stack.ss_size = stack_bytes;
    makecontext(&context, work, 0);
  }
  std::unique_ptr<std::byte[]> stack;  // none: the system's
  ucontext_t context{};
  // For AddressSanitizer.
  void* fake_stack = nullptr;
  const void* bottom = nullptr;
  std::size_t size = stack_bytes;
};

struct Thread {
  enum class State : std::uint8_t { ready, waits, ended };
  State state = State::ready;
  Fiber* fiber = nullptr;   // none before it begins
  std::uint32_t lanes = 0;  // that it waits for; none: the block
  std::uint32_t value = 0;
  int with = 0;
  std::source_location at;
};

bool same_place(const std::source_location& a, const std::source_location& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::string_view(a.file_name()) == b.file_name());
}
std::string place(const std::source_location& at) {
  const std::string_view file = at.file_name();
  return fmt::format("{}:{}", file.substr(file.rfind('/') + 1), at.line());
}

std::uint64_t count(const Dim3& d) { return std::uint64_t{d.x} * d.y * d.z; }
Dim3 at(const Dim3& size, std::uint64_t i) {
  return {static_cast<unsigned>(i % size.x), static_cast<unsigned>(i / size.x % size.y),
          static_cast<unsigned>(i / size.x / size.y)};
}

class Emulator {
 public:
  void seed(unsigned s) { random_.seed(s); }

  void run(const std::string& kernel, const std::function<void()>& body, std::size_t shared) {
    body_ = &body;
    const std::uint64_t blocks = count(here.blocks);
    const std::uint64_t threads = count(here.threads);
    const auto at_most = [](const Dim3& d, unsigned x, unsigned y, unsigned z) {
      return d.x <= x && d.y <= y && d.z <= z;
    };
    if (blocks == 0 || !at_most(here.blocks, 0x7fffffffU, 65535, 65535))
      throw Fault(
          fmt::format("kernel {}: a grid of {} x {} x {} blocks", kernel, here.blocks.x, here.blocks.y, here.blocks.z));
    if (threads == 0 || threads > 1024 || !at_most(here.threads, 1024, 1024, 64))
      throw Fault(fmt::format("kernel {}: blocks of {} x {} x {} threads", kernel, here.threads.x, here.threads.y,
                              here.threads.z));
    if (shared > std::size_t{48} << 10)
      throw Fault(
          fmt::format("kernel {}: {} bytes of shared memory, and more than 48 KiB are not asked for", kernel, shared));
    std::vector<std::uint64_t> order(blocks);
    std::iota(order.begin(), order.end(), std::uint64_t{0});
    std::shuffle(order.begin(), order.end(), random_);
    for (const std::uint64_t b : order) {
      here.block = at(here.blocks, b);
      try {
        run_block(static_cast<unsigned>(threads), shared);
      } catch (const std::exception& e) {
        fibers_.clear();  // some are still at work
        idle_.clear();
        throw Fault(
            fmt::format("kernel {}, block ({}, {}, {}){}", kernel, here.block.x, here.block.y, here.block.z, e.what()));
      }
    }
  }

  float* room() { return reinterpret_cast<float*>(room_.get()); }

  void meet_block(const std::source_location& place_of_call) {
    Thread& me = *current_;
    me.state = Thread::State::waits;
    me.lanes = 0;
    me.at = place_of_call;
    if (++at_barrier_ == threads_.size()) {
      for (const Thread& t : threads_)
        if (!same_place(t.at, me.at)) throw Fault(standstill());
      at_barrier_ = 0;
      for (Thread& t : threads_) release(t);
    }
    go_on();
  }

  std::uint32_t meet_lanes(std::uint32_t lanes, std::uint32_t value, int with, const std::source_location& at) {
    Thread& me = *current_;
    me.state = Thread::State::waits;
    me.lanes = lanes;
    me.value = value;
    me.with = with;
    me.at = at;
    const std::size_t first = number(me) / warp * warp;
    if ((lanes >> (number(me) - first) & 1U) == 0) throw Fault(fmt::format("{}: it names others only", place(at)));
    bool all = true;
    for (unsigned l = 0; l < warp; ++l) {
      if ((lanes >> l & 1U) == 0) continue;
      if (first + l >= threads_.size() || threads_[first + l].state == Thread::State::ended)
        throw Fault(fmt::format("{}: it names lane {}, which is not there", place(at), l));
      const Thread& t = threads_[first + l];
      all = all && t.state == Thread::State::waits && t.lanes == lanes && same_place(t.at, at);
    }
    if (all) exchange(first, lanes);
    go_on();
    return me.value;
  }

  // A fiber's work: a thread that ends leaves its stack to one that begins.
  void live() {
    arrive();
    while (true) {
      Thread& me = *current_;
      try {
        (*body_)();
      } catch (...) {
        failure_ = std::current_exception();
      }
      me.state = Thread::State::ended;
      Thread* next = failure_ != nullptr ? nullptr : pick();
      if (next != nullptr && next->fiber == nullptr) {
        next->fiber = running_;
        become(*next);
        continue;
      }
      idle_.push_back(running_);
      switch_to(next);
    }
  }

 private:
  void run_block(unsigned threads, std::size_t shared) {
    threads_.assign(threads, {});
    at_barrier_ = 0;
    failure_ = nullptr;
    room_ = std::make_unique_for_overwrite<std::byte[]>(shared + guard);
    std::fill_n(room_.get(), shared + guard, std::byte{0xff});  // NaN
    order_.resize((threads + warp - 1) / warp);
    std::iota(order_.begin(), order_.end(), 0U);
    for (std::vector<unsigned>& r : ready_) r.clear();
    for (unsigned i = 0; i < threads; ++i) ready_[i / warp].push_back(i);
    std::shuffle(order_.begin(), order_.end(), random_);
    running_ = &main_;
    switch_to(pick());  // comes back when nobody can go on
    if (failure_ != nullptr) {
      try {
        std::rethrow_exception(failure_);
      } catch (const std::exception& e) {
        throw Fault(fmt::format(", thread ({}, {}, {}): {}", here.thread.x, here.thread.y, here.thread.z, e.what()));
      }
    }
    if (std::any_of(threads_.begin(), threads_.end(), [](const Thread& t) { return t.state != Thread::State::ended; }))
      throw Fault(": " + standstill());
    if (std::any_of(room_.get() + shared, room_.get() + shared + guard,
                    [](std::byte b) { return b != std::byte{0xff}; }))
      throw Fault(fmt::format(": it writes past its {} bytes of shared memory", shared));
  }

  std::size_t number(const Thread& t) const { return static_cast<std::size_t>(&t - threads_.data()); }

  // The ready thread to run next: of a warp that goes on as long as it can, so that it is far ahead of the others.
  Thread* pick() {
    if (random_() % 512 == 0) std::shuffle(order_.begin(), order_.end(), random_);
    for (const unsigned w : order_) {
      std::vector<unsigned>& r = ready_[w];
      if (r.empty()) continue;
      std::swap(r[random_() % r.size()], r.back());
      Thread& out = threads_[r.back()];
      r.pop_back();
      return &out;
    }
    return nullptr;
  }
  void release(Thread& t) {
    t.state = Thread::State::ready;
    ready_[number(t) / warp].push_back(static_cast<unsigned>(number(t)));
  }
  void exchange(std::size_t first, std::uint32_t lanes) {
    std::array<std::uint32_t, warp> given{};
    for (unsigned l = 0; l < warp; ++l)
      if ((lanes >> l & 1U) != 0) given[l] = threads_[first + l].value;
    for (unsigned l = 0; l < warp; ++l) {
      if ((lanes >> l & 1U) == 0) continue;
      Thread& t = threads_[first + l];
      const unsigned other = l ^ static_cast<unsigned>(t.with);
      if (other >= warp || (lanes >> other & 1U) == 0)
        throw Fault(fmt::format("{}: it takes the value of lane {}, which does not give one", place(t.at), other));
      t.value = given[other];
      release(t);
    }
  }

  std::string standstill() const {
    std::map<std::string, std::pair<std::size_t, std::size_t>> groups;  // what they do: the first, how many
    for (const Thread& t : threads_) {
      std::string does = "have ended";
      if (t.state == Thread::State::waits)
        does = t.lanes == 0 ? fmt::format("wait for the block at {}", place(t.at))
                            : fmt::format("wait for lanes {:08x} at {}", t.lanes, place(t.at));
      ++groups.try_emplace(does, number(t), 0).first->second.second;
    }
    std::string out = "a barrier that not all reach:";
    for (const auto& [does, who] : groups)
      out += fmt::format(" {} threads {} (the first is {});", who.second, does, who.first);
    return out;
  }

  void become(Thread& t) {
    current_ = &t;
    here.thread = at(here.threads, number(t));
  }
  void go_on() {
    Thread* const me = current_;
    Thread* const next = pick();
    if (next != me) switch_to(next);
  }
  // To a thread, or back to where the block was begun.
  void switch_to(Thread* next) {
    if (next != nullptr) {
      if (next->fiber == nullptr) next->fiber = idle_fiber();
      become(*next);
    }
    Fiber& from = *running_;
    Fiber& to = next == nullptr ? main_ : *next->fiber;
    left_ = &from;
    running_ = &to;
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.size);
#endif
    swapcontext(&from.context, &to.context);
    arrive();
  }
  void arrive() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(running_->fake_stack, &left_->bottom, &left_->size);
#endif
  }
  Fiber* idle_fiber();

  std::mt19937 random_{1};
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  Fiber main_;
  Fiber* running_ = nullptr;
  Fiber* left_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  std::vector<Thread> threads_;
  Thread* current_ = nullptr;
  std::array<std::vector<unsigned>, warp> ready_;  // [warp]
  std::vector<unsigned> order_;                    // warps, the one that goes first
  std::size_t at_barrier_ = 0;
  std::unique_ptr<std::byte[]> room_;
  std::exception_ptr failure_;
};

Emulator& emulator() {
  thread_local Emulator of_thread;  // fibers stay on the thread that made them
  return of_thread;
}
void live() { emulator().live(); }

Fiber* Emulator::idle_fiber() {
  if (idle_.empty()) idle_.push_back(fibers_.emplace_back(std::make_unique<Fiber>(test::live)).get());
  Fiber* out = idle_.back();
  idle_.pop_back();
  return out;
}

}  // namespace

void seed_emulator(unsigned seed) { emulator().seed(seed); }

void run_kernel(const char* type, Dim3 blocks, Dim3 threads, std::size_t shared, const std::function<void()>& thread) {
  static std::mutex one;  // `here` and static shared memory are there once
  const std::scoped_lock lock(one);
  const std::unique_ptr<char, decltype(&std::free)> name(abi::__cxa_demangle(type, nullptr, nullptr, nullptr),
                                                         &std::free);
  here = {{}, {}, threads, blocks};
  emulator().run(name == nullptr ? type : name.get(), thread, shared);
}

void meet_block(std::source_location at) { emulator().meet_block(at); }
std::uint32_t meet_lanes(std::uint32_t lanes, std::uint32_t value, int with, std::source_location at) {
  return emulator().meet_lanes(lanes, value, with, at);
}

}  // namespace moesim::test

namespace moesim::backend::gpu {
float* shared_room();  // driver/start.cuh
float* shared_room() { return test::emulator().room(); }
}  // namespace moesim::backend::gpu
