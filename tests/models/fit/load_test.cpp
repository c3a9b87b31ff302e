#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

#include "models/fit/expert_load.hpp"

using namespace moesim::fit;

namespace {
std::int64_t sum(const std::vector<std::int32_t>& rows) {
  return std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
}
}  // namespace

TEST_CASE("a balanced load spreads copies evenly over the rank's experts") {
  // 64 tokens x top-2 over 8 experts are 16 copies each; a rank of EP 4 has two experts.
  const std::vector<std::int32_t> rows = balanced_load({.tokens = 64, .top_k = 2, .experts = 8, .ep = 4});
  CHECK(rows == std::vector<std::int32_t>{16, 16});
  // One token of top-2 uses two of eight experts.
  CHECK(sum(balanced_load({.tokens = 1, .top_k = 2, .experts = 8, .ep = 1})) == 2);
}

TEST_CASE("a skewed load keeps all copies, gives no expert more than all tokens, and times the hottest rank") {
  for (const std::int64_t tokens : {1, 7, 100, 4096})
    for (const std::uint64_t seed : {0U, 1U, 2U}) {
      CAPTURE(tokens);
      CAPTURE(seed);
      const ExpertLoadShape whole{.tokens = tokens, .top_k = 4, .experts = 64, .ep = 1};
      const std::vector<std::int32_t> all = power_law_load(whole, 1.2, seed);
      CHECK(sum(all) == tokens * 4);
      CHECK(*std::max_element(all.begin(), all.end()) <= tokens);
      CHECK(*std::min_element(all.begin(), all.end()) >= 0);
      ExpertLoadShape part = whole;
      part.ep = 8;
      const std::vector<std::int32_t> hottest = power_law_load(part, 1.2, seed);
      std::int64_t most = 0;
      for (std::size_t rank = 0; rank < 8; ++rank)
        most =
            std::max(most, std::accumulate(all.begin() + static_cast<std::ptrdiff_t>(8 * rank),
                                           all.begin() + static_cast<std::ptrdiff_t>(8 * rank + 8), std::int64_t{0}));
      CHECK(hottest.size() == 8);
      CHECK(sum(hottest) == most);
    }
}

TEST_CASE("the same seed draws the same load") {
  const ExpertLoadShape shape{.tokens = 512, .top_k = 2, .experts = 16, .ep = 4};
  CHECK(power_law_load(shape, 1.01, 5) == power_law_load(shape, 1.01, 5));
  CHECK(power_law_load(shape, 1.01, 5) != power_law_load(shape, 1.01, 6));
}
