// How fast routing is produced and counted: ns of processor time per decision, best of five.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>

#include "models/load/synthetic.hpp"
#include "support/parallel.hpp"

namespace {

double seconds(auto&& work) {
  const std::clock_t begin = std::clock();  // processor time: the machine may be shared
  work();
  return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
}

void report(const char* what, const moesim::load::SyntheticSpec& spec, std::size_t owners) {
  const auto ranges = moesim::TokenRanges::even(spec.shape.tokens, owners);
  std::vector<int> bin_of(static_cast<std::size_t>(spec.shape.experts));
  for (std::size_t e = 0; e < bin_of.size(); ++e) bin_of[e] = static_cast<int>(e * owners / bin_of.size());
  std::unique_ptr<moesim::Routing> routing;
  const double make = seconds([&] { routing = moesim::load::make_synthetic(spec); });
  const double decisions = static_cast<double>(spec.shape.tokens) * spec.shape.top_k * spec.shape.moe_layers;
  double count = 1e9;
  double distinct = 1e9;
  for (int run = 0; run < 5; ++run) {
    count = std::min(count, seconds([&] {
                       for (int l = 0; l < spec.shape.moe_layers; ++l)
                         if (expert_counts(*routing, l, ranges).sum() == 0) std::abort();
                     }));
    distinct = std::min(distinct, seconds([&] {
                          for (int l = 0; l < spec.shape.moe_layers; ++l)
                            if (distinct_counts(*routing, l, ranges, bin_of, static_cast<int>(owners)).sum() == 0)
                              std::abort();
                        }));
  }
  fmt::print(
      "{:<34} make {:6.1f} ms   expert_counts {:6.3f} s, {:5.2f} ns a decision   distinct_counts {:6.3f} s, {:5.2f} "
      "ns\n",
      what, make * 1e3, count, count * 1e9 / decisions, distinct, distinct * 1e9 / decisions);
}

}  // namespace

int main() {
  using namespace moesim::load;
  fmt::print("{} threads\n", moesim::threads());
  const RoutingShape wide{8, 256, 8, 1, 1, 65'536};
  RoutingShape grouped = wide;
  grouped.expert_groups = 8;
  grouped.groups_per_token = 4;
  for (const Sampling sampling : {Sampling::random, Sampling::expected}) {
    for (const char* law : {"uniform", "zipf", "lognormal", "power_law"}) {
      report(fmt::format("{} {}", law, to_string(sampling)).c_str(), {wide, {law, {}}, Order::natural, sampling, 0, 1},
             32);
      report(fmt::format("{} {}, 4 of 8 groups", law, to_string(sampling)).c_str(),
             {grouped, {law, {}}, Order::natural, sampling, 0, 1}, 32);
    }
    report(fmt::format("affinity 0.5 {}", to_string(sampling)).c_str(),
           {wide, {"zipf", {}}, Order::natural, sampling, 0.5, 1}, 32);
    report(fmt::format("1024 owners of 64 {}", to_string(sampling)).c_str(),
           {{8, 256, 8, 1, 1, 65'536}, {"zipf", {}}, Order::natural, sampling, 0, 1}, 1024);
  }
}
