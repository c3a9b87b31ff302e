#include "support/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <thread>
#include <vector>

namespace moesim {

int threads() {
  if (const char* env = std::getenv("MOESIM_THREADS")) {
    int n = 0;
    const auto [end, error] = std::from_chars(env, env + std::strlen(env), n);
    if (error == std::errc{} && *end == '\0' && n >= 1 && n <= 1024) return n;
  }
  return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

void parallel_for(int n, const std::function<void(int)>& fn) {
  std::vector<std::exception_ptr> failures(static_cast<std::size_t>(std::max(n, 0)));
  std::atomic<int> next{0};
  const auto work = [&] {
    for (int i = next++; i < n; i = next++) {
      try {
        fn(i);
      } catch (...) {
        failures[static_cast<std::size_t>(i)] = std::current_exception();
      }
    }
  };
  {
    std::vector<std::jthread> pool;
    for (int t = 1; t < std::min(n, threads()); ++t) pool.emplace_back(work);
    work();
  }
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

}  // namespace moesim
