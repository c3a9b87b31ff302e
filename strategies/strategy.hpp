// A strategy turns (model, cluster, workload, routing, options) into a Plan. One strategy = one file with one function
// `Strategy NAME()`, and one line in registry.cpp; docs/adding.md.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "moesim/machine.hpp"
#include "moesim/model.hpp"
#include "moesim/plan.hpp"
#include "moesim/routing.hpp"
#include "moesim/workload.hpp"

namespace moesim::cost {
class KernelModel;
}

namespace moesim::strategies {

using OptionValue = std::variant<bool, std::int64_t, double, std::string>;

// What a scenario may say about a strategy. The default's type is the option's type.
struct OptionSpec {
  std::string name;
  OptionValue fallback;
  std::string summary;
  double min = 0;  // for numbers
  double max = 1e18;
  std::vector<std::string> choices;  // for text; empty = any
  bool file = false;                 // text that names a file; the scenario reader makes its path complete
};

// Resolved options: every declared name has a value of its type, inside its bounds.
class Options {
 public:
  // Throws std::invalid_argument for a name or value that `specs` does not allow; the scenario reader checks first and
  // knows the place.
  Options(const std::vector<OptionSpec>& specs, std::map<std::string, OptionValue> given);
  [[nodiscard]] bool flag(std::string_view name) const;
  [[nodiscard]] std::int64_t integer(std::string_view name) const;
  [[nodiscard]] double real(std::string_view name) const;
  [[nodiscard]] const std::string& text(std::string_view name) const;
  [[nodiscard]] std::map<std::string, std::string> printed() const;

 private:
  [[nodiscard]] const OptionValue& get(std::string_view name) const;
  std::map<std::string, OptionValue, std::less<>> values_;
};

// Why `value` does not fit `spec`; empty where it does. An integer fits a real option.
std::string misfit(const OptionSpec& spec, const OptionValue& value);

class LoadHistory;

struct Input {
  const Model& model;
  const Cluster& cluster;
  const Workload& workload;
  const Routing& routing;
  const Options& options;
  std::string label;                 // the strategy's name in the report
  const Routing* history = nullptr;  // earlier tokens, which placements are planned on; none: the routing itself
  const std::vector<ExpertPlacement>* maps = nullptr;  // of each MoE layer, over the members of a group: instead of
                                                       // what the options say
  LoadHistory* past = nullptr;                         // training over iterations: what is known before this one
  const cost::KernelModel* kernels = nullptr;          // what decisions count with; none: the GPU's roofline
};

struct Strategy {
  std::string name;
  std::string summary;
  std::vector<OptionSpec> options;
  // Throws Infeasible when the strategy cannot place this model on this cluster.
  Plan (*plan)(const Input& input);
};

// A strategy that does not fit its input: 3 experts of 8 per rank, 48 heads over 5 ranks. The message names both
// numbers and what would fit.
class Infeasible : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

const std::vector<Strategy>& all();
const Strategy* find(std::string_view name);  // nullptr where there is none

}  // namespace moesim::strategies
