// Laws of expert popularity: which share of a layer's token copies each expert receives.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/load/inclusion.hpp"
#include "moesim/error.hpp"

namespace moesim::load {

// A law by name with its parameters; those not given take the default that laws() states.
struct Law {
  std::string name = "uniform";
  std::map<std::string, double> parameters;
};

// Where popular experts sit. first: by falling popularity from id 0, the worst case of a contiguous placement.
// shuffled: a permutation of its own in every layer, drawn from the seed. natural: what the law's source does.
enum class Order : std::uint8_t { natural, first, shuffled };

struct LawParameter {
  std::string_view name;
  double minimum;
  double maximum;
  double fallback;  // when not given
  std::string_view meaning;
};
struct LawInfo {
  std::string_view name;
  std::string_view summary;  // one line
  Order natural;             // first or shuffled
  std::vector<LawParameter> parameters;
};
const std::vector<LawInfo>& laws();

// A diagnostic without a place: whoever knows where the value was written fills it in.
inline Diagnostic fault(std::string message, std::string hint = {}) {
  Diagnostic out;
  out.message = std::move(message);
  out.hint = std::move(hint);
  return out;
}

// Every fault of a law: unknown name, unknown parameter, value out of bounds.
std::vector<Diagnostic> faults(const Law& law);

// Shares of a layer by falling popularity (ties in any order), sum 1, as the law states them: an expert may have more
// than 1 / top_k here (inclusion_of caps it), except under power_law, whose source caps at that and fills up the least
// loaded. The drawn laws (power_law, lognormal) draw each layer's weights anew from (seed, layer).
std::vector<double> falling_shares(const Law& law, const RoutingShape& shape, std::uint64_t seed, int layer);

}  // namespace moesim::load
