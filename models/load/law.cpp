#include "models/load/law.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <functional>
#include <numbers>
#include <numeric>

#include "models/load/counter_rng.hpp"

namespace moesim::load {
namespace {

struct Context {
  const RoutingShape& shape;
  std::uint64_t key;  // of this layer's weights
  std::map<std::string_view, double> parameter;
};
using Weights = std::vector<double>;

Weights weights_of(const Context& c, const std::function<double(std::size_t)>& weight) {
  Weights out(static_cast<std::size_t>(c.shape.experts));
  for (std::size_t e = 0; e < out.size(); ++e) out[e] = weight(e);
  return out;
}

Weights uniform(const Context& c) {
  return weights_of(c, [](std::size_t) { return 1.0; });
}

// p_i ~ (i + 1)^-exponent.
Weights zipf(const Context& c) {
  const double exponent = c.parameter.at("exponent");
  return weights_of(c, [&](std::size_t e) { return std::pow(static_cast<double>(e + 1), -exponent); });
}

// p_i ~ exp(sigma z), z standard normal (Box-Muller). The hottest eighth of the experts then carries
// Phi(sigma - 1.150) of the tokens.
Weights lognormal(const Context& c) {
  const double sigma = c.parameter.at("sigma");
  return weights_of(c, [&](std::size_t e) {
    Draws draws(c.key, e);
    const double radius = std::sqrt(-2.0 * std::log1p(-draws.uniform()));
    return std::exp(sigma * radius * std::cos(2.0 * std::numbers::pi * draws.uniform()));
  });
}

// MoEShard (arXiv 2503.08467): p_i ~ 1/E + a_r for the first k_r = ceil(hot_fraction E) experts, 1/E for the rest.
Weights moeshard(const Context& c) {
  const double base = 1.0 / c.shape.experts;
  const double hot = std::ceil(c.parameter.at("hot_fraction") * c.shape.experts - 1e-9);  // 0.1 * 30 > 3
  return weights_of(c,
                    [&](std::size_t e) { return static_cast<double>(e) < hot ? base + c.parameter.at("a_r") : base; });
}

// No weight above `limit` (their sum stays 1): the overflow raises the least loaded to one common level.
void fill_least_loaded(Weights& falling, double limit) {
  double overflow = 0;
  for (double& w : falling) {
    overflow += std::max(0.0, w - limit);
    w = std::min(w, limit);
  }
  if (overflow <= 0) return;
  double raised = 0;  // what the n least loaded hold
  for (std::size_t n = 1; n <= falling.size(); ++n) {
    const std::size_t lowest = falling.size() - n;
    raised += falling[lowest];
    const double level = (raised + overflow) / static_cast<double>(n);
    if (lowest > 0 && level > falling[lowest - 1]) continue;
    std::fill(falling.begin() + static_cast<std::ptrdiff_t>(lowest), falling.end(), level);
    return;
  }
}

// Density ~ x^-A on [1, 0.8 T] when T k > E, on [0.01, 2] otherwise (T tokens, top k), by inversion of the distribution
// F(x) = (x^(1-A) - lo^(1-A)) / (hi^(1-A) - lo^(1-A)); no expert above T of the T k copies.
Weights power_law(const Context& c) {
  const double rise = 1.0 - c.parameter.at("exponent");
  const auto tokens = static_cast<double>(c.shape.tokens);
  const bool many = tokens * c.shape.top_k > c.shape.experts;
  const double low = many ? 1.0 : 0.01;
  const double high = many ? std::max(1.0, 0.8 * tokens) : 2.0;
  Weights out = weights_of(c, [&](std::size_t e) {
    const double u = Draws(c.key, e).uniform();
    if (std::abs(rise) < 1e-9) return low * std::pow(high / low, u);
    const double bottom = std::pow(low, rise);
    return std::pow(bottom + u * (std::pow(high, rise) - bottom), 1.0 / rise);
  });
  std::sort(out.begin(), out.end(), std::greater<>());
  const double sum = std::accumulate(out.begin(), out.end(), 0.0);
  for (double& w : out) w /= sum;
  fill_least_loaded(out, 1.0 / c.shape.top_k);
  return out;
}

struct Entry {
  LawInfo info;
  Weights (*weights)(const Context&);
};

const std::vector<Entry>& entries() {
  static const std::vector<Entry> table{
      {{"uniform", "every expert alike", Order::first, {}}, uniform},
      {{"power_law",
        "one weight per expert from a density ~ x^-exponent, as the public kernel tables were drawn",
        Order::shuffled,
        {{"exponent", 0, 10, 1.2, "A of the density x^-A"}}},
       power_law},
      {{"zipf",
        "popularity by rank, p_i ~ i^-exponent",
        Order::shuffled,
        {{"exponent", 0, 10, 0.8, "0 is uniform; EPLB's examples use 0.8 and 1.2"}}},
       zipf},
      {{"lognormal",
        "one weight per expert, exp(sigma * normal)",
        Order::shuffled,
        {{"sigma", 0, 5, 0.8,
          "spread; with 256 experts the hottest 32 carry 25 % of the tokens at 0.48, 54 % at 1.25 (DeepSeek-V3's "
          "range)"}}},
       lognormal},
      {{"moeshard",
        "MoEShard's skew: p_i ~ 1/E + a_r for the first hot_fraction of the experts, 1/E for the rest",
        Order::first,
        {{"a_r", 0, 1e6, 0.6, "what a hot expert's weight exceeds 1/E by"},
         {"hot_fraction", 0, 1, 0.1, "hot experts as a fraction of all, rounded up"}}},
       moeshard},
  };
  return table;
}

const Entry* find(std::string_view name) {
  const auto it = std::find_if(entries().begin(), entries().end(), [&](const Entry& e) { return e.info.name == name; });
  return it == entries().end() ? nullptr : &*it;
}

template <class Range>
std::string listed(const Range& items) {
  std::string out;
  for (const auto& item : items) out += fmt::format("{}{}", out.empty() ? "" : ", ", item.name);
  return out;
}

std::string suggestion(std::string_view word, const std::vector<std::string_view>& known, std::string_view all) {
  const std::string_view nearest = nearest_name(word, known);
  return nearest.empty() ? fmt::format("known: {}", all.empty() ? "none" : all)
                         : fmt::format("did you mean '{}'?", nearest);
}

}  // namespace

const std::vector<LawInfo>& laws() {
  static const std::vector<LawInfo> infos = [] {
    std::vector<LawInfo> out;
    for (const Entry& e : entries()) out.push_back(e.info);
    return out;
  }();
  return infos;
}

std::vector<Diagnostic> faults(const Law& law) {
  std::vector<Diagnostic> out;
  std::vector<std::string_view> names;
  const Entry* entry = find(law.name);
  if (entry == nullptr) {
    for (const LawInfo& info : laws()) names.push_back(info.name);
    out.push_back(
        fault(fmt::format("unknown routing law '{}'", law.name), suggestion(law.name, names, listed(laws()))));
    return out;
  }
  const auto& known = entry->info.parameters;
  for (const LawParameter& p : known) names.push_back(p.name);
  for (const auto& [name, value] : law.parameters) {
    const auto it = std::find_if(known.begin(), known.end(), [&](const LawParameter& p) { return p.name == name; });
    if (it == known.end())
      out.push_back(
          fault(fmt::format("law '{}' has no parameter '{}'", law.name, name), suggestion(name, names, listed(known))));
    else if (!(value >= it->minimum && value <= it->maximum))
      out.push_back(fault(
          fmt::format("{} of law '{}' is {}; it must be in [{}, {}]", name, law.name, value, it->minimum, it->maximum),
          std::string(it->meaning)));
  }
  return out;
}

std::vector<double> falling_shares(const Law& law, const RoutingShape& shape, std::uint64_t seed, int layer) {
  const Entry* entry = find(law.name);
  assert(entry != nullptr && faults(law).empty());
  Context context{shape, key_of(seed, Purpose::weights, layer), {}};
  for (const LawParameter& p : entry->info.parameters) {
    const auto given = law.parameters.find(std::string(p.name));
    context.parameter[p.name] = given == law.parameters.end() ? p.fallback : given->second;
  }
  Weights out = entry->weights(context);
  std::sort(out.begin(), out.end(), std::greater<>());
  const double sum = std::accumulate(out.begin(), out.end(), 0.0);
  for (double& w : out) w /= sum;
  return out;
}

}  // namespace moesim::load
