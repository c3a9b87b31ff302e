#include "strategies/exchange.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "models/hardware/islands.hpp"
#include "models/load/kept_layer.hpp"
#include "plan/names.hpp"

namespace moesim::strategies {
namespace {

// Copies between each pair of members: [ranks or 1, group size].
Table pair_counts(const Table& routed, const ExpertPlacement& placement) {
  Table out(routed.rows(), placement.ranks());
  for (int r = 0; r < routed.rows(); ++r)
    for (int j = 0; j < placement.ranks(); ++j)
      for (int s = placement.slot_begin[static_cast<std::size_t>(j)];
           s < placement.slot_begin[static_cast<std::size_t>(j) + 1]; ++s)
        out.at(r, j) = to_count(std::int64_t{out.at(r, j)} + routed.at(r, s));
  return out;
}

// The way back: what rank r received from member i returns to it.
Table transposed(const Table& pairs, const Groups& groups, int ranks) {
  if (pairs.rows() == 1 && std::ranges::adjacent_find(pairs.row(0), std::not_equal_to<>{}) == pairs.row(0).end())
    return pairs;
  Table out(ranks, pairs.cols());
  for (const std::vector<Rank>& g : groups)
    for (std::size_t i = 0; i < g.size(); ++i)
      for (std::size_t j = 0; j < g.size(); ++j)
        out.at(g[j].value(), static_cast<int>(i)) = pairs.at(g[i].value(), static_cast<int>(j));
  return out;
}

// Rows of each local expert: [ranks, most slots of a rank].
Table expert_rows(const Table& routed, const Groups& groups, const ExpertPlacement& placement, int ranks) {
  int most = 1;
  for (int j = 0; j < placement.ranks(); ++j) most = std::max(most, placement.slots_on(Rank(j)));
  Table out(ranks, most);
  for (const std::vector<Rank>& g : groups)
    for (std::size_t j = 0; j < g.size(); ++j)
      for (const Rank source : g)
        for (int s = 0; s < placement.slots_on(Rank(j)); ++s)
          out.at(g[j].value(), s) =
              to_count(std::int64_t{out.at(g[j].value(), s)} + routed.at(source.value(), placement.slot_begin[j] + s));
  return out;
}

// Whose copies are counted apart: the token owners, or (shares > 1) every rank with its share of its owner's.
TokenRanges sources_of(const Plan& plan, int shares) {
  if (shares == 1) return plan.tokens;
  TokenRanges out;
  for (int r = 0; r < plan.ranks; ++r) {
    const int owner = plan.owner_of_rank[static_cast<std::size_t>(r)];
    out.begin.push_back(plan.tokens.begin[static_cast<std::size_t>(owner)] + plan.share(Rank(r), shares).last);
  }
  return out;
}

// Rows after a gather inside `groups`: those of every member, one after the other.
Table gathered(const Table& rows, const Groups& groups) {
  const std::size_t cols = static_cast<std::size_t>(rows.cols());
  Table out(rows.rows(), rows.cols() * static_cast<int>(groups.front().size()));
  for (const std::vector<Rank>& g : groups)
    for (const Rank r : g)
      for (std::size_t j = 0; j < g.size(); ++j)
        std::ranges::copy(rows.row(g[j].value()), out.row(r.value()).subspan(j * cols).begin());
  return out;
}

// Row sums: [ranks, 1].
Table summed(const Table& rows) {
  Table out(rows.rows(), 1);
  for (int r = 0; r < rows.rows(); ++r) out.at(r, 0) = to_count(rows.row_sum(r));
  return out;
}

// Slots a rank holds, for the size of its weights.
Table slots_held(const Groups& groups, const ExpertPlacement& placement, int ranks, std::int64_t rows_each) {
  Table out(ranks, 1);
  for (const std::vector<Rank>& g : groups)
    for (std::size_t j = 0; j < g.size(); ++j)
      out.at(g[j].value(), 0) = static_cast<std::int32_t>(placement.slots_on(Rank(j)) * rows_each);
  return out;
}

std::int64_t capacity(const TokenRanges& sources, const MoeBlock& block, const ExchangeOptions& options) {
  if (options.capacity_factor <= 0) return 0;
  std::int64_t most = 0;
  for (std::size_t i = 0; i < sources.owners(); ++i) most = std::max(most, sources.count(i));
  const double per_expert = static_cast<double>(most * block.top_k) / static_cast<double>(block.experts);
  // A product that is an integer but for rounding must not be rounded up past it.
  const double scaled = std::ceil(per_expert * options.capacity_factor - 1e-9);
  // A source sends an expert at most all of its tokens; more room than that would be padding for nobody.
  return std::max(options.min_capacity, std::min(most, static_cast<std::int64_t>(scaled)));
}

}  // namespace

std::vector<OptionSpec> exchange_option_specs() {
  std::vector<OptionSpec> out{
      {"capacity_factor", 0.0, "copies per expert and source, as a multiple of the mean; 0 = dropless", 0, 1e6, {}},
      {"min_capacity", std::int64_t{4}, "smallest capacity (DeepSpeed's min_capacity)", 0, 1e6, {}},
      {"once_per_rank", false, "send a token once to a rank however many of its experts are there (DeepEP)", 0, 0, {}},
      {"once_per_node",
       std::string("automatic"),
       "once_per_rank: a token crosses once to a node and is forwarded there (DeepEP); automatic: where routing limits "
       "a token's nodes; without effect where groups lie differently over nodes",
       0,
       0,
       {"automatic", "yes", "no"}},
      {"expert_launch",
       std::string("grouped"),
       "one grouped GEMM, or a GEMM per expert",
       0,
       0,
       {"grouped", "per_expert"}},
      {"host_sync",
       true,
       "dropless: the host reads the counts before the exchange (NCCL); false: it does not (DeepEP)",
       0,
       0,
       {}},
      {"permute_kernels",
       std::int64_t{1},
       "framework operations of each dispatch and combine permutation",
       1,
       1000,
       {}},
      {"all_to_all",
       std::string("automatic"),
       "how tokens are exchanged",
       0,
       0,
       {"automatic", "direct", "hierarchical"}},
      {"dispatch_dtype",
       std::string("activations"),
       "number format on the wire on the way out",
       0,
       0,
       {"activations", "fp8", "bf16", "f16", "f32"}},
  };
  for (OptionSpec& spec : expert_map_option_specs()) out.push_back(std::move(spec));
  return out;
}

// Routing that limits the nodes of a token was made for a dispatch that crosses to each node once.
static bool limits_nodes(const Model& model) {
  return std::ranges::any_of(model.layers, [](const TransformerLayer& layer) {
    return layer.moe && layer.moe->groups_per_token < layer.moe->expert_groups;
  });
}

ExchangeOptions exchange_options(const Input& in) {
  const Options& options = in.options;
  ExchangeOptions out;
  out.capacity_factor = options.real("capacity_factor");
  out.min_capacity = options.integer("min_capacity");
  out.once_per_rank = options.flag("once_per_rank");
  out.launch_per_expert = options.text("expert_launch") == "per_expert";
  out.host_sync = options.flag("host_sync");
  out.permute_kernels = static_cast<int>(options.integer("permute_kernels"));
  out.algorithm = *parse_name<Collective::Algorithm>(algorithm_names, options.text("all_to_all"));
  out.dispatch = parse_dtype(options.text("dispatch_dtype")).value_or(in.workload.activations);
  if (out.capacity_factor > 0 && out.once_per_rank)
    throw Infeasible("once_per_rank sends tokens, capacity_factor pads copies: only one of them can be asked for");
  const std::string& per_node = options.text("once_per_node");
  const bool direct = out.algorithm == Collective::Algorithm::direct;
  if (per_node == "yes" && (!out.once_per_rank || direct))
    throw Infeasible("once_per_node forwards tokens inside a node: it needs once_per_rank, and all_to_all not direct");
  out.once_per_node =
      per_node == "yes" || (per_node == "automatic" && out.once_per_rank && !direct && limits_nodes(in.model));
  return out;
}

// The island of each member, where all groups lie alike over more than one; else none.
static std::vector<int> common_islands(const Topology& topology, const Groups& groups) {
  const auto first = hardware::islands(topology, groups.front());
  const bool alike = std::ranges::all_of(
      groups, [&](const std::vector<Rank>& group) { return hardware::islands(topology, group) == first; });
  if (first.size() == 1 || !alike) return {};
  std::vector<int> out(groups.front().size());
  for (std::size_t i = 0; i < first.size(); ++i)
    for (const std::size_t member : first[i]) out[member] = static_cast<int>(i);
  return out;
}

BufferId exchange(Transformer& t, const MoeLayer& moe, const Groups& groups, const ExpertMaps& maps, int slices,
                  const ExchangeOptions& options, const ExpertSource& source) {
  const ExpertPlacement& placement = maps.layers[static_cast<std::size_t>(moe.index)];
  PlanBuilder& b = t.plan();
  const Plan& plan = b.plan();
  const MoeBlock& block = *moe.block;
  const std::int64_t h = t.input().model.hidden;
  const std::int64_t f = divide(block.expert.intermediate, slices, "expert columns");
  const DType weight = t.input().model.expert_weights;
  const int members = placement.ranks();
  bool one_expert_each = true;  // arriving rows are then grouped by expert already
  for (int j = 0; j < members; ++j) one_expert_each = one_expert_each && placement.slots_on(Rank(j)) <= 1;
  const bool alone = members == 1 || source.local;
  const bool once_per_rank = options.once_per_rank && !alone;  // alone, nothing is sent
  const int shares = options.drop_duplicates ? slices : 1;

  const BufferId choice = t.gate(moe);
  if (source.after_gate) source.after_gate(choice);

  // ---- who sends what to whom ----
  const TokenRanges sources = sources_of(plan, shares);
  // Copies, and tokens per rank and per node: three passes over the same decisions, or one.
  const load::KeptLayer routing(t.input().routing, moe.index, once_per_rank ? sources.total() : 0);
  Table routed = route_to_slots(expert_counts(routing, moe.index, sources), plan, groups, placement, maps);
  const std::int64_t cap = capacity(sources, block, options);
  std::int64_t dropped = 0;
  for (int r = 0; r < t.ranks(); r += shares > 1 ? 1 : t.tp())
    for (const std::int32_t copies : routed.row(r)) dropped += cap > 0 ? std::max<std::int64_t>(0, copies - cap) : 0;
  b.count_copies(t.tokens().total() * block.top_k, dropped);
  const TableId routed_id = b.table(routed);
  if (cap > 0) {  // every slot gets exactly the capacity from every source
    routed = Table(1, placement.slots());
    std::ranges::fill(routed.row(0), static_cast<std::int32_t>(cap));
  }
  Table pairs = pair_counts(routed, placement);
  TableId island_rows;
  if (once_per_rank) {
    const auto tokens_to = [&](const std::vector<int>& bins) {
      return tokens_to_bins(routing, moe.index, sources, plan, groups, placement, routed, bins);
    };
    std::vector<int> each(static_cast<std::size_t>(members));
    std::iota(each.begin(), each.end(), 0);
    pairs = tokens_to(each);
    if (options.once_per_node)
      if (const std::vector<int> islands = common_islands(*t.input().cluster.topology, groups); !islands.empty())
        island_rows = b.table(tokens_to(islands));
  }
  const TableId sent_id = b.table(pairs);
  const TableId returned_id = b.table(transposed(pairs, groups, t.ranks()));
  const TableId arrived_id = b.table(expert_rows(routed, groups, placement, t.ranks()));
  const std::int64_t matrices = plan.table(arrived_id).cols();
  const Groups replicas = plan.groups[t.tp_groups().index()];
  const TableId rows_id = shares > 1 ? b.table(gathered(plan.table(arrived_id), replicas)) : arrived_id;
  const Rows sent{0, sent_id};
  const Rows received{0, returned_id};
  const Rows arrived{0, arrived_id};
  const Rows computed{0, rows_id};
  const GroupsId groups_id = b.groups(groups);
  const PlacementId placement_id = b.placement(placement);

  const RowOrder at_source = once_per_rank ? RowOrder::unique_by_rank : RowOrder::by_slot;
  const RowOrder on_arrival = once_per_rank ? RowOrder::unique_by_source : RowOrder::by_source;
  // fp8 on the wire carries a float32 scale per 128 elements (DeepEP): 4 bytes, the room of 4 elements.
  const bool scaled = bits(options.dispatch) == 8;
  const std::int64_t out_cols = scaled ? h + (h + 127) / 128 * 4 : h;
  const auto permute = [&](RowOrder from, RowOrder to, Rows in, Rows out, std::int64_t cols, DType dtype) {
    return Permute{from,  to, moe.index, routed_id, groups_id, placement_id,
                   cap,   in, out,       cols,      dtype,     Launch{false, options.permute_kernels},
                   shares};
  };
  const auto among_replicas = [&](const char* name, Category category, Collective::Kind kind, BufferId x,
                                  TableId counts, Rows rows, std::int64_t cols, DType dtype) {
    return t.op(moe.prefix + name, category, moe.layer, {x}, rows, cols, dtype,
                Collective{kind, Collective::Algorithm::automatic, t.tp_groups(), counts, cols, dtype, 0, {}, {}},
                communication_stream, BufferRole::communication);
  };
  const auto exchange_rows = [&](const char* name, Category category, BufferId x, TableId counts, Rows rows,
                                 std::int64_t cols, DType dtype, TableId across, bool returns) {
    return t.op(moe.prefix + name, category, moe.layer, {x}, rows, cols, dtype,
                Collective{Collective::Kind::all_to_all_v,
                           options.algorithm,
                           groups_id,
                           counts,
                           cols,
                           dtype,
                           0,
                           {},
                           {},
                           across,
                           returns},
                communication_stream, BufferRole::communication);
  };

  // ---- dispatch ----
  if (cap == 0 && !alone) {
    // Members tell each other how many copies each local expert gets, int32 each.
    Table each(1, members);
    std::ranges::fill(each.row(0), 1);
    const std::int64_t local = (placement.slots() + members - 1) / members;
    BufferId counts = exchange_rows(".counts", Category::dispatch, choice, b.table(each), Rows{members, {}}, local,
                                    DType::i32, {}, false);
    if (shares > 1) {
      Table own(1, 1);
      own.at(0, 0) = members;
      counts = among_replicas(".gather_counts", Category::dispatch, Collective::Kind::all_gather_v, counts,
                              b.table(own), Rows{std::int64_t{members} * slices, {}}, local, DType::i32);
    }
    if (options.host_sync)
      b.add({moe.prefix + ".counts_to_host",
             Category::dispatch,
             Pass::forward,
             moe.layer,
             communication_stream,
             {},
             {counts},
             {},
             HostSync{}});
  }
  BufferId x =
      t.op(moe.prefix + ".permute", Category::dispatch, moe.layer, {moe.x, choice}, sent, out_cols, options.dispatch,
           permute(RowOrder::token, at_source, t.token_rows(), sent, out_cols, options.dispatch));
  if (!alone)
    x = exchange_rows(".dispatch", Category::dispatch, x, sent_id, received, out_cols, options.dispatch, island_rows,
                      false);
  moe.add_shared_expert();
  if (!alone && !(one_expert_each && !once_per_rank))
    x = t.op(moe.prefix + ".group", Category::dispatch, moe.layer, {x}, arrived, h, options.dispatch,
             permute(on_arrival, RowOrder::by_slot, received, arrived, h, options.dispatch));
  const TableId share_id = shares > 1 ? b.table(summed(plan.table(arrived_id))) : TableId{};
  if (shares > 1)
    x = among_replicas(".gather", Category::dispatch, Collective::Kind::all_gather_v, x, share_id, computed, h,
                       options.dispatch);

  // ---- experts ----
  const Math math = t.math_for(weight);
  const DType in = math == Math::fp8 || math == Math::int8 ? weight : t.act();
  const Launch launch{options.launch_per_expert, 1};
  const auto expert_weight = [&](const char* name, std::int64_t n, std::int64_t k, Shard shard) {
    if (source.weights) return source.weights(std::string_view(name) == ".up" ? 0 : 1);
    const Rows held{0, b.table(slots_held(groups, placement, t.ranks(), k))};
    shard.matrix_rows = k;
    shard.expert_groups = groups_id;
    shard.placement = placement_id;
    return t.weight(moe.prefix + name + ".weight", held, n, weight, std::move(shard));
  };
  const auto expert_gemm = [&](const char* name, BufferId from, std::int64_t n, std::int64_t k, Shard shard) {
    const BufferId w = expert_weight(name, n, k, std::move(shard));
    return t.op(
        moe.prefix + name, Category::experts, moe.layer, {from, w}, computed, n, t.act(),
        GroupedGemm{GroupedGemm::Form::forward, rows_id, matrices, n, k, in, weight, t.act(), math, launch, false});
  };
  const std::int64_t up_cols = block.expert.gated ? 2 * f : f;
  const std::vector<std::int64_t> halves(block.expert.gated ? 2 : 1, f);
  BufferId y = expert_gemm(".up", x, up_cols, h, t.column_slices(halves));
  const auto fn = block.expert.gated ? Elementwise::Fn::gated : Elementwise::Fn::activation;
  y = t.op(moe.prefix + ".activation", Category::experts, moe.layer, {y}, computed, f, t.act(),
           Elementwise{fn, computed, up_cols, f, t.act(), 0, block.expert.activation});
  y = expert_gemm(".down", y, h, f, t.row_slices());

  // ---- combine ----
  if (shares > 1)
    y = among_replicas(".scatter", Category::combine, Collective::Kind::reduce_scatter_v, y, share_id, arrived, h,
                       t.act());
  if (!alone && !(one_expert_each && !once_per_rank))
    y = t.op(moe.prefix + ".ungroup", Category::combine, moe.layer, {y}, received, h, t.act(),
             permute(RowOrder::by_slot, on_arrival, arrived, received, h, t.act()));
  if (!alone) y = exchange_rows(".combine", Category::combine, y, returned_id, sent, h, t.act(), island_rows, true);
  return t.op(moe.prefix + ".unpermute", Category::combine, moe.layer, {y, choice}, t.token_rows(), h, t.act(),
              permute(at_source, RowOrder::token, sent, t.token_rows(), h, t.act()));
}

}  // namespace moesim::strategies
