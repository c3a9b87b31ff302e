#include "cli/progress.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

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

}  // namespace moesim::cli
