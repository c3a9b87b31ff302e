// Threads for independent work whose result does not depend on their number.
#pragma once

#include <functional>

namespace moesim {

// Runs fn(i) for every i in [0, n) on up to `threads()` threads and returns when all are done. The first exception (by
// index) is rethrown. fn must write only what belongs to its i.
void parallel_for(int n, const std::function<void(int)>& fn);

// $MOESIM_THREADS, else the number of processors.
int threads();

}  // namespace moesim
