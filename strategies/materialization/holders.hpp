// A placement as a set of (expert, device) pairs, to be changed and turned back.
#pragma once

#include <span>
#include <vector>

#include "moesim/placement.hpp"

namespace moesim::materialization {

class Holders {
 public:
  Holders(int experts, int devices)
      : experts_(experts),
        devices_(devices),
        held_(static_cast<std::size_t>(experts) * static_cast<std::size_t>(devices)) {}
  Holders(const ExpertPlacement& placement, int experts) : Holders(experts, placement.ranks()) {
    for (int d = 0; d < devices_; ++d)
      for (int s = placement.slot_begin[static_cast<std::size_t>(d)];
           s < placement.slot_begin[static_cast<std::size_t>(d) + 1]; ++s)
        set(placement.expert_of_slot[static_cast<std::size_t>(s)].value(), d, true);
  }
  [[nodiscard]] int experts() const { return experts_; }
  [[nodiscard]] int devices() const { return devices_; }
  [[nodiscard]] bool has(int expert, int device) const { return held_[at(expert, device)]; }
  void set(int expert, int device, bool held) { held_[at(expert, device)] = held; }
  [[nodiscard]] int replicas(int expert) const {
    int n = 0;
    for (int d = 0; d < devices_; ++d) n += has(expert, d) ? 1 : 0;
    return n;
  }
  [[nodiscard]] ExpertPlacement placement() const {  // a device's experts in rising order
    ExpertPlacement out;
    for (int d = 0; d < devices_; ++d) {
      for (int e = 0; e < experts_; ++e)
        if (has(e, d)) out.expert_of_slot.emplace_back(e);
      out.slot_begin.push_back(out.slots());
    }
    return out;
  }

 private:
  [[nodiscard]] std::size_t at(int expert, int device) const {
    return static_cast<std::size_t>(expert) * static_cast<std::size_t>(devices_) + static_cast<std::size_t>(device);
  }
  int experts_, devices_;
  std::vector<bool> held_;
};

// Experts by falling load; ties to the lower number.
std::vector<int> hottest_first(std::span<const double> load);

}  // namespace moesim::materialization
