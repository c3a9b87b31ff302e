#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "study/placing.hpp"
#include "study/text_table.hpp"
#include "support/text.hpp"

namespace moesim::study {
namespace {

using nlohmann::ordered_json;
using placement::Dispatch;
using placement::Evaluation;
using placement::Hops;
using placement::Mode;

double mean_max(const Evaluation& e) {
  double sum = 0;
  for (const auto& l : e.layers) sum += l.max_over_mean;
  return sum / static_cast<double>(e.layers.size());
}

double share(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

// Of the copies and messages of one token at one layer, dispatch and combine together.
double per_token_layer(std::int64_t n, const Evaluation& e) {
  return static_cast<double>(n) / (static_cast<double>(e.window.count) * static_cast<double>(e.layers.size()));
}

Hops both_ways(const Evaluation& e, Hops placement::LayerTraffic::* what) {
  Hops out = e.dispatch().*what;
  out += e.combine().*what;
  return out;
}

// What a step sends, over all layers.
Bytes of_step(std::int64_t rows, const Evaluation& e, const PlacingInput& in) {
  const double tokens = static_cast<double>(in.tokens_per_step > 0 ? in.tokens_per_step : e.window.count);
  return Bytes(static_cast<std::int64_t>(static_cast<double>(rows) * tokens / static_cast<double>(e.window.count)) *
               in.row_bytes.value());
}

std::string mode_text(const PlacingRequest& r) {
  const char* replica = r.dispatch == Dispatch::even ? "copies take any replica" : "copies take the nearest replica";
  return fmt::format("{}; {}",
                     r.mode == Mode::return_home ? "tokens return home after every layer"
                                                 : "tokens stay at the GPU of their first expert until the next layer",
                     replica);
}

ordered_json to_json(const Hops& hops) {
  return {{"own_gpu", hops.own_gpu}, {"own_node", hops.own_node}, {"other_nodes", hops.other_nodes}};
}

ordered_json to_json(const Evaluation& e) {
  ordered_json layers = ordered_json::array();
  for (const auto& l : e.layers) layers.push_back({{"max_over_mean", l.max_over_mean}, {"gpu_copies", l.gpu_copies}});
  return {{"tokens", e.window.count},
          {"max_over_mean", mean_max(e)},
          {"straggler_factor", e.mean_straggler()},
          {"dispatch_copies", to_json(e.dispatch().copies)},
          {"dispatch_messages", to_json(e.dispatch().merged)},
          {"combine_copies", to_json(e.combine().copies)},
          {"combine_messages", to_json(e.combine().merged)},
          {"layers", layers}};
}

}  // namespace

std::string render(const Placing& p) {
  const placement::PlaceResult& plan = p.plan;
  const PlacingInput& in = p.input;
  std::string out = fmt::format("{}\nrouting: {}{}\n", in.title, in.routing, in.synthetic ? " (synthetic)" : "");
  const int slots = plan.maps.front().slots();
  out += fmt::format("{}, {} replicas a layer, {}; {}\n",
                     p.request.map.empty() ? std::string(to_string(plan.method)) : plan.path, slots - in.info.experts,
                     slots % in.shape.gpus == 0
                         ? fmt::format("{} slot{} on a GPU", slots / in.shape.gpus, slots == in.shape.gpus ? "" : "s")
                         : fmt::format("up to {} slots on a GPU", plan.shape.slots_per_gpu),
                     mode_text(p.request));
  const std::string steps =
      in.tokens_per_step > 0 ? fmt::format(", in steps of {} tokens", in.tokens_per_step) : std::string();
  out +=
      fmt::format("planned on {} tokens, judged on {} later ones{}\n\n", in.train->tokens(), in.test->tokens(), steps);

  TextTable table({"", "contiguous, judged", "this map, planned", "judged"});
  const Evaluation* evaluations[] = {&p.contiguous.test, &p.judged.train, &p.judged.test};
  const auto row = [&](const std::string& name, auto&& cell) {
    std::vector<std::string> cells{name};
    for (const Evaluation* e : evaluations) cells.push_back(cell(*e));
    table.add(std::move(cells));
  };
  row("fullest GPU / mean, mean over layers", [](const Evaluation& e) { return fmt::format("{:.4f}", mean_max(e)); });
  table.add({"  no map with these slots goes below", "-", fmt::format("{:.4f}", plan.bound()),
             fmt::format("{:.4f}", p.bound_test)});
  table.add({"  no map without replicas goes below", "-", fmt::format("{:.4f}", plan.bound_unreplicated()), "-"});
  row("straggler factor of a step", [](const Evaluation& e) { return fmt::format("{:.4f}", e.mean_straggler()); });
  const auto copies = [&](const char* name, std::int64_t Hops::* hop) {
    row(name, [&](const Evaluation& e) {
      const Hops h = both_ways(e, &placement::LayerTraffic::copies);
      return fmt::format("{:.1f} %", 100 * share(h.*hop, h.total()));
    });
  };
  copies("copies that stay on their GPU", &Hops::own_gpu);
  copies("copies to other GPUs of the node", &Hops::own_node);
  if (in.shape.nodes > 1) copies("copies to other nodes", &Hops::other_nodes);
  row("rows to GPUs of the node, a token and layer", [](const Evaluation& e) {
    return fmt::format("{:.3f}", per_token_layer(both_ways(e, &placement::LayerTraffic::merged).own_node, e));
  });
  if (in.shape.nodes > 1)
    row("rows to other nodes, one a node", [](const Evaluation& e) {
      return fmt::format("{:.3f}", per_token_layer(both_ways(e, &placement::LayerTraffic::merged).other_nodes, e));
    });
  if (in.row_bytes.value() > 0) {
    row("between GPUs in a step", [&](const Evaluation& e) {
      const Hops h = both_ways(e, &placement::LayerTraffic::copies);
      return human(of_step(h.own_node + h.other_nodes, e, in));
    });
    if (in.shape.nodes > 1)
      row("between nodes in a step", [&](const Evaluation& e) {
        return human(of_step(both_ways(e, &placement::LayerTraffic::copies).other_nodes, e, in));
      });
  }
  out += table.text() + '\n';

  if (plan.bound_unreplicated() > 1.01 * plan.bound())
    out += fmt::format("only replicas bring the fullest GPU below {:.2f} times the mean\n", plan.bound_unreplicated());
  if (p.request.map.empty()) {
    if (!plan.path.empty()) out += fmt::format("found by: {}\n", plan.path);
    out += fmt::format("gap to the lower bound at most {:.2f} %; {:.3f} s\n", 100 * plan.gap, plan.seconds);
  }
  if (!plan.fallback.empty()) out += fmt::format("fallback: {}\n", plan.fallback);
  for (const std::string& note : plan.notes) out += fmt::format("note: {}\n", note);
  for (const std::string& note : in.notes) out += fmt::format("note: {}\n", note);
  out += fmt::format("from {}: {} experts move, {} stay",
                     p.request.from.empty() ? "contiguous placement" : p.request.from, p.moving.moved, p.moving.kept);
  if (in.expert_bytes.value() > 0)
    out += fmt::format("; {}, {} of it between nodes, at least {}", human(p.moving.total),
                       human(p.moving.between_nodes), human(p.moving.time));
  return out + '\n';
}

std::string placing_json(const Placing& p) {
  const placement::PlaceResult& plan = p.plan;
  ordered_json layers = ordered_json::array();
  for (const auto& l : plan.layers)
    layers.push_back({{"max_over_mean", l.max_over_mean},
                      {"lower_bound", l.bound},
                      {"lower_bound_without_replicas", l.bound_unreplicated}});
  ordered_json out = {{"placing_version", 1},
                      {"input", p.input.title},
                      {"routing", p.input.routing},
                      {"routing_synthetic", p.input.synthetic},
                      {"method", p.request.map.empty() ? std::string(to_string(plan.method)) : "file"},
                      {"mode", to_string(p.request.mode)},
                      {"replica_choice", to_string(p.request.dispatch)},
                      {"gpus", p.input.shape.gpus},
                      {"nodes", p.input.shape.nodes},
                      {"experts", p.input.info.experts},
                      {"slots_per_gpu", plan.shape.slots_per_gpu},
                      {"tokens_per_step", p.input.tokens_per_step},
                      {"path", plan.path},
                      {"gap", plan.gap},
                      {"fallback", plan.fallback},
                      {"notes", plan.notes},
                      {"max_over_mean", plan.max_over_mean()},
                      {"lower_bound", plan.bound()},
                      {"lower_bound_without_replicas", plan.bound_unreplicated()},
                      {"lower_bound_judged", p.bound_test},
                      {"layers", layers},
                      {"planned", to_json(p.judged.train)},
                      {"judged", to_json(p.judged.test)},
                      {"contiguous_judged", to_json(p.contiguous.test)},
                      {"moving",
                       {{"from", p.request.from.empty() ? "contiguous" : p.request.from},
                        {"experts_moved", p.moving.moved},
                        {"experts_kept", p.moving.kept},
                        {"bytes", p.moving.total.value()},
                        {"bytes_between_nodes", p.moving.between_nodes.value()},
                        {"least_us", to_microseconds(p.moving.time)}}}};
  return out.dump(1) + '\n';
}

}  // namespace moesim::study
