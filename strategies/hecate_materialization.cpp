// Ablation: Hecate's sparse materialization alone. Owners stay contiguous, hot experts are gathered each iteration.
#include "strategies/hecate.hpp"

namespace moesim::strategies {

Strategy hecate_materialization() {
  constexpr HecateParts parts{false, true};
  return {"hecate_materialization", "Hecate's sparse materialization alone", hecate_options(parts),
          [](const Input& in) { return plan_hecate(in, {false, true}); }};
}

}  // namespace moesim::strategies
