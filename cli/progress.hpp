// Progress on stderr, for runs that last: nothing in the first second and a half, then a line that rewrites itself on a
// terminal, and nothing at all elsewhere.
#pragma once

#include <chrono>
#include <string>

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

}  // namespace moesim::cli
