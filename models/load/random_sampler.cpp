#include "models/load/random_sampler.hpp"

#include <algorithm>
#include <numeric>

namespace moesim::load {

RandomSampler::Shuffles::Shuffles(std::span<const double> inclusion, std::size_t experts, std::uint64_t key) {
  // Without a second lane nothing meets, so one order is as good as any other.
  const double sum = std::accumulate(inclusion.begin(), inclusion.end(), 0.0);
  std::size_t shuffles = 1;
  while (sum > 1.5 && shuffles < 256 && (shuffles < 16 || shuffles * experts < (1 << 14))) shuffles *= 2;
  std::vector<std::size_t> order(inclusion.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  Draws draws(key, 0);
  lanes_.reserve(shuffles);
  for (std::size_t i = 0; i < shuffles; ++i) {
    if (i > 0 || shuffles > 1) shuffle(std::span(order), draws);
    lanes_.emplace_back(inclusion, order);
  }
}

RandomSampler::RandomSampler(const Inclusion& inclusion, const RoutingShape& shape, std::uint64_t key)
    : key_(key),
      top_k_(shape.top_k),
      groups_per_token_(static_cast<std::size_t>(shape.groups_per_token)),
      group_size_(inclusion.expert.size() / inclusion.group.size()) {
  if (inclusion.group.size() > 1) groups_.emplace_back(inclusion.group, inclusion.group.size(), mix(key));
  for (std::size_t g = 0; g < inclusion.group.size(); ++g)
    experts_.emplace_back(std::span(inclusion.expert).subspan(g * group_size_, group_size_), inclusion.expert.size(),
                          mix(key + 1 + g));
}

void RandomSampler::assign(std::int64_t first, std::span<ExpertIndex> out) const {
  constexpr int block_bits = 6;
  const std::int64_t end = first + static_cast<std::int64_t>(out.size() / static_cast<std::size_t>(top_k_));
  const std::uint64_t turns_key = mix(key_);
  const std::uint64_t groups_key = mix(turns_key);
  std::vector<const Lanes*> experts(experts_.size());
  std::vector<ExpertIndex> chosen(groups_.empty() ? 0 : groups_per_token_ << block_bits);
  ExpertIndex* next = out.data();
  for (std::int64_t token = first; token < end;) {
    const std::int64_t block = token >> block_bits;
    const std::int64_t stop = std::min(end, (block + 1) << block_bits);
    Draws turns(turns_key, static_cast<std::uint64_t>(block));
    for (std::size_t g = 0; g < experts.size(); ++g) experts[g] = &experts_[g].any(turns.next());
    if (groups_.empty()) {
      for (; token < stop; ++token) {
        Draws draws(key_, static_cast<std::uint64_t>(token));
        experts.front()->pick(draws, [&](ExpertIndex item) { *next++ = item; });
      }
      continue;
    }
    const Lanes& groups = groups_.front().any(turns.next());
    ExpertIndex* last = chosen.data();
    for (std::int64_t t = token; t < stop; ++t) {
      Draws draws(groups_key, static_cast<std::uint64_t>(t));
      groups.pick(draws, [&](ExpertIndex g) { *last++ = g; });
    }
    std::uint64_t counter = static_cast<std::uint64_t>(token) * groups_per_token_;
    for (const ExpertIndex* g = chosen.data(); g != last; ++g, ++counter) {
      Draws draws(key_, counter);
      const std::size_t base = *g * group_size_;
      experts[*g]->pick(draws, [&](ExpertIndex item) { *next++ = static_cast<ExpertIndex>(base + item); });
    }
    token = stop;
  }
}

}  // namespace moesim::load
