#include "models/load/systematic.hpp"

#include <limits>
#include <numeric>
#include <utility>

#include "models/load/apportion.hpp"
#include "models/load/counter_rng.hpp"

namespace moesim::load {
namespace {

// Sum of the partial quotients of a / m, which bounds the discrepancy of (a t mod m); 0 when they have a common factor.
std::int64_t quotient_sum(std::int64_t a, std::int64_t m) {
  std::int64_t sum = 0;
  while (a != 0) {
    sum += m / a;
    m = std::exchange(a, m % a);
  }
  return m == 1 ? sum : 0;
}

std::int64_t times_mod(std::int64_t a, std::int64_t b, std::int64_t m) {
  return static_cast<std::int64_t>(static_cast<int128>(a) * b % m);
}

std::int64_t inverse_mod(std::int64_t a, std::int64_t m) {  // extended Euclid
  std::int64_t r = m;
  std::int64_t x = 1;
  std::int64_t y = 0;
  while (a != 0) {
    const std::int64_t quotient = r / a;
    r = std::exchange(a, r - quotient * a);
    y = std::exchange(x, y - quotient * x);
  }
  return y < 0 ? y + m : y;
}

}  // namespace

std::vector<std::int64_t> lattice_multipliers(std::int64_t period, int layers, std::uint64_t seed) {
  std::vector<std::int64_t> out;
  std::int64_t inverse_of_previous = 0;
  for (int layer = 0; layer < layers; ++layer) {
    Draws draws(key_of(seed, Purpose::multiplier, layer), 0);
    std::int64_t best = 1;
    std::int64_t best_sum = std::numeric_limits<std::int64_t>::max();
    for (int candidate = 0; candidate < 256 && period > 2; ++candidate) {
      const std::int64_t a = 1 + static_cast<std::int64_t>(draws.below(static_cast<std::uint64_t>(period - 1)));
      const std::int64_t own = quotient_sum(a, period);
      if (own == 0) continue;
      const std::int64_t pair = layer == 0 ? 0 : quotient_sum(times_mod(a, inverse_of_previous, period), period);
      if (2 * own + pair >= best_sum) continue;
      best = a;
      best_sum = 2 * own + pair;
    }
    out.push_back(best);
    inverse_of_previous = inverse_mod(best, period);
  }
  return out;
}

SystematicSampler::SystematicSampler(const Inclusion& inclusion, const RoutingShape& shape, std::int64_t multiplier,
                                     std::uint64_t key)
    : period_(shape.tokens), multiplier_(multiplier), top_k_(shape.top_k) {
  Draws draws(key, 0);
  offset_ = static_cast<std::int64_t>(draws.below(static_cast<std::uint64_t>(period_)));
  // Items a unit apart meet in one token; a shuffled line keeps that from following the placement. With one expert per
  // token nothing meets, and a line in the experts' order makes the sum over a rank's experts one arc as well.
  const auto order = [&](std::size_t n) {
    std::vector<std::size_t> ids(n);
    std::iota(ids.begin(), ids.end(), std::size_t{0});
    if (top_k_ > 1) shuffle(std::span(ids), draws);
    return ids;
  };
  const std::size_t groups = inclusion.group.size();
  group_size_ = inclusion.expert.size() / groups;
  if (groups > 1) groups_.emplace(inclusion.group, period_, order(groups));
  std::vector<double> whole(inclusion.group);
  for (double& w : whole) w *= static_cast<double>(period_);
  const std::vector<std::int64_t> units = apportion(whole, period_ * shape.groups_per_token);
  for (std::size_t g = 0; g < groups; ++g)
    experts_.emplace_back(std::span(inclusion.expert).subspan(g * group_size_, group_size_), units[g],
                          order(group_size_));
}

void SystematicSampler::assign(std::int64_t first, std::span<ExpertIndex> out) const {
  const auto k = static_cast<std::size_t>(top_k_);
  std::int64_t v = (times_mod(multiplier_, first % period_, period_) + offset_) % period_;
  std::size_t slot = static_cast<std::size_t>(first) % k;  // which of a token's experts comes first: each in turn
  for (std::size_t t = 0; t < out.size(); t += k) {
    const auto pick = [&](const Line& line, std::int64_t from, std::size_t base) {
      for (std::int64_t x = from; x < line.length(); x += line.unit()) {
        out[t + slot] = static_cast<ExpertIndex>(base + line.at(x).first);
        slot = slot + 1 == k ? 0 : slot + 1;
      }
    };
    if (!groups_) {
      pick(experts_.front(), v, 0);
    } else {
      for (std::int64_t x = v; x < groups_->length(); x += period_) {
        const auto [g, begin] = groups_->at(x);
        pick(experts_[g], x - begin, g * group_size_);
      }
    }
    v += multiplier_;
    if (v >= period_) v -= period_;
    slot = slot + 1 == k ? 0 : slot + 1;
  }
}

}  // namespace moesim::load
