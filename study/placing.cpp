#include "study/placing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "models/arch/zoo.hpp"
#include "models/hardware/machine.hpp"
#include "models/load/part.hpp"
#include "models/load/trace.hpp"
#include "moesim/error.hpp"
#include "study/resolve.hpp"
#include "support/files.hpp"

namespace moesim::study {
namespace {

using placement::Method;
using placement::Mode;

// Decisions that are counted in a few seconds.
constexpr std::int64_t most_copies = std::int64_t{1} << 26;
constexpr std::int64_t fewest_tokens = std::int64_t{1} << 15;  // loads of fewer are noise

std::size_t at(int i) { return static_cast<std::size_t>(i); }

const MoeBlock* first_block(const Model& model) {
  const auto layer = std::ranges::find_if(model.layers, [](const TransformerLayer& l) { return l.moe.has_value(); });
  return layer == model.layers.end() ? nullptr : &*layer->moe;
}

void set_model(PlacingInput& out, const Model& model) {
  const MoeBlock& block = *first_block(model);
  out.info = placement::info_of(model, out.shape);
  out.groups = static_cast<int>(block.expert_groups);
  out.expert_bytes = arch::expert_bytes(model);
}

void set_slots(PlacingInput& out) {
  out.shape.slots_per_gpu = (out.info.experts + out.shape.gpus - 1) / out.shape.gpus;
}

void set_windows(PlacingInput& out, const std::shared_ptr<const Routing>& all, double train_share) {
  out.all = all;
  out.routing = all->description();
  out.synthetic = all->synthetic();
  const placement::Split windows = placement::split(*all, train_share);
  out.train = std::make_shared<load::Part>(all, windows.train.first, windows.train.count);
  out.test = std::make_shared<load::Part>(all, windows.test.first, windows.test.count);
}

JudgedMap judge(const PlacingInput& input, const placement::LayerMaps& maps, const placement::ClusterShape& shape,
                const PlacingRequest& request) {
  const placement::EvaluationOptions options{request.mode, request.dispatch, input.tokens_per_step};
  return {evaluate(*input.train, {0, input.train->tokens()}, maps, shape, options),
          evaluate(*input.test, {0, input.test->tokens()}, maps, shape, options)};
}

placement::LayerMaps contiguous_maps(const PlacingInput& input) {
  return placement::LayerMaps(at(input.train->moe_layers()),
                              contiguous_placement(input.info.experts, input.shape.gpus));
}

placement::LayerMaps current_maps(const PlacingInput& input, const PlacingRequest& request) {
  if (request.from.empty()) return contiguous_maps(input);
  return placement::read_map(request.from, input.info).maps;
}

double mean_bound(const placement::Loads& loads, const placement::ClusterShape& shape, bool free_sizes) {
  double sum = 0;
  for (int l = 0; l < loads.layers(); ++l) {
    const auto layer = loads.layer(l);
    const double mean = std::accumulate(layer.begin(), layer.end(), 0.0) / shape.gpus;
    sum += mean > 0 ? (free_sizes ? placement::lower_bound_free_sizes(layer, shape.gpus)
                                  : placement::lower_bound(layer, shape)) /
                          mean
                    : 1;
  }
  return sum / loads.layers();
}

}  // namespace

PlacingInput placing_input(const Scenario& given, double train_share, int steps) {
  const Scenario scenario = expand(given).front().scenario;
  const Setup setup = resolve(scenario);
  PlacingInput out;
  std::vector<Rank> ranks;
  for (int r = 0; r < setup.cluster.ranks(); ++r) ranks.emplace_back(r);
  out.shape = placement::shape_of(setup.cluster, ranks);
  set_model(out, setup.model);
  set_slots(out);
  out.title = fmt::format("{}, {} node{} x {} {}", setup.model.name, setup.cluster.nodes,
                          setup.cluster.nodes == 1 ? "" : "s", setup.cluster.gpus_per_node, setup.cluster.gpu.name);
  out.tokens_per_step = setup.workload.sequences * setup.workload.new_tokens();
  out.row_bytes = storage(setup.model.hidden, setup.workload.activations);
  const std::int64_t per_token = std::int64_t{setup.routing->moe_layers()} * setup.routing->top_k();
  const std::int64_t most = std::max(fewest_tokens, most_copies / per_token);
  const std::int64_t step = out.tokens_per_step;
  const std::int64_t both = std::int64_t{2} * steps;
  const std::int64_t wanted = step > most / both ? 2 * step : both * step;
  set_windows(out, long_routing(scenario, setup.model, setup.workload, std::clamp(wanted, fewest_tokens, most)),
              train_share);
  return out;
}

PlacingInput placing_input(const TraceInput& in, double train_share) {
  std::vector<Diagnostic> faults;
  const auto fault = [&](std::string message, std::string hint) {
    faults.push_back({{}, std::move(message), std::move(hint)});
  };
  if (in.gpus < 1)
    fault("how many GPUs there are is not said", "--gpus N, and --nodes M where there are several");
  else if (in.nodes < 1 || in.gpus % in.nodes != 0)
    fault(fmt::format("{} GPUs on {} nodes: every node holds as many", in.gpus, in.nodes), "");
  if (in.model.empty() && in.experts < 1)
    fault("how many experts the model has is not said: a trace does not name those that no token used",
          "--model NAME or --experts N");
  if (!faults.empty()) throw InputError(std::move(faults));

  PlacingInput out;
  out.shape.gpus = in.gpus;
  out.shape.nodes = in.nodes;
  if (!in.machine.empty()) {
    hardware::ClusterShape shape;
    shape.nodes = in.nodes;
    shape.gpus_per_node = in.gpus / in.nodes;
    hardware::MachineSpec machine = hardware::load_machine(in.machine);
    machine.network.kind = hardware::NetworkFabric::Kind::single;
    const Cluster cluster = hardware::make_cluster(machine, shape);
    std::vector<Rank> ranks;
    for (int r = 0; r < cluster.ranks(); ++r) ranks.emplace_back(r);
    out.shape = placement::shape_of(cluster, ranks);
  } else {
    out.notes.emplace_back("no --machine: links are taken as 450 GB/s inside a node and 50 GB/s between nodes");
  }
  load::TraceSpec trace;
  trace.path = in.trace;
  if (!in.model.empty()) {
    const Model model = arch::load(in.model);
    if (first_block(model) == nullptr) throw InputError({in.model, 0, 0}, "the model has no MoE layer");
    set_model(out, model);
    trace.shape.moe_layers = model.moe_layers();
    trace.shape.top_k = static_cast<int>(first_block(model)->top_k);
  } else {
    out.info.experts = in.experts;
    out.info.gpus = in.gpus;
    out.info.nodes = in.nodes;
  }
  trace.shape.experts = out.info.experts;
  std::shared_ptr<const load::RecordedRouting> routing = load::open_trace(trace);
  out.notes.insert(out.notes.end(), routing->notes().begin(), routing->notes().end());
  if (out.info.hidden_layers == 0) out.info.hidden_layers = routing->moe_layers();
  set_slots(out);
  out.title = fmt::format("{} MoE layers of {} experts, {} GPUs on {} node{}", routing->moe_layers(), out.info.experts,
                          in.gpus, in.nodes, in.nodes == 1 ? "" : "s");
  out.tokens_per_step = in.tokens_per_step;
  set_windows(out, routing, train_share);
  return out;
}

Placing place_experts(const PlacingInput& input, const PlacingRequest& request) {
  Placing out{input, request, {}, {}, {}, 1, {}, {}};
  if (request.memory_per_gpu && input.expert_bytes.value() == 0)
    throw InputError({}, "a memory limit needs the size of an expert", "name the model: --model NAME");
  const placement::LayerMaps current = current_maps(input, request);
  out.train_loads = placement::measure_loads(*input.train, {0, input.train->tokens()});

  placement::PlaceRequest place;
  place.method = request.method;
  place.loads = out.train_loads;
  place.shape = input.shape;
  place.mode = request.mode;
  place.dispatch = request.dispatch;
  place.groups = input.groups;
  place.tolerance = request.tolerance;
  place.moetuner = request.moetuner;
  place.memory_per_gpu = request.memory_per_gpu;
  place.expert_bytes = input.expert_bytes;
  if (request.mode == Mode::stay) {
    place.movement =
        placement::measure_movement(*input.train, {0, input.train->tokens()}, placement::MovementCount::from_first);
    place.company = placement::measure_company(*input.train, {0, input.train->tokens()});
  }
  if (!request.from.empty()) place.current = current;
  if (request.method != Method::moetuner || request.replicas > 0)
    place.shape.slots_per_gpu = placement::slots_for(input.info.experts, input.shape.gpus, request.replicas);
  if (request.map.empty()) {
    out.plan = placement::place(place);
    if (input.synthetic) out.plan.notes.emplace_back("the routing is synthetic: a law, not what a router did");
  } else {
    const placement::MapRead read = placement::read_map(request.map, input.info, placement::Duplicates::exchange);
    out.plan = placement::judge(place, read.maps);
    out.plan.path = "read from " + request.map;
    if (read.exchanges > 0)
      out.plan.notes.push_back(
          fmt::format("{} replicas shared a GPU with another of their expert and were exchanged", read.exchanges));
  }
  out.judged = judge(input, out.plan.maps, out.plan.shape, request);
  out.contiguous = judge(input, contiguous_maps(input), input.shape, request);
  const bool free_sizes = request.map.empty() && request.method == Method::moetuner && !request.moetuner.equal_sizes;
  out.bound_test =
      mean_bound(placement::measure_loads(*input.test, {0, input.test->tokens()}), out.plan.shape, free_sizes);
  out.moving = placement::moving(current, out.plan.maps, input.shape, input.expert_bytes);
  return out;
}

std::vector<std::string> export_programs(const Placing& p, const std::string& prefix, bool mps) {
  std::vector<std::string> files;
  const auto save = [&](const std::string& name, const placement::Milp& program) {
    files.push_back(fmt::format("{}.{}.{}", prefix, name, mps ? "mps" : "lp"));
    write_file(files.back(), mps ? to_mps(program) : to_lp(program));
  };
  const int gpus = p.input.shape.gpus;
  const auto& options = p.request.moetuner;
  std::vector<placement::Clusters> clusters;
  for (int l = 0; l < p.train_loads.layers(); ++l) {
    save(fmt::format("balance_l{}", l),
         placement::BalanceProgram(p.train_loads.layer(l), gpus, options.equal_sizes).problem());
    placement::Clusters& of = clusters.emplace_back(at(p.input.info.experts));
    const ExpertPlacement& map = p.plan.maps[at(l)];
    for (int g = 0; g < gpus; ++g)
      for (int s = map.slot_begin[at(g)]; s < map.slot_begin[at(g) + 1]; ++s) of[map.expert_of_slot[at(s)].index()] = g;
  }
  if (p.request.mode == Mode::stay && clusters.size() > 1) {
    const placement::Movement movement =
        placement::measure_movement(*p.input.train, {0, p.input.train->tokens()}, placement::MovementCount::from_first);
    const placement::Chain chain = placement::chain_of(clusters, movement, p.input.shape, options.cost);
    save("communication", placement::ChainProgram(chain, options.equal_memory).problem());
  }
  return files;
}

}  // namespace moesim::study
