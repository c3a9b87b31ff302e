// Progress on stderr, for runs that last: nothing in the first second and a half, then a line that rewrites itself on a
// terminal, and nothing at all elsewhere.
#pragma once

#include <chrono>
#include <string>
#include <thread>

namespace moesim::cli {

class Progress {
 public:
  Progress();
  ~Progress();  // clears the line
  void operator()(double share, const std::string& what);

 private:
  std::chrono::steady_clock::time_point begin_;
  std::chrono::steady_clock::time_point shown_;
  bool terminal_;
  bool visible_ = false;
};

// The same for one call that does not say how far it is: seconds since it began.
class Waiting {
 public:
  explicit Waiting(std::string what);

 private:
  std::jthread ticker_;
};

}  // namespace moesim::cli
