// One collective alone on an idle cluster, in the words of nccl-tests.
#pragma once

#include "moesim/machine.hpp"
#include "moesim/plan.hpp"
#include "sim/network/network.hpp"

namespace moesim::sim {

// A plan of one collective among ranks 0 .. cluster.ranks() - 1 (fewer: `ranks`), for predict. `size` is nccl-tests':
// what an all_gather delivers to each rank, a reduce_scatter takes from each, an all_to_all takes from each, else the
// buffer. Rows are bytes (KiB from 1 GiB on); skew[j] > 0 weighs destination j of an all_to_all_v, empty = even.
Plan single_collective(Collective::Kind kind, Collective::Algorithm algorithm, int ranks, Bytes size,
                       const std::vector<double>& skew = {});

struct Prediction {
  Picoseconds time;      // launch to the last rank's completion
  Bracket bracket;       // of it, by bounded fidelity
  Bytes size;            // nccl-tests' size; uneven counts: the mean over ranks
  BytesPerSecond algbw;  // size / time
  BytesPerSecond busbw;  // algbw * factor
  Picoseconds least;     // launch, latencies and the busiest link alone: no schedule is faster
  std::int64_t flows = 0;
};

// nccl-tests' factor (doc/PERFORMANCE.md there): all_reduce 2 (n - 1) / n; all_gather, reduce_scatter, all_to_all
// (n - 1) / n; the others 1.
double busbw_factor(Collective::Kind kind, int ranks);

Prediction predict(const Plan& plan, const Collective& collective, std::size_t group, const Cluster& cluster,
                   Fidelity fidelity);
// The first op of a plan by single_collective.
Prediction predict(const Plan& plan, const Cluster& cluster, Fidelity fidelity);

}  // namespace moesim::sim
