// One door to all solvers: what `moesim place` and `moesim advise` call.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "strategies/placement/balance.hpp"
#include "strategies/placement/chain.hpp"
#include "strategies/placement/moetuner.hpp"
#include "strategies/placement/problem.hpp"

namespace moesim::placement {

enum class Method : std::uint8_t {
  contiguous,    // expert ids in order; spare slots begin anew at expert 0, as engines do without a balancer
  round_robin,   // expert e on GPU e mod G, and so on with the spare slots
  lpt,           // replicas for the largest shares, then longest processing time first over all GPUs
  eplb,          // DeepSeek's balancer as published; replicas that share a GPU are then exchanged
  moetuner,      // the paper's two programs; no replicas
  local_search,  // ours: local_search.hpp under return_home, affinity_search.hpp under stay
};
struct MethodInfo {
  Method method;
  std::string_view name;
  std::string_view summary;
};
const std::vector<MethodInfo>& methods();
std::string_view to_string(Method method);
std::optional<Method> parse_method(std::string_view name);

struct PlaceRequest {
  Method method = Method::local_search;
  Loads loads;         // of the window that the plan is made on
  Movement movement;   // of the same; for Mode::stay, else empty
  Movement company;    // the same; may be empty
  ClusterShape shape;  // slots_per_gpu with replicas: slots_for()
  Mode mode = Mode::return_home;
  Dispatch dispatch = Dispatch::local_first;
  int groups = 1;            // expert groups of the router; 1 = none
  double tolerance = -1;     // local_search; negative: its own default
  MoetunerOptions moetuner;  // mode is taken from above
  // Memory for routed experts of all layers on one GPU. Where slots_per_gpu does not fit, fewer replicas are made
  // (fallback "fewer_replicas").
  std::optional<Bytes> memory_per_gpu;
  Bytes expert_bytes;
  LayerMaps current;  // where experts are now: GPUs are renamed to stay close to it (return_home only); may be empty
};

// Figures of one layer under the request's dispatch, as multiples of the mean GPU's load.
struct LayerFigures {
  double max_over_mean = 1;
  double bound = 1;               // no map with these slots goes below
  double bound_unreplicated = 1;  // the same with one slot per expert: where it is higher, only replication helps
};

struct PlaceResult {
  Method method = Method::local_search;
  LayerMaps maps;
  ClusterShape shape;  // as used: after a fallback it has fewer slots
  std::vector<LayerFigures> layers;
  CopyShares copies;               // of all layers, tokens at home (return_home)
  double movement_cost = 0;        // stay: token rows times 1/intra; 0 without movement
  std::string path;                // how it was found
  std::vector<std::string> notes;  // what a user should know: duplicates exchanged, replicas not used, ...
  std::string fallback;            // name of what was done instead of what was asked; empty = nothing
  double gap = 0;  // largest maximum over its bound - 1, of all layers; moetuner: largest gap of its programs
  double seconds = 0;

  [[nodiscard]] double max_over_mean() const;  // mean over layers, as `bound` and `bound_unreplicated`
  [[nodiscard]] double worst_max_over_mean() const;
  [[nodiscard]] double bound() const;
  [[nodiscard]] double bound_unreplicated() const;
};

// Throws InputError for requests that make no sense; every fault at once.
PlaceResult place(const PlaceRequest& request);

// The figures of maps that were made elsewhere, for the same loads; request.shape takes their slots.
PlaceResult judge(const PlaceRequest& request, const LayerMaps& maps);

// Slots per GPU for E experts and R replicas. Throws InputError where they do not divide by the GPUs, naming the
// nearest numbers of replicas that do.
int slots_for(int experts, int gpus, int replicas);

}  // namespace moesim::placement
