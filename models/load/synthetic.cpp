#include "models/load/synthetic.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "models/load/counter_rng.hpp"
#include "models/load/layer_sampler.hpp"
#include "models/load/random_sampler.hpp"
#include "models/load/systematic.hpp"
#include "support/parallel.hpp"

namespace moesim::load {
namespace {

const LawInfo& info_of(const Law& law) {
  return *std::find_if(laws().begin(), laws().end(), [&](const LawInfo& info) { return info.name == law.name; });
}

Order order_of(const SyntheticSpec& spec) {
  return spec.order == Order::natural ? info_of(spec.law).natural : spec.order;
}

std::vector<std::size_t> shuffled_ids(std::size_t n, std::uint64_t key) {
  std::vector<std::size_t> out(n);
  std::iota(out.begin(), out.end(), std::size_t{0});
  Draws draws(key, 0);
  shuffle(std::span(out), draws);
  return out;
}

Inclusion layer_inclusion(const SyntheticSpec& spec, int layer) {
  RoutingShape of_law = spec.shape;
  if (spec.law_tokens > 0) of_law.tokens = spec.law_tokens;
  const std::vector<double> falling = falling_shares(spec.law, of_law, spec.seed, layer);
  const RoutingShape shape = simplified(spec.shape);
  if (order_of(spec) == Order::first) return inclusion_of(falling, shape);
  const std::vector<std::size_t> place = shuffled_ids(falling.size(), key_of(spec.seed, Purpose::order, layer));
  std::vector<double> shares(falling.size());
  for (std::size_t rank = 0; rank < falling.size(); ++rank) shares[place[rank]] = falling[rank];
  return inclusion_of(shares, shape);
}

// Expert ids by falling popularity: groups by falling probability, experts inside a group likewise, equals shuffled.
std::vector<ExpertIndex> by_popularity(const Inclusion& inclusion, std::uint64_t key) {
  const std::size_t size = inclusion.expert.size() / inclusion.group.size();
  const auto sorted = [](std::size_t n, std::uint64_t stream, auto&& value) {
    std::vector<std::size_t> ids = shuffled_ids(n, stream);
    std::stable_sort(ids.begin(), ids.end(), [&](std::size_t a, std::size_t b) { return value(a) > value(b); });
    return ids;
  };
  std::vector<ExpertIndex> out;
  for (const std::size_t g :
       sorted(inclusion.group.size(), mix(key), [&](std::size_t i) { return inclusion.group[i]; }))
    for (const std::size_t e :
         sorted(size, mix(key + 1 + g), [&](std::size_t i) { return inclusion.expert[g * size + i]; }))
      out.push_back(static_cast<ExpertIndex>(g * size + e));
  return out;
}

class Synthetic final : public Routing {
 public:
  explicit Synthetic(const SyntheticSpec& spec)
      : spec_(spec), samplers_(static_cast<std::size_t>(spec.shape.moe_layers)) {
    const RoutingShape shape = simplified(spec.shape);
    std::vector<std::int64_t> multipliers;
    if (spec.sampling == Sampling::expected)
      multipliers = lattice_multipliers(shape.tokens, shape.moe_layers, spec.seed);
    std::vector<std::vector<ExpertIndex>> popularity(samplers_.size());
    parallel_for(shape.moe_layers, [&](int layer) {
      const auto i = static_cast<std::size_t>(layer);
      const Inclusion inclusion = layer_inclusion(spec, layer);
      if (spec.sampling == Sampling::random)
        samplers_[i] = std::make_unique<RandomSampler>(inclusion, shape, key_of(spec.seed, Purpose::tokens, layer));
      else
        samplers_[i] = std::make_unique<SystematicSampler>(inclusion, shape, multipliers[i],
                                                           key_of(spec.seed, Purpose::lines, layer));
      if (spec.affinity > 0) popularity[i] = by_popularity(inclusion, key_of(spec.seed, Purpose::permutation, layer));
    });
    for (std::size_t layer = 0; spec.affinity > 0 && layer + 1 < popularity.size(); ++layer) {
      image_.emplace_back(static_cast<std::size_t>(shape.experts));
      for (std::size_t i = 0; i < popularity[layer].size(); ++i)
        image_[layer][popularity[layer][i]] = popularity[layer + 1][i];
    }
  }

  [[nodiscard]] int moe_layers() const override { return spec_.shape.moe_layers; }
  [[nodiscard]] int experts() const override { return spec_.shape.experts; }
  [[nodiscard]] int top_k() const override { return spec_.shape.top_k; }
  [[nodiscard]] std::int64_t tokens() const override { return spec_.shape.tokens; }
  [[nodiscard]] bool synthetic() const override { return true; }

  [[nodiscard]] std::string description() const override {
    std::string parameters;
    for (const LawParameter& p : info_of(spec_.law).parameters) {
      const auto given = spec_.law.parameters.find(std::string(p.name));
      parameters += fmt::format("{}{} = {}", parameters.empty() ? " (" : ", ", p.name,
                                given == spec_.law.parameters.end() ? p.fallback : given->second);
    }
    if (!parameters.empty()) parameters += ")";
    return fmt::format("synthetic {}{}, order {}, {} sampling{}, seed {}", spec_.law.name, parameters,
                       to_string(order_of(spec_)), to_string(spec_.sampling),
                       spec_.affinity > 0 ? fmt::format(", affinity {}", spec_.affinity) : "", spec_.seed);
  }

  void assign(int moe_layer, std::int64_t first, std::span<ExpertIndex> out) const override {
    assert(moe_layer >= 0 && moe_layer < moe_layers());
    const auto layer = static_cast<std::size_t>(moe_layer);
    samplers_[layer]->assign(first, out);
    if (image_.empty()) return;
    const auto k = static_cast<std::size_t>(spec_.shape.top_k);
    for (std::size_t t = 0; t < out.size() / k; ++t) {
      const std::int64_t token = first + static_cast<std::int64_t>(t);
      std::size_t origin = layer;  // where the token last chose afresh
      while (origin > 0 && follows(origin, token)) --origin;
      if (origin == layer) continue;
      const auto mine = out.subspan(t * k, k);
      samplers_[origin]->assign(token, mine);
      for (; origin < layer; ++origin)
        for (ExpertIndex& e : mine) e = image_[origin][e];
    }
  }

 private:
  [[nodiscard]] bool follows(std::size_t layer, std::int64_t token) const {
    const std::uint64_t key = key_of(spec_.seed, Purpose::follow, static_cast<int>(layer));
    return Draws(key, static_cast<std::uint64_t>(token)).uniform() < spec_.affinity;
  }

  SyntheticSpec spec_;
  std::vector<std::unique_ptr<LayerSampler>> samplers_;  // [moe layer]
  std::vector<std::vector<ExpertIndex>> image_;          // [moe layer - 1][expert]: the follower at the next layer
};

}  // namespace

std::vector<Diagnostic> faults(const SyntheticSpec& spec) {
  const RoutingShape& s = spec.shape;
  std::vector<Diagnostic> out = faults(spec.law);
  const auto bound = [&](std::string_view name, std::int64_t value, std::int64_t low, std::int64_t high,
                         std::string_view why) {
    if (value >= low && value <= high) return true;
    out.push_back(fault(fmt::format("{} is {}; it must be in [{}, {}]", name, value, low, high), std::string(why)));
    return false;
  };
  bound("moe_layers", s.moe_layers, 1, 100'000, "");
  bound("tokens", s.tokens, 1, std::int64_t{1} << 40, "");
  bound("law_tokens", spec.law_tokens, 0, std::int64_t{1} << 40, "");
  const bool sized = bound("experts", s.experts, 1, std::numeric_limits<ExpertIndex>::max(), "") &&
                     bound("top_k", s.top_k, 1, s.experts, "a token uses distinct experts") &&
                     bound("expert_groups", s.expert_groups, 1, s.experts, "") &&
                     bound("groups_per_token", s.groups_per_token, 1, s.expert_groups, "");
  if (sized && s.experts % s.expert_groups != 0)
    out.push_back(fault(fmt::format("{} experts do not divide into {} groups", s.experts, s.expert_groups)));
  else if (sized)
    bound("top_k", s.top_k, 1, std::int64_t{s.experts / s.expert_groups} * s.groups_per_token,
          "that is how many experts a token's groups hold");
  if (const RoutingShape simple = simplified(s); sized && s.top_k % simple.groups_per_token != 0)
    out.push_back(
        fault(fmt::format("top_k is {}, not a multiple of groups_per_token = {}", s.top_k, s.groups_per_token),
              "laws take the same number of experts from each group; a recorded trace has no such limit"));
  if (!(spec.affinity >= 0 && spec.affinity <= 1))
    out.push_back(fault(fmt::format("affinity is {}; it must be in [0, 1]", spec.affinity), "it is a probability"));
  return out;
}

std::unique_ptr<Routing> make_synthetic(const SyntheticSpec& spec) {
  if (std::vector<Diagnostic> found = faults(spec); !found.empty()) throw InputError(std::move(found));
  return std::make_unique<Synthetic>(spec);
}

std::vector<double> probabilities(const SyntheticSpec& spec, int moe_layer) {
  if (std::vector<Diagnostic> found = faults(spec); !found.empty()) throw InputError(std::move(found));
  const Inclusion inclusion = layer_inclusion(spec, moe_layer);
  std::vector<double> out(inclusion.expert.size());
  for (std::size_t e = 0; e < out.size(); ++e) out[e] = inclusion.of(e) / spec.shape.top_k;
  return out;
}

double straggler_factor(const ExpertPlacement& placement, std::span<const double> probabilities) {
  std::vector<int> replicas(probabilities.size());
  for (const LogicalExpert e : placement.expert_of_slot) ++replicas[e.index()];
  double largest = 0;
  double sum = 0;
  for (int r = 0; r < placement.ranks(); ++r) {
    const auto slots = std::span(placement.expert_of_slot)
                           .subspan(static_cast<std::size_t>(placement.slot_begin[static_cast<std::size_t>(r)]),
                                    static_cast<std::size_t>(placement.slots_on(Rank(r))));
    double load = 0;
    for (const LogicalExpert e : slots) load += probabilities[e.index()] / replicas[e.index()];
    largest = std::max(largest, load);
    sum += load;
  }
  return largest * placement.ranks() / sum;
}

}  // namespace moesim::load
