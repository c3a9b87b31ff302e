// Ablation: Hecate's heterogeneous sharding alone. Owners follow the load, nothing is gathered.
#include "strategies/hecate.hpp"

namespace moesim::strategies {

Strategy hecate_sharding() {
  constexpr HecateParts parts{true, false};
  return {"hecate_sharding", "Hecate's heterogeneous sharding alone", hecate_options(parts),
          [](const Input& in) { return plan_hecate(in, {true, false}); }};
}

}  // namespace moesim::strategies
