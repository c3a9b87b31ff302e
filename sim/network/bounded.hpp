// Completions in batches: shares are solved once per batch, not once per completion. docs/network.md derives it.
#pragma once

#include "sim/network/component.hpp"

namespace moesim::sim {

class BoundedComponent final : public Component {
 public:
  BoundedComponent(Surroundings& around, Picoseconds now, std::vector<Entry>& entries, bool join);

 private:
  // A flow that ends soon.
  struct Soon {
    double eta;  // ps from time_
    std::uint32_t c;
    std::uint32_t member;
  };
  // What flows of the batch leave unused on a link until the batch is over.
  struct Idle {
    double rate = 0;      // bytes per second, of all that end
    double rate_eta = 0;  // sum of rate * eta
    [[nodiscard]] double bytes(double h) const { return (rate * h - rate_eta) * 1e-12; }
  };

  void plan() override;
  void commit() override { step(end_); }
  void cut(Picoseconds now) override { step(now); }
  [[nodiscard]] double served_at(std::uint32_t c, Picoseconds now) const override;
  [[nodiscard]] double idle(std::uint32_t l, Picoseconds until) const override;
  [[nodiscard]] double idled(std::uint32_t c) const override;

  [[nodiscard]] double open(double longest) const;
  [[nodiscard]] double allowance(double longest);
  void gather(double h);
  [[nodiscard]] std::size_t longest_batch(double allowed);
  void end_batch();
  void add_idle(std::span<const std::uint32_t> path, double rate, double eta);
  void clear_idle();
  bool solve();
  void step(Picoseconds now);
  void share_out(double h);
  void lose(std::uint32_t l, double ps);

  std::vector<double> eta_, end_eta_;  // [classes] ps from time_, of the first and the last member
  std::vector<double> before_;         // [classes] rates of the batch before
  std::vector<Idle> idle_;             // [links]
  std::vector<std::uint32_t> idle_links_;
  std::vector<double> idled_;  // [links] ps, though it was full
  bool any_idled_ = false;
  std::vector<std::uint8_t> was_full_;
  std::vector<double> spare_, gain_, loss_;  // [links] bytes per second
  std::vector<double> give_;                 // [links] factor
  std::vector<double> holds_until_;          // [links] ps from time_, last end of those it holds at their level
  std::vector<Soon> soon_;
  std::vector<std::uint32_t> transfers_;  // under way here
  double last_step_ = 0;                  // ps
  double open_ = 0, allowed_ = 0;         // ps, of the batch before
};

}  // namespace moesim::sim
