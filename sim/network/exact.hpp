// Every completion re-solves the shares of those it affects.
#pragma once

#include "sim/network/component.hpp"

namespace moesim::sim {

class ExactComponent final : public Component {
 public:
  ExactComponent(Surroundings& around, Picoseconds now, std::vector<Entry>& entries);

 private:
  void plan() override;
  void commit() override;
  void cut(Picoseconds now) override { count_full(now); }
  [[nodiscard]] double served_at(std::uint32_t c, Picoseconds now) const override;
  [[nodiscard]] double idle(std::uint32_t, Picoseconds) const override { return 0; }
  [[nodiscard]] double idled(std::uint32_t) const override { return 0; }
  // Classes from `kept` on in fill order have new shares.
  void follow(std::size_t kept);

  // By class: when served_ was brought up to date, and when its first member ends at this rate.
  std::vector<std::int64_t> updated_, finish_;
  std::vector<std::int64_t> least_;  // of finish_ over order()[0 .. i]
};

}  // namespace moesim::sim
