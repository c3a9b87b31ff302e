#include "models/arch/overrides.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/arch/hf_config.hpp"
#include "moesim/routing.hpp"

namespace moesim::arch {
namespace {

class Problems {
 public:
  explicit Problems(SourcePlace place) : place_(std::move(place)) {}
  void add(std::string message, std::string hint = {}) {
    found_.push_back({place_, std::move(message), std::move(hint)});
  }
  void throw_if_any() {
    if (!found_.empty()) throw InputError(std::move(found_));
  }

 private:
  SourcePlace place_;
  std::vector<Diagnostic> found_;
};

void check_range(Problems& problems, std::string_view what, const std::optional<std::int64_t>& value, std::int64_t max,
                 const std::string& hint = {}) {
  if (value && (*value < 1 || *value > max))
    problems.add(fmt::format("{} must be a whole number of 1 to {}, is {}", what, max, *value), hint);
}

// How many layers one stack has: the encoder's, or the decoder's.
std::int64_t depth(const Model& m, bool decoder) {
  return std::ranges::count(m.layers, decoder, &TransformerLayer::decoder);
}

void keep_layers(Model& m, std::int64_t layers) {
  std::int64_t kept[2] = {0, 0};  // encoder, decoder
  std::erase_if(m.layers, [&](const TransformerLayer& l) { return kept[l.decoder ? 1 : 0]++ >= layers; });
}

void set_formats(Model& m, const Overrides& o) {
  const auto experts = o.expert_weights ? o.expert_weights : o.weights;
  if (o.weights) m.weights = *o.weights;
  if (!experts) return;
  m.expert_weights = *experts;
  m.expert_scale_block = *experts == DType::fp4 ? 32 : 0;  // as MXFP4 does
}

}  // namespace

Model with_overrides(Model m, const Overrides& o, const SourcePlace& place) {
  Problems problems(place);
  constexpr std::int64_t most_experts = std::numeric_limits<ExpertIndex>::max();
  check_range(problems, "experts", o.experts, most_experts);
  check_range(problems, "top_k", o.top_k, most_experts);
  check_range(problems, "layers", o.layers, std::max(depth(m, false), depth(m, true)),
              fmt::format("for a deeper model change a copy of {}'s config.json", m.name));
  for (const auto& format : {o.weights, o.expert_weights})
    if (format == DType::i32) problems.add("i32 is no format for weights");
  problems.throw_if_any();

  if (o.layers) {
    const auto first = std::ranges::find_if(m.layers, [](const TransformerLayer& l) { return l.moe.has_value(); });
    const auto before = first - m.layers.begin();
    keep_layers(m, *o.layers);
    if (m.moe_layers() == 0)
      problems.add(fmt::format("layers {} leaves {} without an MoE layer", *o.layers, m.name),
                   fmt::format("its first MoE layer is number {}", before + 1));
  }
  set_formats(m, o);
  const MoeBlock* sample = nullptr;  // all have the same experts, top_k and groups
  for (TransformerLayer& layer : m.layers) {
    if (!layer.moe) continue;
    MoeBlock& moe = *layer.moe;
    moe.experts = o.experts.value_or(moe.experts);
    moe.top_k = o.top_k.value_or(moe.top_k);
    sample = &moe;
  }
  if (sample) {
    const MoeBlock& moe = *sample;
    const std::int64_t reachable = moe.experts / moe.expert_groups * moe.groups_per_token;
    if (moe.experts % moe.expert_groups != 0)
      problems.add(fmt::format("experts {} do not divide into the {} groups that {} routes by", moe.experts,
                               moe.expert_groups, m.name));
    else if (moe.top_k > reachable)
      problems.add(fmt::format("top_k {} is above the {} experts that a token may use", moe.top_k, reachable),
                   "override experts and top_k together");
  }
  problems.throw_if_any();

  if (too_large(m))
    problems.add(fmt::format("{} would have more than {:.0e} parameters", m.name, double{most_parameters}));
  problems.throw_if_any();
  return m;
}

}  // namespace moesim::arch
