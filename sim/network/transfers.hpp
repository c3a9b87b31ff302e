// What is under way, seen from above: how many of each rank's flows a transfer has left, and what each link carried.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sim/network/network.hpp"

namespace moesim::sim {

// One flow that drains.
struct Member {
  double target;  // bytes that each flow of its class has moved once this one is complete
  std::int64_t bytes;
  std::uint32_t transfer;  // index in Transfers
  std::uint32_t from, to;  // in the transfer's places
  std::uint32_t path = 0;  // in its component's Classes
};

class Transfers {
 public:
  // Flows of one rank.
  struct Place {
    Rank rank;
    std::uint32_t left = 0;     // that have not ended
    std::uint32_t planned = 0;  // of these, whose end is known unless something starts before
    Picoseconds latest;         // end of those that have ended
  };
  struct Transfer {
    Picoseconds start;
    Picoseconds least;  // no schedule is faster: max over links of bytes / capacity
    Bracket bracket;
    std::uint32_t flows = 0;    // that have not ended
    std::vector<Place> places;  // by rank; released with the last flow
  };

  explicit Transfers(int ranks) : place_(static_cast<std::size_t>(ranks)) {}

  // Flows have from != to and bytes > 0. member() is of the transfer opened last.
  std::uint32_t open(Picoseconds now, std::span<const Flow> flows);
  [[nodiscard]] Member member(const Flow& flow) const;

  void plan(const Member& m);
  void take_back(const Member& m);
  // How often all flows of a rank in a transfer came to be planned: before the next time, no flow decides that did not.
  [[nodiscard]] std::uint64_t decided() const { return decided_; }
  // Might the end of this flow, which is planned, be a Completion?
  [[nodiscard]] bool decides(const Member& m) const;
  // A planned flow ends: appends the Completions that this makes. Components report in any order.
  void end(const Member& m, Picoseconds time, std::vector<Completion>& out);
  // After end(): the flow might have ended between `low` and `high`.
  void close(const Member& m, Picoseconds low, Picoseconds high);

  [[nodiscard]] Transfer& at(std::uint32_t transfer) { return all_[transfer]; }
  [[nodiscard]] const Transfer& at(std::uint32_t transfer) const { return all_[transfer]; }
  [[nodiscard]] std::size_t size() const { return all_.size(); }

 private:
  std::vector<Transfer> all_;
  std::uint64_t decided_ = 0;
  std::vector<std::uint32_t> place_;  // [ranks] of the transfer opened last
};

class LinkLedger {
 public:
  explicit LinkLedger(std::size_t links) : totals_(links), use_(links) {}
  void begin(std::span<const LinkId> route, Picoseconds time);
  void end(std::span<const LinkId> route, std::int64_t bytes, Picoseconds time);
  void full(LinkId link, Picoseconds time) { totals_[link.index()].full += time; }
  [[nodiscard]] LinkTotals total(std::size_t link, Picoseconds now) const;  // without flows under way
  [[nodiscard]] std::size_t links() const { return totals_.size(); }

 private:
  struct Use {
    std::uint32_t flows = 0;
    Picoseconds since;
    Picoseconds last;  // end of a flow
  };
  std::vector<LinkTotals> totals_;
  std::vector<Use> use_;
};

}  // namespace moesim::sim
