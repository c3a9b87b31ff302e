// How long a collective takes when nothing else runs: NCCL's protocols and algorithms on one node and several.
// docs/cost_models.md, "Collectives". What calibration fits; the simulator takes latency and protocol from here and
// shares the links between collectives itself (sim/collectives/measured.cpp).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "models/cost/parameters.hpp"
#include "moesim/units.hpp"

namespace moesim::cost {

enum class CollectiveKind : std::uint8_t { all_gather, reduce_scatter, all_reduce, all_to_all };
inline constexpr std::array all_collective_kinds{CollectiveKind::all_gather, CollectiveKind::reduce_scatter,
                                                 CollectiveKind::all_reduce, CollectiveKind::all_to_all};
std::string_view to_string(CollectiveKind kind);  // as nccl-tests' tables: "all_gather", "alltoall"
std::optional<CollectiveKind> parse_collective(std::string_view name);

// `bytes` as nccl-tests counts them: the full buffer (all-gather: received, reduce-scatter: sent, both: of one rank).
struct CollectiveShape {
  CollectiveKind kind = CollectiveKind::all_reduce;
  int gpus = 2;
  int nodes = 1;
  double bytes = 0;
};

// How the bytes go: around a ring, along trees between nodes and chains inside, from each to each, through the switch.
enum class CollectiveForm : std::uint8_t { ring, tree, exchange, in_switch };

// One way to carry a collective, as the busiest member sees it. Bytes are those of one direction.
struct CollectiveLoad {
  CollectiveForm form = CollectiveForm::ring;
  double link = 0;             // through its NVLinks; in the switch: the buffer
  double nic = 0;              // through its share of the NICs
  double own = 0;              // its own part, copied inside the GPU
  double pair = 0;             // exchange: to one peer
  double steps = 0, hops = 0;  // one after the other, inside a node and between nodes
  int peers = 1;
};

// Data-sheet rates, bytes per microsecond and direction, of one GPU.
struct Fabric {
  double link = 0;  // NVLink
  double nic = 0;   // its share of the node's NICs
  double memory = 0;
  bool in_switch = false;  // NVLink SHARP: the switch adds (third-generation NVSwitch and later)
};

struct CollectiveParameters {
  double ring_us, exchange_us;          // entering a ring, an all-to-all
  double step_us, peer_us;              // per step of a ring, per peer of an all-to-all
  double medium_us, large_us, bulk_us;  // what LL128, Simple in a ring, Simple in an all-to-all cost on top
  double small_rate, exchange_rate;     // LL in a ring, LL per peer, of the link
  double medium_rate, large_rate;       // LL128, Simple, of the link
  double copy_rate;                     // of memory: a rank's own part, out of place
  double switch_us, switch_rate;        // all-reduce inside the switch; rate of the link
  double sharpness;
  double inter_step_us, nic_efficiency;    // between nodes
  double inter_medium_us, inter_large_us;  // what LL128, Simple cost more per step between nodes
};
std::span<const Field<CollectiveParameters>> collective_fields();

// A line of the accuracy table.
std::string_view collective_regime(const CollectiveShape& shape);

double collective_us(const CollectiveParameters& p, const Fabric& fabric, const CollectiveShape& shape);
// The same of loads that a library chooses from, one per form.
double collective_us(const CollectiveParameters& p, const Fabric& fabric, std::span<const CollectiveLoad> choices);
// The form whose fastest protocol is the fastest of all.
const CollectiveLoad& fastest_form(const CollectiveParameters& p, const Fabric& fabric,
                                   std::span<const CollectiveLoad> choices);
// What rings, trees and the switch load evenly over nodes.
std::vector<CollectiveLoad> loads(const Fabric& fabric, const CollectiveShape& shape);
// Bytes that cross the link that carries most, at its data-sheet rate.
double collective_bound_us(const Fabric& fabric, const CollectiveShape& shape);

}  // namespace moesim::cost
