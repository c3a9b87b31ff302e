#include "strategies/placement/programs.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <functional>
#include <numeric>

namespace moesim::placement {

namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

std::vector<double> cluster_loads(std::span<const double> loads, int clusters, const Clusters& cluster_of) {
  std::vector<double> sum(at(clusters));
  for (std::size_t e = 0; e < loads.size(); ++e) sum[at(cluster_of[e])] += loads[e];
  return sum;
}

double mean_load(std::span<const double> loads, int clusters) {
  return std::accumulate(loads.begin(), loads.end(), 0.0) / clusters;
}

}  // namespace

// ---- balance
// ---------------------------------------------------------------------------------------------------------

double deviation(std::span<const double> loads, int clusters, const Clusters& cluster_of) {
  const double mean = mean_load(loads, clusters);
  double sum = 0;
  for (const double t : cluster_loads(loads, clusters, cluster_of)) sum += std::abs(t - mean);
  return sum;
}

double least_deviation(std::span<const double> loads, int clusters) {
  return loads.empty() ? 0
                       : 2 * std::max(0.0, *std::max_element(loads.begin(), loads.end()) - mean_load(loads, clusters));
}

BalanceProgram::BalanceProgram(std::span<const double> loads, int clusters, bool equal_sizes)
    : loads_(loads.begin(), loads.end()), clusters_(clusters), by_load_(loads.size()) {
  std::iota(by_load_.begin(), by_load_.end(), std::size_t{0});
  std::stable_sort(by_load_.begin(), by_load_.end(), [&](std::size_t a, std::size_t b) { return loads[a] > loads[b]; });
  const int experts = static_cast<int>(loads.size());
  for (std::size_t r = 0; r < by_load_.size(); ++r)
    for (int c = 0; c < clusters; ++c) {
      const int column = problem_.add_binary(fmt::format("x_{}_{}", c, by_load_[r]));
      if (at(c) > r) problem_.fix(column, 0);
    }
  first_deviation_ = static_cast<int>(problem_.columns().size());
  for (int c = 0; c < clusters; ++c)
    problem_.add_column({.name = fmt::format("d_{}", c), .upper = milp_infinity, .objective = 1});

  for (std::size_t r = 0; r < by_load_.size(); ++r) {
    std::vector<Milp::Term> once;
    for (int c = 0; c < clusters; ++c) once.push_back({x(c, r), 1});
    problem_.add_equal(fmt::format("once_{}", by_load_[r]), 1, std::move(once));
  }
  const double mean = mean_load(loads, clusters);
  const int fewest = equal_sizes ? experts / clusters : 1;
  const int most = (experts + clusters - 1) / clusters;
  for (int c = 0; c < clusters; ++c) {
    std::vector<Milp::Term> size;
    std::vector<Milp::Term> load;
    for (std::size_t r = 0; r < by_load_.size(); ++r) {
      size.push_back({x(c, r), 1});
      if (loads_[by_load_[r]] != 0) load.push_back({x(c, r), loads_[by_load_[r]]});
    }
    problem_.add_row(fmt::format("size_{}", c), fewest, equal_sizes ? most : milp_infinity, std::move(size));
    // d >= T - mean and d >= mean - T
    load.push_back({first_deviation_ + c, -1});
    problem_.add_row(fmt::format("above_{}", c), -milp_infinity, mean, load);
    load.back().factor = 1;
    problem_.add_row(fmt::format("below_{}", c), mean, milp_infinity, std::move(load));
  }
}

int BalanceProgram::x(int cluster, std::size_t rank) const { return static_cast<int>(rank) * clusters_ + cluster; }

std::vector<double> BalanceProgram::encode(const Clusters& cluster_of) const {
  // Clusters by their hottest expert, as the program numbers them.
  std::vector<int> number(at(clusters_), -1);
  int next = 0;
  std::vector<double> out(problem_.columns().size());
  for (std::size_t r = 0; r < by_load_.size(); ++r) {
    int& n = number[at(cluster_of[by_load_[r]])];
    if (n < 0) n = next++;
    out[at(x(n, r))] = 1;
  }
  const double mean = mean_load(loads_, clusters_);
  const std::vector<double> sum = cluster_loads(loads_, clusters_, decode(out));
  for (int c = 0; c < clusters_; ++c) out[at(first_deviation_ + c)] = std::abs(sum[at(c)] - mean);
  return out;
}

Clusters BalanceProgram::decode(std::span<const double> values) const {
  Clusters out(loads_.size());
  for (std::size_t r = 0; r < by_load_.size(); ++r)
    for (int c = 0; c < clusters_; ++c)
      if (values[at(x(c, r))] > 0.5) out[by_load_[r]] = c;
  return out;
}

// ---- communication
// ---------------------------------------------------------------------------------------------------

namespace {

int levels(const ClusterShape& shape) { return shape.gpus_per_node() == 1 ? 1 : shape.nodes; }

// One GPU a node: every pair costs intra / inter, which goes into the flow.
std::vector<Matrix> scaled_flow(const Chain& chain) {
  std::vector<Matrix> flow = chain.flow;
  if (chain.shape.nodes > 1 && levels(chain.shape) == 1)
    for (Matrix& m : flow)
      for (int a = 0; a < m.rows(); ++a)
        for (int b = 0; b < m.cols(); ++b) m.at(a, b) *= chain.shape.intra / chain.shape.inter;
  return flow;
}

// What no placement of a transition goes below: each row and column keeps its largest cell on the GPU, the next
// per_node - 1 on the node, and sends the rest away.
double transition_bound(const Matrix& flow, int per_node, double far, ChainCost cost) {
  double worst = 0;
  double by_rows = 0;
  double by_columns = 0;
  for (int i = 0; i < flow.rows(); ++i)
    for (const bool row : {true, false}) {
      std::vector<double> cells;
      for (int j = 0; j < flow.rows(); ++j) cells.push_back(row ? flow.at(i, j) : flow.at(j, i));
      std::sort(cells.begin(), cells.end(), std::greater<>());
      for (int j = 1; j < flow.rows(); ++j) {
        const double c = cells[at(j)] * (j < per_node ? 1 : far);
        worst = std::max(worst, c);
        (row ? by_rows : by_columns) += c;
      }
    }
  return cost == ChainCost::worst_pair ? worst : std::max(by_rows, by_columns);
}

}  // namespace

std::int64_t ChainProgram::columns(const Chain& chain) {
  const std::int64_t g = chain.shape.gpus;
  const std::int64_t nodes = levels(chain.shape);
  return chain.layers() * g * g + (chain.layers() - 1) * g * g * (g + (nodes > 1 ? nodes : 0));
}

ChainProgram::ChainProgram(const Chain& chain, bool equal_memory)
    : layers_(chain.layers()),
      gpus_(chain.shape.gpus),
      nodes_(levels(chain.shape)),
      far_(nodes_ > 1 ? chain.shape.intra / chain.shape.inter : 1),
      cost_(chain.cost),
      flow_(scaled_flow(chain)) {
  add_placements(chain, equal_memory);
  add_products(chain);
  add_costs();
}

void ChainProgram::add_placements(const Chain& chain, bool equal_memory) {
  for (int l = 0; l < layers_; ++l)
    for (int c = 0; c < gpus_; ++c)
      for (int g = 0; g < gpus_; ++g) problem_.add_binary(fmt::format("y_{}_{}_{}", l, c, g));
  const int per_node = gpus_ / nodes_;
  for (int c = 0; c < gpus_; ++c)
    for (int g = 0; g < gpus_; ++g)
      if (nodes_ == 1 ? c != g : c < g / per_node + g % per_node || (c == 0 && g != 0)) problem_.fix(y(0, c, g), 0);
  for (int l = 0; l < layers_; ++l)
    for (int i = 0; i < gpus_; ++i) {
      std::vector<Milp::Term> one_gpu;
      std::vector<Milp::Term> one_cluster;
      for (int j = 0; j < gpus_; ++j) {
        one_gpu.push_back({y(l, i, j), 1});
        one_cluster.push_back({y(l, j, i), 1});
      }
      problem_.add_equal(fmt::format("cluster_{}_{}", l, i), 1, std::move(one_gpu));
      problem_.add_equal(fmt::format("gpu_{}_{}", l, i), 1, std::move(one_cluster));
    }
  if (!equal_memory) return;
  int total = 0;
  for (const auto& sizes : chain.size) total = std::accumulate(sizes.begin(), sizes.end(), total);
  for (int g = 0; g < gpus_; ++g) {
    std::vector<Milp::Term> experts;
    for (int l = 0; l < layers_; ++l)
      for (int c = 0; c < gpus_; ++c) experts.push_back({y(l, c, g), static_cast<double>(chain.size[at(l)][at(c)])});
    problem_.add_equal(fmt::format("memory_{}", g), static_cast<double>(total) / gpus_, std::move(experts));
  }
}

void ChainProgram::add_products(const Chain& chain) {
  const int transitions = layers_ - 1;
  const int per_node = chain.shape.gpus_per_node();
  first_z_ = static_cast<int>(problem_.columns().size());
  for (int l = 0; l < transitions; ++l)
    for (int a = 0; a < gpus_; ++a)
      for (int b = 0; b < gpus_; ++b)
        for (int g = 0; g < gpus_; ++g) problem_.add_column({.name = fmt::format("z_{}_{}_{}_{}", l, a, b, g)});
  first_u_ = static_cast<int>(problem_.columns().size());
  if (nodes_ > 1)
    for (int l = 0; l < transitions; ++l)
      for (int a = 0; a < gpus_; ++a)
        for (int b = 0; b < gpus_; ++b)
          for (int n = 0; n < nodes_; ++n) problem_.add_column({.name = fmt::format("u_{}_{}_{}_{}", l, a, b, n)});

  for (int l = 0; l < transitions; ++l)
    for (int c = 0; c < gpus_; ++c) {
      for (int g = 0; g < gpus_; ++g) {
        std::vector<Milp::Term> out{{y(l, c, g), -1}};
        std::vector<Milp::Term> in{{y(l + 1, c, g), -1}};
        for (int d = 0; d < gpus_; ++d) {
          out.push_back({z(l, c, d, g), 1});
          in.push_back({z(l, d, c, g), 1});
        }
        problem_.add_equal(fmt::format("zout_{}_{}_{}", l, c, g), 0, std::move(out));
        problem_.add_equal(fmt::format("zin_{}_{}_{}", l, c, g), 0, std::move(in));
      }
      for (int n = 0; nodes_ > 1 && n < nodes_; ++n) {
        std::vector<Milp::Term> out;
        std::vector<Milp::Term> in;
        for (int g = n * per_node; g < (n + 1) * per_node; ++g) {
          out.push_back({y(l, c, g), -static_cast<double>(per_node)});
          in.push_back({y(l + 1, c, g), -static_cast<double>(per_node)});
        }
        for (int d = 0; d < gpus_; ++d) {
          out.push_back({u(l, c, d, n), 1});
          in.push_back({u(l, d, c, n), 1});
        }
        problem_.add_equal(fmt::format("uout_{}_{}_{}", l, c, n), 0, std::move(out));
        problem_.add_equal(fmt::format("uin_{}_{}_{}", l, c, n), 0, std::move(in));
      }
    }
}

void ChainProgram::add_costs() {
  const int transitions = layers_ - 1;
  first_t_ = static_cast<int>(problem_.columns().size());
  // worst_pair: t_l. total: one fixed column carries the constant part of the objective.
  const bool worst = cost_ == ChainCost::worst_pair;
  double constant = 0;
  if (!worst)
    for (const Matrix& flow : flow_) constant += far_ * flow.sum();
  for (int l = 0; l < (worst ? transitions : 1); ++l)
    problem_.add_column({.name = worst ? fmt::format("t_{}", l) : "constant",
                         .lower = worst ? transition_bound(flow_[at(l)], gpus_ / nodes_, far_, cost_) : 1.0,
                         .upper = worst ? milp_infinity : 1.0,
                         .objective = worst ? 1 : constant});
  for (int l = 0; l < transitions; ++l)
    for (int a = 0; a < gpus_; ++a)
      for (int b = 0; b < gpus_; ++b) {
        const double flow = flow_[at(l)].at(a, b);
        if (flow == 0) continue;
        // flow * (far + (1 - far) sum u - sum z); with one node sum u = 1 and far = 1.
        std::vector<Milp::Term> terms;
        for (int g = 0; g < gpus_; ++g) terms.push_back({z(l, a, b, g), -flow});
        for (int n = 0; nodes_ > 1 && n < nodes_; ++n) terms.push_back({u(l, a, b, n), flow * (1 - far_)});
        if (worst) {
          terms.push_back({first_t_ + l, -1});
          problem_.add_row(fmt::format("pair_{}_{}_{}", l, a, b), -milp_infinity, -flow * far_, std::move(terms));
        } else {
          for (const Milp::Term& t : terms) problem_.set_objective(t.column, t.factor);
        }
      }
}

Positions ChainProgram::canonical(Positions gpu_of) const {
  const int per_node = gpus_ / nodes_;
  std::vector<std::vector<int>> nodes(at(nodes_));  // layer 0's clusters, rising
  for (int c = 0; c < gpus_; ++c) nodes[at(gpu_of[0][at(c)] / per_node)].push_back(c);
  std::sort(nodes.begin(), nodes.end());
  std::vector<int> renamed(at(gpus_));
  int next = 0;
  for (const auto& clusters : nodes)
    for (const int c : clusters) renamed[at(gpu_of[0][at(c)])] = next++;
  for (auto& layer : gpu_of)
    for (int& g : layer) g = renamed[at(g)];
  return gpu_of;
}

std::vector<double> ChainProgram::encode(const Positions& given) const {
  const Positions gpu_of = canonical(given);
  std::vector<double> out(problem_.columns().size());
  const int per_node = gpus_ / nodes_;
  for (int l = 0; l < layers_; ++l)
    for (int c = 0; c < gpus_; ++c) out[at(y(l, c, gpu_of[at(l)][at(c)]))] = 1;
  for (int l = 0; l + 1 < layers_; ++l) {
    double worst = 0;
    for (int a = 0; a < gpus_; ++a)
      for (int b = 0; b < gpus_; ++b) {
        const int from = gpu_of[at(l)][at(a)];
        const int to = gpu_of[at(l) + 1][at(b)];
        const bool same_node = from / per_node == to / per_node;
        if (from == to) out[at(z(l, a, b, from))] = 1;
        if (nodes_ > 1 && same_node) out[at(u(l, a, b, from / per_node))] = 1;
        worst = std::max(worst, flow_[at(l)].at(a, b) * (from == to ? 0 : same_node ? 1 : far_));
      }
    if (cost_ == ChainCost::worst_pair) out[at(first_t_ + l)] = worst;
  }
  if (cost_ == ChainCost::total) out[at(first_t_)] = 1;
  return out;
}

Positions ChainProgram::decode(std::span<const double> x) const {
  Positions out(at(layers_), std::vector<int>(at(gpus_)));
  for (int l = 0; l < layers_; ++l)
    for (int c = 0; c < gpus_; ++c)
      for (int g = 0; g < gpus_; ++g)
        if (x[at(y(l, c, g))] > 0.5) out[at(l)][at(c)] = g;
  return out;
}

double chain_lower_bound(const Chain& chain) {
  const double far = levels(chain.shape) > 1 ? chain.shape.intra / chain.shape.inter : 1;
  double sum = 0;
  for (const Matrix& flow : scaled_flow(chain))
    sum += transition_bound(flow, chain.shape.gpus / levels(chain.shape), far, chain.cost);
  return sum;
}

}  // namespace moesim::placement
