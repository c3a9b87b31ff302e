// Kernels that run on one GPU at the same time share its matrix rate and its memory bandwidth.
//
// A kernel i alone runs at rate 1 and then uses fractions c_i of the matrix rate and m_i of the bandwidth. Together
// their rates x_i are max-min fair:  sum c_i x_i <= 1 - C,  sum m_i x_i <= 1 - M,  x_i <= 1,  where C and M are what
// running collectives hold (their SMs, and the bandwidth that feeds the links).
#pragma once

#include <optional>
#include <vector>

#include "moesim/units.hpp"

namespace moesim::sim {

struct Demand {
  double compute = 0;
  double memory = 0;
};

class GpuShare {
 public:
  // A kernel that would take `work` alone.
  void start(int kernel, Picoseconds now, Picoseconds work, Demand demand);
  void finish(int kernel, Picoseconds now);
  void reserve(Picoseconds now, Demand held);
  void release(Picoseconds now, Demand held);

  struct Next {
    Picoseconds time;
    int kernel;
  };
  // The kernel that completes first if nothing changes.
  [[nodiscard]] std::optional<Next> next() const;

 private:
  struct Running {
    int kernel;
    double remaining;  // picoseconds at rate 1
    double rate;
    Demand demand;
  };
  void advance(Picoseconds now);
  void solve();

  std::vector<Running> running_;
  Demand held_;
  Picoseconds now_;
};

}  // namespace moesim::sim
