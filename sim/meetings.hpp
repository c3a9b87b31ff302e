// Collectives under way: who has entered, which stage's flows are on the wires, who may leave.
//
// A collective begins when the last member of its group enters (NCCL kernels spin until their peers are there). Its
// stages follow each other, each after its latency; a member leaves the last stage when its own flows are complete.
#pragma once

#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "moesim/machine.hpp"
#include "moesim/timeline.hpp"
#include "sim/collectives/lowering.hpp"
#include "sim/gpu_share.hpp"
#include "sim/network/network.hpp"

namespace moesim::sim {

class Meetings {
 public:
  Meetings(const Plan& plan, const Cluster& cluster, Network& network, bool record_links);

  // Something that has to happen later: the next stage of a meeting, or one rank leaving it.
  struct Wakeup {
    Picoseconds time;
    Rank rank;
    int meeting;
    bool leave;
  };

  struct Entry {
    int meeting;
    Demand held;    // what the rank's GPU gives up until it leaves
    bool complete;  // this was the last member: the collective begins now
  };
  Entry enter(Rank rank, OpId op, Picoseconds now, std::vector<Wakeup>& out);
  void start_stage(int meeting, Picoseconds now, std::vector<Wakeup>& out);
  void flows_done(const Completion& completion, std::vector<Wakeup>& out);

  struct Visit {
    OpId op;
    Demand held;
  };
  [[nodiscard]] Visit visit(int meeting, Rank rank) const;
  // Entry times of all members, once the meeting is complete.
  [[nodiscard]] std::vector<std::pair<Rank, Picoseconds>> entries(int meeting) const;
  [[nodiscard]] bool takes_part(const Collective& work, Rank rank) const;
  [[nodiscard]] std::int64_t flows() const { return flows_; }
  // How much sooner and later everything might be over, by the brackets of the network: of each stage of a collective
  // the most of any group, summed over all. Once all flows are complete.
  [[nodiscard]] std::pair<Picoseconds, Picoseconds> network_error() const;
  [[nodiscard]] std::vector<LinkInterval> take_intervals() { return std::move(intervals_); }

 private:
  struct Member {
    int group = -1;
    int position = -1;
  };
  struct Guest {
    Picoseconds entered;
    Demand held;
    bool busy = false;  // has flows of the running stage on the wires
  };
  struct Meeting {
    OpId op;
    std::size_t group = 0;
    std::size_t arrived = 0;
    std::vector<Guest> guests;  // by position
    std::vector<Stage> stages;
    std::size_t stage = 0;
    Picoseconds stage_begin;
    int busy = 0;
  };
  [[nodiscard]] const Collective& work(OpId op) const { return std::get<Collective>(plan_.op(op).work); }
  [[nodiscard]] const std::vector<Rank>& ranks(const Meeting& m) const {
    return plan_.groups[work(m.op).groups.index()][m.group];
  }
  [[nodiscard]] Member member(OpId op, Rank rank) const { return members_[work(op).groups.index()][rank.index()]; }
  void stage_done(int meeting, Picoseconds now, std::vector<Wakeup>& out);
  void record(const Meeting& m, Picoseconds end);

  const Plan& plan_;
  const Cluster& cluster_;
  Network& network_;
  bool record_links_;
  std::vector<std::vector<Member>> members_;  // by GroupsId, by rank
  std::vector<Meeting> meetings_;
  std::map<std::pair<OpId, int>, int> by_group_;
  std::unordered_map<TransferId, int> by_transfer_;
  struct Ended {  // a transfer
    OpId op;
    std::size_t stage;
    TransferId transfer;
    Picoseconds end;
  };
  std::vector<Ended> ended_;
  std::vector<LinkInterval> intervals_;
  std::int64_t flows_ = 0;
};

}  // namespace moesim::sim
