// What an executor returns, keyed by op and rank. Prediction and measurement are compared by joining two Timelines.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "moesim/ids.hpp"
#include "moesim/plan.hpp"
#include "moesim/units.hpp"

namespace moesim {

// One op on one rank. ready <= start <= end.
struct Span {
  OpId op;
  Rank rank;
  Picoseconds ready;  // earlier work of its stream and its dependencies were done
  Picoseconds start;  // the device began: ready, or later when the host had not launched it or peers were missing
  Picoseconds end;
  Picoseconds launch;  // of (end - ready): the device had nothing to do because the host thread was behind
  Picoseconds wait;    // of (end - ready): waiting for peers to enter a collective
  friend bool operator==(const Span&, const Span&) = default;
};

// Use of one link, and of one link during one op, by the simulator.
struct LinkUse {
  LinkId link;
  Bytes bytes;
  Picoseconds busy;    // time with at least one flow on it
  Picoseconds full{};  // time at its capacity, where that is known
  friend bool operator==(const LinkUse&, const LinkUse&) = default;
};

struct LinkInterval {
  LinkId link;
  OpId op;
  Picoseconds start;
  Picoseconds end;
  Bytes bytes;
};

struct Timeline {
  // predicted_virtual_ranks, measured_virtual_ranks: all ranks on one GPU.
  enum class Kind {
    predicted,
    measured_wall,
    measured_composed,
    measured_virtual_ranks,
    predicted_virtual_ranks,
  };
  Kind kind = Kind::predicted;
  int ranks = 0;
  std::vector<Span> spans;  // sorted by (op, rank)
  std::vector<LinkUse> links;
  std::vector<LinkInterval> link_intervals;  // only when asked for: the trace's link tracks
  // How much sooner, or later, the makespan might be, had every change of link shares been solved: what the brackets
  // of all collectives add up to.
  Picoseconds network_early;
  Picoseconds network_late;
  Picoseconds makespan;
};

}  // namespace moesim
