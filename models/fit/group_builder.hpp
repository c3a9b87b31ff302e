// What the schemas' group makers share.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "models/fit/group.hpp"

namespace moesim::fit {

struct Row {
  double us = 0;
  SourcePlace place{};
  std::string shape{};
  double size = 0;
  int count = 0;
  std::string regime{};
  double bound_us = 0;
  double roofline_us = 0;
  std::array<double, 7> coordinates{};
  bool train = true;
};

struct Builder {
  Group group;
  void add(Row row);
  void range(std::string_view quantity, double value);  // widens the calibrated range to hold the value
};

template <class P>
void add_fields(Group& group, std::span<const cost::Field<P>> fields) {
  for (const cost::Field<P>& f : fields) {
    group.parameters.push_back({f.prior, f.prior, f.spread, f.low, f.high});
    group.names.emplace_back(f.name);
  }
}

// Throws InputError for rows that no GPU of the kind can have measured.
void check_units(const Group& group, const std::string& machine);

}  // namespace moesim::fit
