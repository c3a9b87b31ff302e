#include "moesim/placement.hpp"

#include <doctest/doctest.h>

#include <stdexcept>
#include <string>

namespace moesim {
namespace {

std::vector<int> experts_on(const ExpertPlacement& p, int rank) {
  std::vector<int> out;
  for (int s = p.slot_begin[Rank(rank).index()]; s < p.slot_begin[Rank(rank).index() + 1]; ++s)
    out.push_back(p.expert_of_slot[PhysicalExpert(s).index()].value());
  return out;
}

std::string fault(const ExpertPlacement& p, int experts) {
  try {
    validate(p, experts);
  } catch (const std::invalid_argument& e) {
    return e.what();
  }
  return {};
}

TEST_CASE("contiguous: earlier ranks hold one more when the experts do not divide") {
  const ExpertPlacement p = contiguous_placement(7, 3);
  CHECK(experts_on(p, 0) == std::vector{0, 1, 2});
  CHECK(experts_on(p, 1) == std::vector{3, 4});
  CHECK(experts_on(p, 2) == std::vector{5, 6});
  CHECK(p.ranks() == 3);
}

TEST_CASE("round robin: expert e is on rank e mod ranks") {
  const ExpertPlacement p = round_robin_placement(7, 3);
  CHECK(experts_on(p, 0) == std::vector{0, 3, 6});
  CHECK(experts_on(p, 1) == std::vector{1, 4});
  CHECK(experts_on(p, 2) == std::vector{2, 5});
}

TEST_CASE("both are sound for every small shape, ranks without experts included") {
  for (int experts = 0; experts <= 12; ++experts)
    for (int ranks = 1; ranks <= 6; ++ranks) {
      CHECK(fault(contiguous_placement(experts, ranks), experts).empty());
      CHECK(fault(round_robin_placement(experts, ranks), experts).empty());
    }
  CHECK_THROWS_AS((void)contiguous_placement(8, 0), std::invalid_argument);
}

TEST_CASE("validate names the first fault") {
  const auto map = [](std::vector<int> experts, std::vector<int> begin) {
    ExpertPlacement p;
    for (const int e : experts) p.expert_of_slot.emplace_back(e);
    p.slot_begin = std::move(begin);
    return p;
  };
  CHECK(fault(map({0, 1, 1, 2}, {0, 2, 4}), 3).empty());  // a replica on another rank is what replicas are
  CHECK(fault(map({0, 0, 1, 2}, {0, 2, 4}), 3) == "rank 0 holds expert 0 twice");
  CHECK(fault(map({0, 1, 0, 1}, {0, 2, 4}), 3) == "expert 2 has no slot");
  CHECK(fault(map({0, 1, 2, 3}, {0, 2, 4}), 3) == "slot 3 holds expert 3; experts are numbered 0 to 2");
  CHECK(fault(map({0, 1, 2, -1}, {0, 2, 4}), 3) == "slot 3 holds expert -1; experts are numbered 0 to 2");
  CHECK(fault(map({0, 1, 2}, {0, 3, 2, 3}), 3) == "slot_begin falls from rank 1 to rank 2");
  CHECK(fault(map({0, 1, 2}, {0, 2}), 3) == "slot_begin does not run from 0 to the 3 slots");
}

}  // namespace
}  // namespace moesim
