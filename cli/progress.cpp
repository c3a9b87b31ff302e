#include "cli/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <mutex>

namespace moesim::cli {

Progress::Progress() : begin_(std::chrono::steady_clock::now()), shown_(begin_), terminal_(::isatty(2) == 1) {}

Progress::~Progress() {
  if (visible_) fmt::print(stderr, "\r\033[K");
}

void Progress::operator()(double share, const std::string& what) {
  using namespace std::chrono_literals;
  const auto now = std::chrono::steady_clock::now();
  if (!terminal_ || now - begin_ < 1500ms || now - shown_ < 100ms) return;
  shown_ = now;
  visible_ = true;
  fmt::print(stderr, "\r\033[K{:3.0f} %  {}", 100 * share, what);
  std::fflush(stderr);
}

Waiting::Waiting(std::string what)
    : ticker_([what = std::move(what)](const std::stop_token& stop) {
        using namespace std::chrono_literals;
        if (::isatty(2) != 1) return;
        const auto begin = std::chrono::steady_clock::now();
        std::mutex mutex;
        std::condition_variable_any wake;
        std::unique_lock lock(mutex);
        const auto never = [] { return false; };
        wake.wait_for(lock, stop, 1500ms, never);
        while (!stop.stop_requested()) {
          const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - begin;
          fmt::print(stderr, "\r\033[K{}, {:.0f} s", what, passed.count());
          std::fflush(stderr);
          wake.wait_for(lock, stop, 250ms, never);
        }
        fmt::print(stderr, "\r\033[K");
      }) {}

}  // namespace moesim::cli
