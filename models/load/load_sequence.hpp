// Expert loads that change from one training iteration to the next: a generator of loads that drift and jump, and
// recorded counts per iteration.
//
// Drift. Every expert of every layer has a latent g that follows a stationary AR(1) process of variance 1,
//   g(i + 1) = rho g(i) + sqrt(1 - rho^2) n,  rho = exp(-1 / drift),  n normal,
// so `drift` is the number of iterations over which loads forget themselves (to 1/e). Its share is the law's at the
// quantile of g: share = Q(1 - Phi(g)), Q the law's shares by falling popularity, interpolated in their logarithm;
// shares are then scaled to sum 1. A lognormal law gives the exponential of an Ornstein-Uhlenbeck process.
// Jump. With probability `jump` an iteration draws all latents of a layer anew (a change of data, a router that
// collapses).
// Spread. Sequences differ: inside one, shares are multiplied by exp(spread * n), n normal per sequence and expert.
//
// Tokens of one sequence get counts that are its shares rounded to the nearest (largest remainders): no other noise.
// Real traces are not reproduced by this: it is a documented assumption that a study states.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/load/law.hpp"
#include "models/load/shape.hpp"
#include "models/load/window.hpp"
#include "moesim/routing.hpp"

namespace moesim::load {

struct Dynamics {
  double drift = 100;  // iterations
  double jump = 0;     // probability of a layer and iteration
  double spread = 0;   // standard deviation of ln(share) between sequences
};

// The loads of one iteration after the other. Memory does not grow with their number.
class LoadSequence {
 public:
  virtual ~LoadSequence() = default;
  virtual void advance() = 0;  // to the next iteration
  // [experts], sum 1: the shares of a layer in this iteration.
  [[nodiscard]] virtual std::span<const double> shares(int moe_layer) const = 0;
  // Of this iteration; lives on its own.
  [[nodiscard]] virtual std::unique_ptr<const Routing> routing() const = 0;
};

// `sequence`: tokens of one sequence; shape.tokens is a multiple of it.
std::unique_ptr<LoadSequence> make_drifting(const RoutingShape& shape, std::int64_t sequence, const Law& law,
                                            const Dynamics& dynamics, std::uint64_t seed);

// Iteration i of the file (counts.hpp) after the window's first; with `repeat` the window starts over, otherwise it
// has at least `iterations`. `cycle`: layers of the file stand for more layers of the model, in turn. Throws
// InputError.
struct RecordedLoads {
  std::string path;
  Window window;
  int iterations = 1;
  bool repeat = false;
  bool cycle = false;
};
std::unique_ptr<LoadSequence> open_recorded(const RoutingShape& shape, std::int64_t sequence,
                                            const RecordedLoads& recorded);

// Tokens in blocks of `sequence`, each block with the shares of its layer [layer][expert] (scaled by exp(spread n)).
struct BlockSpec {
  RoutingShape shape;
  std::int64_t sequence = 1;
  std::vector<std::vector<double>> shares;
  double spread = 0;
  std::uint64_t seed = 0;  // of the spread, and of which tokens use which expert
  bool synthetic = true;
  std::string description;
};
std::unique_ptr<const Routing> make_block_routing(const BlockSpec& spec);

}  // namespace moesim::load
