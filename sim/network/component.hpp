// Flows that share links, directly or through others: the unit that is solved. How it moves through time is the
// fidelity: ExactComponent stops at every completion, BoundedComponent at batches of them.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "sim/network/classes.hpp"
#include "sim/network/water_fill.hpp"

namespace moesim::sim {

// What components of one network share.
struct Surroundings {
  const Topology& topology;
  Fidelity fidelity;
  RouteBook routes;
  Transfers transfers;
  LinkLedger ledger;
  std::vector<std::uint32_t> local_link;  // [links] scratch, all `none` between uses
};

class Component {
 public:
  // entries: not empty; they are sorted. join: see classes.hpp.
  Component(Surroundings& around, Picoseconds now, std::vector<Entry>& entries, bool keep_log, bool join);
  virtual ~Component() = default;
  Component(const Component&) = delete;
  Component& operator=(const Component&) = delete;

  // Of the next flow whose end might be a Completion or, before it, of the next solve.
  [[nodiscard]] Picoseconds next();
  // Of the next flow, or the next solve: whether run() has anything to do.
  [[nodiscard]] Picoseconds due() const { return ended_ < batch_.size() ? batch_[ended_].time : end_; }
  // Appends the completions up to `until`; stops before that, at time(), when worn.
  void run(Picoseconds until, std::vector<Completion>& out);
  // The flows that are left at `now`: before next(), or time() when worn. The component is of no use then.
  void dissolve(Picoseconds now, std::vector<Entry>& out);

  // Nothing is left, or so little that building it again makes it smaller, or several.
  [[nodiscard]] bool worn() const { return broken_ || live_ == 0 || (2 * live_ < goal_.size() && goal_.size() > 16); }
  // Classes do not hold: it has to be built again with every path a class of its own.
  [[nodiscard]] bool broken() const { return broken_; }
  [[nodiscard]] Picoseconds time() const { return time_; }
  [[nodiscard]] const std::vector<LinkId>& links() const { return classes_.links; }

  // Bytes moved at `now` of flows under way, added by link.
  void add_moved(Picoseconds now, std::vector<double>& by_link) const;

 protected:
  struct Ending {
    Picoseconds time;
    std::uint32_t c;
    std::uint32_t member;
    // Of bounded batches, ps: when it would end had nothing ended before it, counted from time_; how much sooner than
    // `time` it might end.
    double eta = 0;
    double sooner = 0;
  };

  // Works out the flows that end next (batch_, by time) and when shares change (end_).
  virtual void plan() = 0;
  void start();  // plan(), and what goes with it
  // Moves to end_: what is in batch_ is over.
  virtual void commit() = 0;
  // Moves to `now` < end_: what is in batch_ up to then is over.
  virtual void cut(Picoseconds now) = 0;
  [[nodiscard]] virtual double served_at(std::uint32_t c, Picoseconds now) const = 0;
  // How long a full link idles between time_ and `until`, ps.
  [[nodiscard]] virtual double idle(std::uint32_t l, Picoseconds until) const = 0;
  // Adds what links are full until then, time_ still the beginning.
  void count_full(Picoseconds until);
  // How long links of the class idled since the component was made, ps.
  [[nodiscard]] virtual double idled(std::uint32_t c) const = 0;

  // How much sooner, or later, a flow may end than it will, ps; batches on their way not counted.
  [[nodiscard]] double sooner(std::uint32_t c, std::uint32_t path) const {
    const double early = classes_.early[path] + early_[c], late = classes_.late[path] + late_[c];
    return std::max({0.0, early, -late}) + classes_.lost[path] + idled(c);
  }
  [[nodiscard]] double later(std::uint32_t c, std::uint32_t path) const {
    const double early = classes_.early[path] + early_[c], late = classes_.late[path] + late_[c];
    return std::max({0.0, late, -early});
  }

  [[nodiscard]] double rate_of(std::uint32_t c) const { return fill_->level(c) * classes_.weight[c]; }
  // The first member of a class is over.
  void retire(const Ending& e);

  // The links that a flow crosses, as fill_ knows them.
  [[nodiscard]] std::span<const std::uint32_t> path(const Member& m) const {
    return std::span(classes_.path_hops)
        .subspan(classes_.path_begin[m.path], classes_.path_begin[m.path + 1] - classes_.path_begin[m.path]);
  }
  [[nodiscard]] std::span<const LinkId> route(const Member& m) const {
    return around_.routes.links(classes_.route[m.path]);
  }

  Surroundings& around_;
  Classes classes_;  // links, paths and weights; the rest is in fill_ and below
  std::optional<WaterFill> fill_;

  // By class. first_ is the first member that is not over, goal_ its target.
  std::vector<std::uint32_t> first_, end_of_;
  std::vector<double> goal_, served_, rate_;
  std::vector<double> early_, late_;  // since the component was made; before: classes_
  std::vector<Member> members_;
  std::size_t live_ = 0;
  bool broken_ = false;

  Picoseconds time_, end_;
  std::vector<Ending> batch_;  // by time
  std::size_t ended_ = 0;      // of batch_, reported to transfers

 private:
  std::size_t decisive_ = 0;  // first of batch_ that might be a Completion,
  std::uint64_t as_of_ = 0;   // Transfers::decided() then
};

std::unique_ptr<Component> make_component(Surroundings& around, Picoseconds now, std::vector<Entry> entries);

}  // namespace moesim::sim
