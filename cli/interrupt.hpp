// Ctrl-C as a wish to end early with what there is; a second one ends the program.
#pragma once

#include <csignal>

namespace moesim::cli {

class Interrupt {
 public:
  Interrupt() {
    came_ = 0;
    std::signal(SIGINT, [](int) {
      came_ = 1;
      std::signal(SIGINT, SIG_DFL);
    });
  }
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;
  ~Interrupt() { std::signal(SIGINT, SIG_DFL); }
  [[nodiscard]] bool came() const { return came_ != 0; }

 private:
  static inline volatile std::sig_atomic_t came_ = 0;
};

}  // namespace moesim::cli
