// A part of a routing is that part, and a law over more tokens keeps its first ones.
#include "models/load/part.hpp"

#include <doctest/doctest.h>

#include "models/load/synthetic.hpp"

using namespace moesim;
using namespace moesim::load;

namespace {

std::shared_ptr<const Routing> law(std::string name, std::int64_t tokens, std::int64_t law_tokens) {
  SyntheticSpec spec;
  spec.shape = {.moe_layers = 2, .experts = 16, .top_k = 2, .tokens = tokens};
  spec.law.name = std::move(name);
  spec.law_tokens = law_tokens;
  return make_synthetic(spec);
}

std::vector<ExpertIndex> decisions(const Routing& r, int layer, std::int64_t first, std::int64_t count) {
  std::vector<ExpertIndex> out(static_cast<std::size_t>(count * r.top_k()));
  r.assign(layer, first, out);
  return out;
}

}  // namespace

TEST_CASE("a part is the whole's tokens from its first on, and starts over at its end") {
  const auto whole = law("zipf", 100, 0);
  const Part part(whole, 60, 90);
  CHECK(part.tokens() == 90);
  CHECK(part.description().ends_with("from token 60"));
  for (int layer = 0; layer < 2; ++layer) {
    CHECK(decisions(part, layer, 0, 40) == decisions(*whole, layer, 60, 40));
    CHECK(decisions(part, layer, 40, 40) == decisions(*whole, layer, 60, 40));
    std::vector<ExpertIndex> across = decisions(*whole, layer, 95, 5);
    const std::vector<ExpertIndex> begin = decisions(*whole, layer, 60, 7);
    across.insert(across.end(), begin.begin(), begin.end());
    CHECK(decisions(part, layer, 35, 12) == across);
  }
}

TEST_CASE("more tokens of the law of a step: the step's own come first") {
  // power_law is drawn on [1, 0.8 T]: without law_tokens a longer routing has another law.
  const auto step = law("power_law", 64, 0);
  CHECK(decisions(*step, 1, 0, 64) == decisions(*law("power_law", 640, 64), 1, 0, 64));
  CHECK(decisions(*step, 1, 0, 64) != decisions(*law("power_law", 640, 0), 1, 0, 64));
  CHECK(decisions(*step, 1, 0, 64) != decisions(*law("power_law", 640, 64), 1, 64, 64));
}
