#include "strategies/placement/moetuner.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "moesim/error.hpp"
#include "support/parallel.hpp"

namespace moesim::placement {

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }
std::size_t at(int i) { return static_cast<std::size_t>(i); }

// Too large for CBC to find anything in minutes (measured: it has not solved its first relaxation).
constexpr std::int64_t most_columns = 60'000;

// ---- balance
// ---------------------------------------------------------------------------------------------------------

struct Clustering {
  Clusters cluster_of;
  std::vector<double> load;
  std::vector<int> size;
};

// Longest processing time first, then moves and exchanges that lower the deviation, until none does.
Clustering descend(std::span<const double> loads, int clusters, bool equal_sizes) {
  const int experts = static_cast<int>(loads.size());
  const int smallest = equal_sizes ? experts / clusters : 1;
  const int largest = equal_sizes ? (experts + clusters - 1) / clusters : experts;
  Clustering c{Clusters(loads.size()), std::vector<double>(at(clusters)), std::vector<int>(at(clusters))};
  std::vector<std::size_t> by_load(loads.size());
  std::iota(by_load.begin(), by_load.end(), std::size_t{0});
  std::stable_sort(by_load.begin(), by_load.end(), [&](std::size_t a, std::size_t b) { return loads[a] > loads[b]; });
  int left = experts;
  for (const std::size_t e : by_load) {
    // Clusters below their smallest size go first where the experts left just fill them.
    int missing = 0;
    for (const int s : c.size) missing += std::max(0, smallest - s);
    int best = -1;
    for (int k = 0; k < clusters; ++k) {
      if (c.size[at(k)] == largest || (missing == left && c.size[at(k)] >= smallest)) continue;
      if (best < 0 || std::pair(c.load[at(k)], c.size[at(k)]) < std::pair(c.load[at(best)], c.size[at(best)])) best = k;
    }
    c.cluster_of[e] = best;
    c.load[at(best)] += loads[e];
    ++c.size[at(best)];
    --left;
  }

  const double mean = std::accumulate(loads.begin(), loads.end(), 0.0) / clusters;
  const auto fall = [&](int a, int b, double shift) {  // of the deviation when a gives b this much
    return std::abs(c.load[at(a)] - mean) + std::abs(c.load[at(b)] - mean) - std::abs(c.load[at(a)] - shift - mean) -
           std::abs(c.load[at(b)] + shift - mean);
  };
  const double worth = 1e-9 * std::max(mean, 1e-300);
  for (bool changed = true; changed;) {
    changed = false;
    for (std::size_t e = 0; e < loads.size(); ++e) {
      for (int b = 0; b < clusters; ++b) {
        const int a = c.cluster_of[e];
        if (a == b || c.size[at(a)] == smallest || c.size[at(b)] == largest || fall(a, b, loads[e]) <= worth) continue;
        c.load[at(a)] -= loads[e];
        c.load[at(b)] += loads[e];
        --c.size[at(a)];
        ++c.size[at(b)];
        c.cluster_of[e] = b;
        changed = true;
      }
      for (std::size_t f = e + 1; f < loads.size(); ++f) {
        const int a = c.cluster_of[e];
        const int b = c.cluster_of[f];
        if (a == b || fall(a, b, loads[e] - loads[f]) <= worth) continue;
        c.load[at(a)] -= loads[e] - loads[f];
        c.load[at(b)] += loads[e] - loads[f];
        std::swap(c.cluster_of[e], c.cluster_of[f]);
        changed = true;
      }
    }
  }
  return c;
}

std::string program_path(const MilpSolution& solution) {
  return fmt::format("program: {}{}", to_string(solution.status), solution.killed ? ", killed at its limit" : "");
}

Clusters balance_layer(std::span<const double> loads, int clusters, bool equal_sizes, const MoetunerOptions& options,
                       double seconds, SolveReport& report) {
  const auto start = Clock::now();
  Clusters cluster_of = descend(loads, clusters, equal_sizes).cluster_of;
  const double total = std::accumulate(loads.begin(), loads.end(), 0.0);
  MilpSolution known;
  known.objective = deviation(loads, clusters, cluster_of);
  known.lower_bound = least_deviation(loads, clusters);
  report.path = known.objective - known.lower_bound <= options.balance_gap * total ? "bound met" : "descent";
  if (report.path == "descent" && options.programs && seconds > 0.01) {
    const BalanceProgram program(loads, clusters, equal_sizes);
    known = solve(program.problem(), {.seconds = seconds, .distance = options.balance_gap * total},
                  program.encode(cluster_of), known.lower_bound);
    cluster_of = program.decode(known.x);
    report.path = program_path(known);
  }
  report.objective = known.objective;
  report.lower_bound = known.lower_bound;
  report.gap = total > 0 ? (known.objective - known.lower_bound) / total : 0;
  report.seconds = seconds_since(start);
  return cluster_of;
}

std::vector<Clusters> balance(const Loads& loads, int clusters, bool equal_sizes, const MoetunerOptions& options,
                              double seconds, std::vector<SolveReport>& reports) {
  std::vector<Clusters> out(at(loads.layers()));
  reports.assign(at(loads.layers()), {});
  // Most layers need a small part of their share of the time, so that a hard one may have several shares.
  const auto start = Clock::now();
  const double share = seconds * std::max(1, threads()) / std::max(1, loads.layers());
  parallel_for(loads.layers(), [&](int l) {
    const double limit = std::min(8 * share, seconds - seconds_since(start));
    out[at(l)] = balance_layer(loads.layer(l), clusters, equal_sizes, options, limit, reports[at(l)]);
  });
  return out;
}

// ---- communication
// ---------------------------------------------------------------------------------------------------

Positions in_order(const Chain& chain) {
  Positions out(at(chain.layers()), std::vector<int>(at(chain.shape.gpus)));
  for (auto& layer : out) std::iota(layer.begin(), layer.end(), 0);
  return out;
}

// Each layer after the first where it costs least given the one before: a start for the descent.
Positions greedily(const Chain& chain) {
  Positions out = in_order(chain);
  const int n = chain.shape.gpus;
  for (int l = 1; l < chain.layers(); ++l) {
    Matrix cost(n, n);
    for (int c = 0; c < n; ++c)
      for (int g = 0; g < n; ++g)
        for (int b = 0; b < n; ++b) {
          const int from = out[at(l - 1)][at(b)];
          const bool near = chain.shape.node_of(from) == chain.shape.node_of(g);
          cost.at(c, g) += chain.flow[at(l - 1)].at(b, c) * (from == g ? 0
                                                             : near    ? 1
                                                                       : chain.shape.intra / chain.shape.inter);
        }
    out[at(l)] = least_total(cost);
  }
  return out;
}

// Places the clusters. Nothing where equal memory is asked for and was not found; `reason` then says why.
std::optional<Positions> connect(const Chain& chain, const MoetunerOptions& options, double seconds,
                                 SolveReport& report, std::string& reason) {
  const auto start = Clock::now();
  const bool still = std::all_of(chain.flow.begin(), chain.flow.end(), [](const Matrix& m) { return m.sum() == 0; });
  std::optional<Positions> answer = still ? in_order(chain) : shortest_path(chain);
  report.path = still ? "in order" : answer ? "shortest path" : "coordinate descent";
  MilpSolution known;
  known.x = {0};
  if (answer) {
    known.lower_bound = chain_cost(chain, *answer);
  } else {
    known.lower_bound = chain_lower_bound(chain);
    answer = coordinate_descent(chain, in_order(chain));
    Positions other = coordinate_descent(chain, greedily(chain));
    if (chain_cost(chain, other) < chain_cost(chain, *answer)) answer = std::move(other);
  }

  const std::vector<int> sizes = gpu_sizes(chain, *answer);
  const bool uneven =
      options.equal_memory && std::adjacent_find(sizes.begin(), sizes.end(), std::not_equal_to<>()) != sizes.end();
  if (uneven) {
    answer = equalize_sizes(chain, std::move(*answer));
    report.path += " + equalized";
  }
  if (answer) known.objective = chain_cost(chain, *answer);
  if (!answer || known.gap() > options.gap) {
    const std::int64_t columns = ChainProgram::columns(chain);
    const int total = std::accumulate(sizes.begin(), sizes.end(), 0);
    if (uneven && total % chain.shape.gpus != 0) {
      reason = fmt::format("{} experts over all layers do not divide by {} GPUs", total, chain.shape.gpus);
    } else if (!options.programs || seconds < 0.01 || columns > most_columns) {
      report.path += columns > most_columns ? fmt::format(" (program of {} columns not tried)", columns) : "";
      reason = "no placement of the clusters with equal memory was found";
    } else {
      const ChainProgram program(chain, options.equal_memory);
      const double bound = known.lower_bound;
      known = solve(program.problem(), {.seconds = std::max(0.01, seconds - seconds_since(start)), .gap = options.gap},
                    answer ? program.encode(*answer) : std::vector<double>{}, bound);
      report.path = program_path(known);
      if (!known.x.empty()) answer = program.decode(known.x);
      if (!answer)
        reason = known.status == MilpSolution::Status::infeasible
                     ? "no placement of the clusters gives equal memory (proven)"
                     : "no placement of the clusters with equal memory was found in the time limit";
    }
  }
  report.objective = known.objective;
  report.lower_bound = known.lower_bound;
  report.gap = answer ? known.gap() : milp_infinity;
  report.seconds = seconds_since(start);
  return answer;
}

LayerMaps to_maps(const std::vector<Clusters>& clusters, const Positions& gpu_of, int gpus) {
  LayerMaps maps;
  for (std::size_t l = 0; l < clusters.size(); ++l) {
    std::vector<std::vector<int>> experts(at(gpus));
    for (std::size_t e = 0; e < clusters[l].size(); ++e)
      experts[at(gpu_of[l][at(clusters[l][e])])].push_back(static_cast<int>(e));
    ExpertPlacement map;
    for (const auto& gpu : experts) {
      for (const int e : gpu) map.expert_of_slot.emplace_back(e);
      map.slot_begin.push_back(map.slots());
    }
    maps.push_back(std::move(map));
  }
  return maps;
}

}  // namespace

Chain chain_of(const std::vector<Clusters>& clusters, const Movement& movement, const ClusterShape& shape,
               ChainCost cost) {
  Chain chain{cluster_flow(movement, clusters, shape.gpus), {}, shape, cost};
  for (const Clusters& layer : clusters) {
    std::vector<int> size(at(shape.gpus));
    for (const int c : layer) ++size[at(c)];
    chain.size.push_back(std::move(size));
  }
  return chain;
}

std::vector<Matrix> cluster_flow(const Movement& movement, const std::vector<Clusters>& clusters, int count) {
  std::vector<Matrix> out;
  for (std::size_t l = 0; l < movement.size(); ++l) {
    Matrix flow(count, count);
    for (int a = 0; a < movement[l].rows(); ++a)
      for (int b = 0; b < movement[l].cols(); ++b)
        flow.at(clusters[l][at(a)], clusters[l + 1][at(b)]) += movement[l].at(a, b);
    out.push_back(std::move(flow));
  }
  return out;
}

MoetunerResult moetuner(const Loads& loads, const Movement& movement, const ClusterShape& shape,
                        const MoetunerOptions& options) {
  if (loads.experts() < shape.gpus)
    throw InputError({},
                     fmt::format("moetuner: {} experts for {} GPUs; every GPU needs one", loads.experts(), shape.gpus),
                     "use fewer GPUs for experts, or shard experts over several GPUs");
  const auto start = Clock::now();
  MoetunerResult out;
  const auto place_in_order = [&](const std::vector<Clusters>& clusters) {
    return to_maps(clusters,
                   Positions(clusters.size(),
                             [&] {
                               std::vector<int> gpus(at(shape.gpus));
                               std::iota(gpus.begin(), gpus.end(), 0);
                               return gpus;
                             }()),
                   shape.gpus);
  };
  std::vector<Clusters> clusters =
      balance(loads, shape.gpus, options.equal_sizes, options, options.seconds / 2, out.balance);
  const bool stay = options.mode == Mode::stay && movement.size() + 1 == clusters.size() && clusters.size() > 1;
  if (!stay && !options.equal_memory) {
    out.maps = place_in_order(clusters);
    return out;
  }
  const auto left = [&] { return std::max(0.0, options.seconds - seconds_since(start)); };
  // Under return_home the flow is empty, and only equal memory remains to be had.
  const auto chain = [&] {
    return chain_of(clusters, stay ? movement : Movement(clusters.size() - 1, Table(loads.experts(), loads.experts())),
                    shape, options.cost);
  };
  std::optional<Positions> gpu_of = connect(chain(), options, left(), out.chain, out.reason);
  if (!gpu_of) {
    out.fallback = "equal_clusters";
    clusters = balance(loads, shape.gpus, true, options, left() / 2, out.balance);
    std::string ignored;
    MoetunerOptions equal = options;
    equal.equal_memory = loads.experts() % shape.gpus == 0;
    gpu_of = connect(chain(), equal, left(), out.chain, ignored);
  } else {
    out.reason.clear();
  }
  if (!stay) out.chain = {};
  out.maps = to_maps(clusters, gpu_of ? *gpu_of : in_order(chain()), shape.gpus);
  return out;
}

}  // namespace moesim::placement
