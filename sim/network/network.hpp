// Flows on links. The simulator starts transfers (sets of flows) at a time, asks when something completes, and
// advances; what happens in between is max-min fair sharing.
//
// Max-min fairness: rates x_f >= 0 with sum over f through l of x_f <= capacity_l for every link l and x_f <= cap_f,
// such that no x_f / weight_f can be raised without lowering one that is no larger (Bertsekas & Gallager, Data
// Networks, 6.5.2).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "moesim/ids.hpp"
#include "moesim/topology.hpp"
#include "moesim/units.hpp"

namespace moesim::sim {

struct Flow {
  Rank from;
  Rank to;
  Bytes bytes;
  double weight = 1.0;
  BytesPerSecond cap{0};  // 0 = none
};

using TransferId = std::uint64_t;

// Every flow of `transfer` that starts or ends at `rank` is complete.
struct Completion {
  Picoseconds time;
  TransferId transfer;
  Rank rank;
};

struct LinkTotals {
  Bytes bytes;       // carried so far
  Picoseconds busy;  // time with at least one flow
  Picoseconds full;  // time at its capacity, up to the last change of shares: the flows held back by it could use more
};

// exact: every completion re-solves the shares of those it affects.
// bounded: completions are batched; batches shrink until the bracket of a transfer is within `error` of its makespan.
//   Flows that share links with at most always_exact - 1 others are solved exactly: it costs no more.
// docs/network.md has both.
struct Fidelity {
  static constexpr std::size_t always_exact = 64;
  enum class Kind : std::uint8_t { exact, bounded };
  Kind kind = Kind::exact;
  double error = 0.01;
};

// Between which times a transfer's last flow ends, had every completion been re-solved. low == high when it is exact.
struct Bracket {
  Picoseconds low;
  Picoseconds high;
};

class Network {
 public:
  virtual ~Network() = default;
  // Starts flows at `now`, which must not lie before the last advance. A flow waits for the latency of its links, then
  // drains. Flows with from == to, or of zero bytes, complete at once. Ranks without flows get no Completion.
  // Completions come out in (time, transfer, rank) order.
  virtual TransferId start(Picoseconds now, std::span<const Flow> flows) = 0;
  // A time at or before which no Completion has been missed: that of the next event, if any flow is under way. Often
  // the time of the next Completion, never later; advance(*next()) may append nothing.
  [[nodiscard]] virtual std::optional<Picoseconds> next() = 0;
  // Moves time forward to `until` and appends what completes at or before it. until >= that of the last advance.
  virtual void advance(Picoseconds until, std::vector<Completion>& out) = 0;
  [[nodiscard]] virtual std::vector<LinkTotals> totals() const = 0;  // by LinkId
  // Of a transfer that is complete; of one under way, what is known of it.
  [[nodiscard]] virtual Bracket bracket(TransferId transfer) const = 0;
};

// The topology must outlive the network. No flow ever moves faster than the links it crosses.
std::unique_ptr<Network> make_network(const Topology& topology, Fidelity fidelity);

}  // namespace moesim::sim
