#include "sim/gpu_share.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace moesim::sim {
namespace {

// Collectives never hold a whole GPU; what is left keeps kernels moving.
constexpr double least_share = 0.05;
constexpr double saturated = 1e-12;

}  // namespace

void GpuShare::advance(Picoseconds now) {
  const auto passed = static_cast<double>((now - now_).value());
  for (Running& r : running_) r.remaining = std::max(0.0, r.remaining - passed * r.rate);
  now_ = now;
}

void GpuShare::solve() {
  double compute = std::max(least_share, 1.0 - held_.compute);
  double memory = std::max(least_share, 1.0 - held_.memory);
  std::vector<Running*> rising;
  for (Running& r : running_) {
    r.rate = 0;
    rising.push_back(&r);
  }
  double level = 0;
  while (!rising.empty()) {
    // Raise all together until one of the resources, or the kernels' own speed, stops some of them.
    double c = 0;
    double m = 0;
    for (const Running* r : rising) {
      c += r->demand.compute;
      m += r->demand.memory;
    }
    double step = 1.0 - level;
    if (c > 0) step = std::min(step, compute / c);
    if (m > 0) step = std::min(step, memory / m);
    level += step;
    compute -= step * c;
    memory -= step * m;
    for (Running* r : rising) r->rate = level;
    if (level >= 1.0 - saturated) {
      for (Running* r : rising) r->rate = 1.0;
      return;
    }
    std::erase_if(rising, [&](const Running* r) {
      return (r->demand.compute > 0 && compute <= saturated) || (r->demand.memory > 0 && memory <= saturated);
    });
  }
}

void GpuShare::start(int kernel, Picoseconds now, Picoseconds work, Demand demand) {
  advance(now);
  running_.push_back({kernel, static_cast<double>(work.value()), 0, demand});
  solve();
}

void GpuShare::finish(int kernel, Picoseconds now) {
  advance(now);
  std::erase_if(running_, [&](const Running& r) { return r.kernel == kernel; });
  solve();
}

void GpuShare::reserve(Picoseconds now, Demand held) {
  advance(now);
  held_ = {held_.compute + held.compute, held_.memory + held.memory};
  solve();
}

void GpuShare::release(Picoseconds now, Demand held) {
  advance(now);
  // Sums of fractions come back to zero only up to rounding.
  const auto clean = [](double v) { return v < saturated ? 0.0 : v; };
  held_ = {clean(held_.compute - held.compute), clean(held_.memory - held.memory)};
  solve();
}

std::optional<GpuShare::Next> GpuShare::next() const {
  std::optional<Next> best;
  for (const Running& r : running_) {
    const Next candidate{now_ + Picoseconds(detail::checked_round_up(r.remaining / r.rate)), r.kernel};
    if (!best || candidate.time < best->time) best = candidate;
  }
  return best;
}

}  // namespace moesim::sim
