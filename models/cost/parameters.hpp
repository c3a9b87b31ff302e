// Parameters of the fitted models, described once: the fitter, the fit file and docs/cost_models.md read the same
// table.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moesim::cost {

// One parameter of a model struct P. All are positive; the fitter works on their logarithm.
template <class P>
struct Field {
  double P::* value;
  std::string_view name;     // as the fit file spells it
  std::string_view meaning;  // unit first; becomes the comment in the fit file
  double prior;              // where the fit starts, and where it stays when the rows say nothing
  double spread;             // standard deviation of ln(parameter / prior) before any row is seen
  double low, high;          // what the meaning allows
};

using ParameterMap = std::map<std::string, double, std::less<>>;

template <class P>
P from_vector(std::span<const Field<P>> fields, std::span<const double> values) {
  P out{};
  for (std::size_t i = 0; i < fields.size(); ++i) out.*fields[i].value = values[i];
  return out;
}

template <class P>
ParameterMap to_map(std::span<const Field<P>> fields, const P& parameters) {
  ParameterMap out;
  for (const Field<P>& f : fields) out[std::string(f.name)] = parameters.*f.value;
  return out;
}

// A parameter that the map lacks takes its prior: files of an older version stay readable.
template <class P>
P from_map(std::span<const Field<P>> fields, const ParameterMap& map) {
  P out{};
  for (const Field<P>& f : fields) {
    const auto it = map.find(f.name);
    out.*f.value = it == map.end() ? f.prior : it->second;
  }
  return out;
}

}  // namespace moesim::cost
