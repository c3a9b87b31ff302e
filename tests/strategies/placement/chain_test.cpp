#include "strategies/placement/chain.hpp"

#include <doctest/doctest.h>

#include <numeric>

#include "recorded.hpp"
#include "strategies/placement/programs.hpp"

namespace moesim::placement {
namespace {

Matrix random_matrix(int n, std::mt19937_64& rng) {
  std::uniform_int_distribution<int> draw(0, 100);
  Matrix m(n, n);
  for (int r = 0; r < n; ++r)
    for (int c = 0; c < n; ++c) m.at(r, c) = draw(rng);
  return m;
}

template <class Visit>
void for_every_permutation(int n, Visit&& visit) {
  std::vector<int> p(static_cast<std::size_t>(n));
  std::iota(p.begin(), p.end(), 0);
  do visit(p);
  while (std::next_permutation(p.begin(), p.end()));
}

double chosen(const Matrix& m, const std::vector<int>& p) {
  double sum = 0;
  for (int r = 0; r < m.rows(); ++r) sum += m.at(r, p[static_cast<std::size_t>(r)]);
  return sum;
}
double largest_unchosen(const Matrix& m, const std::vector<int>& p) {
  double worst = 0;
  for (int r = 0; r < m.rows(); ++r)
    for (int c = 0; c < m.cols(); ++c)
      if (p[static_cast<std::size_t>(r)] != c) worst = std::max(worst, m.at(r, c));
  return worst;
}

// Every placement of every layer's clusters.
double brute_force(const Chain& chain, bool equal_memory) {
  std::vector<std::vector<int>> ways;
  for_every_permutation(chain.shape.gpus, [&](const std::vector<int>& p) { ways.push_back(p); });
  Positions gpu_of(static_cast<std::size_t>(chain.layers()));
  double best = 1e300;
  const std::function<void(std::size_t)> fill = [&](std::size_t l) {
    if (l == gpu_of.size()) {
      const std::vector<int> sizes = gpu_sizes(chain, gpu_of);
      const bool even = std::adjacent_find(sizes.begin(), sizes.end(), std::not_equal_to<>()) == sizes.end();
      if (even || !equal_memory) best = std::min(best, chain_cost(chain, gpu_of));
      return;
    }
    for (const auto& way : ways) {
      gpu_of[l] = way;
      fill(l + 1);
    }
  };
  fill(0);
  return best;
}

Chain random_chain(int layers, const ClusterShape& shape, ChainCost cost, std::mt19937_64& rng) {
  Chain chain{{}, {}, shape, cost};
  for (int l = 0; l < layers; ++l) chain.size.emplace_back(static_cast<std::size_t>(shape.gpus), 2);
  for (int l = 0; l + 1 < layers; ++l) chain.flow.push_back(random_matrix(shape.gpus, rng));
  return chain;
}

Positions in_order(const Chain& chain) {
  std::vector<int> p(static_cast<std::size_t>(chain.shape.gpus));
  std::iota(p.begin(), p.end(), 0);
  return Positions(static_cast<std::size_t>(chain.layers()), p);
}

const ClusterShape one_node{.gpus = 4, .nodes = 1, .intra = BytesPerSecond(450e9), .inter = BytesPerSecond(50e9)};
const ClusterShape two_nodes{.gpus = 4, .nodes = 2, .intra = BytesPerSecond(450e9), .inter = BytesPerSecond(50e9)};
const ClusterShape four_nodes{.gpus = 4, .nodes = 4, .intra = BytesPerSecond(450e9), .inter = BytesPerSecond(50e9)};

TEST_CASE("assignment problems against all permutations") {
  std::mt19937_64 rng(1);
  for (int n = 1; n <= 6; ++n)
    for (int i = 0; i < 30; ++i) {
      const Matrix m = random_matrix(n, rng);
      double least = 1e300;
      double unchosen = 1e300;
      double most_beside = -1;  // largest chosen total among the permutations of least unchosen cell
      for_every_permutation(n, [&](const std::vector<int>& p) {
        least = std::min(least, chosen(m, p));
        const double u = largest_unchosen(m, p);
        if (u < unchosen) most_beside = -1;
        unchosen = std::min(unchosen, u);
        if (u == unchosen) most_beside = std::max(most_beside, chosen(m, p));
      });
      CHECK(chosen(m, least_total(m)) == doctest::Approx(least));
      double left = -1;
      const std::vector<int> p = least_unchosen(m, &left);
      CHECK(left == doctest::Approx(unchosen));
      CHECK(largest_unchosen(m, p) == doctest::Approx(unchosen));
      CHECK(chosen(m, p) == doctest::Approx(most_beside));
    }
}

TEST_CASE("cost of a transition, by hand") {
  // Clusters 0, 1 at layer 0 on GPUs 0, 1; at layer 1 on GPUs 1, 0. Flow 0 -> 0: 5, 0 -> 1: 7, 1 -> 0: 2, 1 -> 1: 1.
  Chain chain{{Matrix(2, 2)}, {{1, 1}, {1, 1}}, {.gpus = 2, .nodes = 1}, ChainCost::total};
  chain.flow[0].at(0, 0) = 5;
  chain.flow[0].at(0, 1) = 7;
  chain.flow[0].at(1, 0) = 2;
  chain.flow[0].at(1, 1) = 1;
  const Positions crossed{{0, 1}, {1, 0}};
  CHECK(chain_cost(chain, crossed) == 6);  // 0 -> 0 and 1 -> 1 move: 5 + 1
  chain.cost = ChainCost::worst_pair;
  CHECK(chain_cost(chain, crossed) == 5);
  chain.shape = {.gpus = 2, .nodes = 2, .intra = BytesPerSecond(450e9), .inter = BytesPerSecond(50e9)};
  CHECK(chain_cost(chain, crossed) == 45);  // between nodes: 9 times as much
}

TEST_CASE("shortest path is the optimum of all placements") {
  std::mt19937_64 rng(2);
  for (const ClusterShape& shape : {one_node, two_nodes, four_nodes})
    for (const ChainCost cost : {ChainCost::total, ChainCost::worst_pair})
      for (int i = 0; i < 8; ++i) {
        const Chain chain = random_chain(3, shape, cost, rng);
        const std::optional<Positions> path = shortest_path(chain);
        REQUIRE(path.has_value());
        const double best = brute_force(chain, false);
        CHECK(chain_cost(chain, *path) == doctest::Approx(best));
        CHECK(chain_lower_bound(chain) <= best * (1 + 1e-12));
        const Positions descended = coordinate_descent(chain, in_order(chain));
        CHECK(chain_cost(chain, descended) <= chain_cost(chain, in_order(chain)));
        CHECK(chain_cost(chain, descended) >= best * (1 - 1e-12));
      }
}

TEST_CASE("many groupings: no exact path, and descent is close to what a longer search finds") {
  std::mt19937_64 rng(3);
  const ClusterShape wide{.gpus = 16, .nodes = 2};
  CHECK_FALSE(shortest_path(random_chain(2, wide, ChainCost::total, rng)).has_value());
  CHECK(shortest_path(random_chain(2, {.gpus = 8, .nodes = 4}, ChainCost::total, rng)).has_value());
  // Where the exact path is known, descent from the identity ends within a few percent of it.
  for (int i = 0; i < 5; ++i) {
    const Chain chain = random_chain(10, {.gpus = 8, .nodes = 2}, ChainCost::total, rng);
    const double best = chain_cost(chain, *shortest_path(chain));
    CHECK(chain_cost(chain, coordinate_descent(chain, in_order(chain))) <= 1.05 * best);
  }
}

TEST_CASE("a planted permutation is found: no token moves") {
  std::mt19937_64 rng(4);
  for (const ClusterShape& shape : {one_node, two_nodes, ClusterShape{.gpus = 8, .nodes = 2}}) {
    Chain chain{{}, {}, shape, ChainCost::total};
    for (int l = 0; l < 6; ++l) chain.size.emplace_back(static_cast<std::size_t>(shape.gpus), 1);
    for (int l = 0; l < 5; ++l) {
      std::vector<int> p(static_cast<std::size_t>(shape.gpus));
      std::iota(p.begin(), p.end(), 0);
      std::shuffle(p.begin(), p.end(), rng);
      Matrix flow(shape.gpus, shape.gpus);
      for (int c = 0; c < shape.gpus; ++c) flow.at(c, p[static_cast<std::size_t>(c)]) = 10;
      chain.flow.push_back(std::move(flow));
    }
    CHECK(chain_cost(chain, *shortest_path(chain)) == 0);
    chain.cost = ChainCost::worst_pair;
    CHECK(chain_cost(chain, *shortest_path(chain)) == 0);
  }
}

TEST_CASE("equal memory with clusters of different sizes, against all placements") {
  std::mt19937_64 rng(5);
  int optimal = 0;
  for (int i = 0; i < 12; ++i) {
    const ClusterShape shape = i % 2 == 0 ? ClusterShape{.gpus = 3, .nodes = 1} : two_nodes;
    Chain chain = random_chain(i % 2 == 0 ? 4 : 3, shape, i % 3 == 0 ? ChainCost::total : ChainCost::worst_pair, rng);
    // Sizes 1, 2, 3 in turn: over three layers every GPU can hold 6.
    for (std::size_t l = 0; l < chain.size.size(); ++l)
      for (std::size_t c = 0; c < chain.size[l].size(); ++c)
        chain.size[l][c] = l < 3 && c < 3 ? static_cast<int>((l + c) % 3) + 1 : l < 3 ? 2 : 1;
    const double best = brute_force(chain, true);
    REQUIRE(best < 1e300);
    const std::optional<Positions> even = equalize_sizes(chain, *shortest_path(chain));
    REQUIRE(even.has_value());
    const std::vector<int> sizes = gpu_sizes(chain, *even);
    CHECK(std::adjacent_find(sizes.begin(), sizes.end(), std::not_equal_to<>()) == sizes.end());
    CHECK(chain_cost(chain, *even) >= best * (1 - 1e-12));
    CHECK(chain_cost(chain, *even) <= 1.5 * best);
    optimal += chain_cost(chain, *even) <= best * (1 + 1e-12) ? 1 : 0;
  }
  MESSAGE("optimal in ", optimal, " of 12");
  CHECK(optimal >= 4);
  // 1 + 3 and 3 + 3 experts: ten do not divide into two equal halves by whole clusters of 1, 3, 3, 3.
  const Chain odd{{Matrix(2, 2)}, {{1, 3}, {3, 3}}, {.gpus = 2, .nodes = 1}, ChainCost::total};
  CHECK_FALSE(equalize_sizes(odd, in_order(odd)).has_value());
}

TEST_CASE("the communication program has the same optimum, and its encoding is feasible at the same cost") {
  std::mt19937_64 rng(6);
  for (const ClusterShape& shape : {one_node, two_nodes, four_nodes, ClusterShape{.gpus = 3, .nodes = 1}})
    for (const ChainCost cost : {ChainCost::total, ChainCost::worst_pair}) {
      const bool uneven = shape.gpus == 3;
      Chain chain = random_chain(uneven || shape.nodes == 1 ? 3 : 2, shape, cost, rng);
      if (uneven) chain.size = {{1, 2, 3}, {1, 2, 3}, {1, 2, 3}};
      const ChainProgram program(chain, uneven);
      CHECK(static_cast<std::int64_t>(program.problem().columns().size()) ==
            ChainProgram::columns(chain) + (cost == ChainCost::total ? 1 : chain.layers() - 1));
      std::optional<Positions> known = shortest_path(chain);
      if (uneven) known = equalize_sizes(chain, *known);
      REQUIRE(known.has_value());
      const std::vector<double> x = program.encode(*known);
      CHECK(program.problem().violation(x) < 1e-9);
      CHECK(program.problem().objective(x) == doctest::Approx(chain_cost(chain, *known)));
      CHECK(program.decode(x) == program.canonical(*known));
      CHECK(chain_cost(chain, program.canonical(*known)) == doctest::Approx(chain_cost(chain, *known)));

      const MilpSolution cold = solve(program.problem(), {.seconds = 60});  // without the warm start
      REQUIRE(cold.status == MilpSolution::Status::optimal);
      CHECK(cold.objective == doctest::Approx(brute_force(chain, uneven)));
      CHECK(chain_cost(chain, program.decode(cold.x)) == doctest::Approx(cold.objective));
    }
}

}  // namespace
}  // namespace moesim::placement
