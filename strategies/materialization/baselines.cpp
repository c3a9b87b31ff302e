// Placements of the systems that Hecate is compared with.
#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "strategies/materialization/holders.hpp"
#include "strategies/materialization/materialization.hpp"

namespace moesim::materialization {
namespace {

std::vector<double> sums(const Table& counts) {
  std::vector<double> out(static_cast<std::size_t>(counts.cols()));
  for (int r = 0; r < counts.rows(); ++r)
    for (int e = 0; e < counts.cols(); ++e) out[static_cast<std::size_t>(e)] += counts.at(r, e);
  return out;
}

double most(const std::vector<double>& v) { return *std::ranges::max_element(v); }

}  // namespace

std::vector<double> device_loads(const ExpertPlacement& placement, std::span<const double> load) {
  const Holders held(placement, static_cast<int>(load.size()));
  std::vector<double> out(static_cast<std::size_t>(held.devices()));
  for (int e = 0; e < held.experts(); ++e) {
    const int replicas = held.replicas(e);
    for (int d = 0; d < held.devices(); ++d)
      if (held.has(e, d)) out[static_cast<std::size_t>(d)] += load[static_cast<std::size_t>(e)] / replicas;
  }
  return out;
}

ExpertPlacement shadow(const ExpertPlacement& owners, const Table& counts, const ShadowCosts& costs) {
  const std::vector<double> load = sums(counts);
  Holders held(owners, counts.cols());
  const int devices = held.devices();
  std::vector<bool> shadowed(load.size());
  const auto time = [&](std::int64_t k) {
    std::vector<double> device(static_cast<std::size_t>(devices));
    for (int e = 0; e < counts.cols(); ++e)
      for (int d = 0; d < devices; ++d) {
        double& t = device[static_cast<std::size_t>(d)];
        if (shadowed[static_cast<std::size_t>(e)]) {
          t += costs.compute * counts.at(d, e);  // at home, whoever owns it
        } else if (held.has(e, d)) {
          const double all = load[static_cast<std::size_t>(e)];
          t += costs.compute * all + costs.exchange * (all - counts.at(d, e));
        }
      }
    return most(device) + static_cast<double>(k) * costs.broadcast;
  };
  double best = time(0);
  std::int64_t k = 0;
  for (const int e : hottest_first(load)) {
    shadowed[static_cast<std::size_t>(e)] = true;
    const double t = time(k + 1);
    if (t >= best) {
      shadowed[static_cast<std::size_t>(e)] = false;
      break;
    }
    best = t;
    ++k;
  }
  for (int e = 0; e < counts.cols(); ++e)
    for (int d = 0; d < devices; ++d)
      if (shadowed[static_cast<std::size_t>(e)]) held.set(e, d, true);
  return held.placement();
}

ExpertPlacement exchange_experts(const ExpertPlacement& owners, std::span<const double> load) {
  Holders held(owners, static_cast<int>(load.size()));
  std::vector<double> device = device_loads(owners, load);
  for (;;) {
    const auto high = static_cast<int>(std::ranges::max_element(device) - device.begin());
    const double before = device[static_cast<std::size_t>(high)];
    // The swap with the lowest resulting maximum of the two.
    double best = before;
    int give = -1, take = -1, other = -1;
    for (int d = 0; d < held.devices(); ++d)
      for (int a = 0; a < held.experts() && d != high; ++a)
        for (int b = 0; b < held.experts(); ++b) {
          if (!held.has(a, high) || !held.has(b, d)) continue;
          const double moved = load[static_cast<std::size_t>(a)] - load[static_cast<std::size_t>(b)];
          const double result = std::max(before - moved, device[static_cast<std::size_t>(d)] + moved);
          if (result < best * (1 - 1e-12)) {
            best = result;
            give = a, take = b, other = d;
          }
        }
    if (give < 0) return held.placement();
    const double moved = load[static_cast<std::size_t>(give)] - load[static_cast<std::size_t>(take)];
    held.set(give, high, false);
    held.set(take, other, false);
    held.set(give, other, true);
    held.set(take, high, true);
    device[static_cast<std::size_t>(high)] -= moved;
    device[static_cast<std::size_t>(other)] += moved;
  }
}

ExpertPlacement with_spare_slots(int experts, int devices, int spare) {
  Holders held(contiguous_placement(experts, devices), experts);
  int next = 0;
  for (int i = 0; i < spare; ++i)
    for (int d = 0; d < devices; ++d)
      for (int tried = 0; tried < experts; ++tried) {
        const int e = next++ % experts;
        if (held.has(e, d)) continue;
        held.set(e, d, true);
        break;
      }
  return held.placement();
}

ExpertPlacement replicate_and_shrink(const ExpertPlacement& placement, std::span<const double> load, int changes) {
  Holders held(placement, static_cast<int>(load.size()));
  for (int c = 0; c < changes; ++c) {
    const double before = most(device_loads(held.placement(), load));
    const auto each = [&](int e) { return load[static_cast<std::size_t>(e)] / held.replicas(e); };
    int hot = 0;
    for (int e = 1; e < held.experts(); ++e)
      if (each(e) > each(hot)) hot = e;
    // The replica whose loss raises its expert's share least, on a device that lacks the hot one.
    int cold = -1, device = -1;
    const auto left = [&](int e) { return load[static_cast<std::size_t>(e)] / (held.replicas(e) - 1); };
    for (int e = 0; e < held.experts(); ++e)
      for (int d = 0; d < held.devices(); ++d)
        if (held.has(e, d) && held.replicas(e) > 1 && !held.has(hot, d) && (cold < 0 || left(e) < left(cold)))
          cold = e, device = d;
    if (cold < 0) break;
    held.set(cold, device, false);
    held.set(hot, device, true);
    if (most(device_loads(held.placement(), load)) < before) continue;
    held.set(cold, device, true);
    held.set(hot, device, false);
    break;
  }
  return held.placement();
}

Table moves(const ExpertPlacement& from, const ExpertPlacement& to) {
  int experts = 0;
  for (const ExpertPlacement* p : {&from, &to})
    for (const LogicalExpert e : p->expert_of_slot) experts = std::max(experts, e.value() + 1);
  const Holders before(from, experts);
  const Holders after(to, experts);
  Table out(after.devices(), after.devices());
  for (int e = 0; e < experts; ++e)
    for (int d = 0; d < after.devices(); ++d) {
      if (!after.has(e, d) || before.has(e, d)) continue;
      int holder = 0;
      while (holder < before.devices() && !before.has(e, holder)) ++holder;
      if (holder == before.devices()) throw std::invalid_argument("an expert has no holder to come from");
      ++out.at(holder, d);
    }
  return out;
}

}  // namespace moesim::materialization
