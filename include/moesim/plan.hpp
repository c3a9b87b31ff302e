// The Plan: what a strategy decided, as a value that every executor runs. docs/plan_format.md defines each op so that
// an executor can be written from it.
//
// A plan is SPMD: an op stands for the same work on every rank of its groups, with the amounts of each rank looked up
// in shared tables. It holds no time, pointer or stream handle; routing is an input, so every count in it is concrete.
// Rows are tokens or token copies; a row of a buffer has `cols` elements of `dtype`.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "moesim/dtype.hpp"
#include "moesim/ids.hpp"
#include "moesim/model.hpp"
#include "moesim/placement.hpp"
#include "moesim/routing.hpp"
#include "moesim/table.hpp"
#include "moesim/units.hpp"

namespace moesim {

// Rows of something on each rank: a fixed number, or the sum of the rank's row in a table.
struct Rows {
  std::int64_t fixed = 0;
  TableId table;  // valid: overrides fixed
  friend bool operator==(const Rows&, const Rows&) = default;
};

// ---- buffers
// ---------------------------------------------------------------------------------------------------------

enum class BufferRole : std::uint8_t {
  weight,         // parameters; live through the whole plan
  gradient,       // of weights
  optimizer,      // Adam moments and float32 master weights; live through the whole plan
  kv_cache,       // lives through the whole plan
  activation,     // lives from its first write to its last read
  communication,  // the same, filled or drained by a collective
  gathered,       // the same, copies of parameters that other ranks own
};

enum class Location : std::uint8_t { device, host };

// Which part of a logical tensor a rank's buffer holds, for weights and caches (docs/plan_format.md, "Shards"). Buffers
// of one name in the plans of different strategies are parts of the same tensor. The default: all of it.
struct Shard {
  // Columns that are sliced together: `cols` on a rank, of cols * slices in the tensor. With fewer slices than ranks
  // (key/value heads), neighbouring ranks hold the same slice.
  struct Section {
    std::int64_t cols = 0;
    std::int64_t slices = 1;
    friend bool operator==(const Section&, const Section&) = default;
  };
  GroupsId groups;                // a rank holds the slice of its position in its group; invalid: everything
  bool by_rows = false;           // slices of the rows of each matrix, else of the columns
  std::int64_t tensor_rows = 0;   // by_rows: rows of the whole matrix where the last slice is padded; 0 = no padding
  std::vector<Section> sections;  // of the columns; empty: one section of all
  std::int64_t matrix_rows = 0;   // > 0: a stack of matrices of this many rows, one per expert
  GroupsId expert_groups;         // the stack holds the experts of the rank's slots in its group under `placement`;
  PlacementId placement;          // invalid: every expert in order
  friend bool operator==(const Shard&, const Shard&) = default;
};

struct Buffer {
  std::string name;
  BufferRole role = BufferRole::activation;
  Location location = Location::device;
  DType dtype = DType::bf16;
  Rows rows;
  std::int64_t cols = 0;
  Shard shard = {};
  friend bool operator==(const Buffer&, const Buffer&) = default;
};

// ---- ops: local work
// -------------------------------------------------------------------------------------------------

// How many kernels an op is issued as. Launch counts are part of what MoEShard is about (papers.md section 1).
struct Launch {
  bool per_group = false;   // one set of kernels per group with rows; otherwise one set for the whole op
  int kernels = 1;          // framework operations per set
  int passes = 1;           // times that a permutation streams its rows: gathering and then concatenating is two
  bool host_waits = false;  // the host issues a set only after the one before is complete: it reads row numbers of each
  friend bool operator==(const Launch&, const Launch&) = default;
};

// Y[m, b, n] = X[m, b, k] W[b, k, n] for every b < batch (heads; batch is 1 for a plain product).
//   forward          reads X, W; writes Y[m, n] = X[m, k] W[k, n]
//   input_gradient   reads dY, W; writes dX[m, k] = dY[m, n] W^T
//   weight_gradient  reads X, dY; writes dW[k, n] = X^T dY
// m, n and k are the forward product's in every form.
struct Gemm {
  enum class Form : std::uint8_t { forward, input_gradient, weight_gradient };
  Rows m;
  std::int64_t batch = 1;
  std::int64_t n = 0;
  std::int64_t k = 0;
  DType in = DType::bf16;
  DType weight = DType::bf16;
  DType out = DType::bf16;
  Math math = Math::bf16;
  Form form = Form::forward;
  friend bool operator==(const Gemm&, const Gemm&) = default;
};

// One GEMM per group: rows of group g times matrix g mod `matrices`, in the forms of Gemm.
struct GroupedGemm {
  using Form = Gemm::Form;
  Form form = Form::forward;
  TableId rows;               // [ranks or 1, groups]
  std::int64_t matrices = 0;  // weight matrices on the rank
  std::int64_t n = 0;
  std::int64_t k = 0;
  DType in = DType::bf16;
  DType weight = DType::bf16;
  DType out = DType::bf16;
  Math math = Math::bf16;
  Launch launch;
  bool block_sparse = false;  // MegaBlocks: one launch over 128 x 128 blocks, rows of a group padded to whole blocks
  friend bool operator==(const GroupedGemm&, const GroupedGemm&) = default;
};

// softmax(Q K^T / sqrt(d)) V of `sequences` sequences; each has q_len new tokens that attend to kv_len (causally, when
// `causal`: token i of q_len sees kv_len - q_len + i + 1). Heads are those of the rank. reads: Q, K/V; writes: O.
struct AttentionCore {
  Rows sequences;
  std::int64_t q_len = 0;
  std::int64_t kv_len = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;  // heads whose K/V are read; latent attention in its absorbed form reads one
  std::int64_t qk_dim = 0;
  std::int64_t v_dim = 0;
  std::int64_t window = 0;   // > 0: a query sees at most this many keys
  std::int64_t kv_cols = 0;  // elements read per cached token (K and V of all kv heads; the latent for MLA)
  bool causal = true;
  bool backward = false;
  DType dtype = DType::bf16;
  Math math = Math::bf16;
  friend bool operator==(const AttentionCore&, const AttentionCore&) = default;
};

// A memory-bound kernel over rows: reads and writes its buffers once.
struct Elementwise {
  enum class Fn : std::uint8_t {
    norm,           // RMSNorm / LayerNorm of each row
    add_norm,       // R = A + B, Y = norm(R): reads A, B, writes R, Y
    add,            // residual: Y = A + B
    activation,     // Y = act(X)
    gated,          // Y[., c] = act(X[., c]) * X[., cols + c]: X is twice as wide
    embedding,      // Y = W[id of each row]
    last_token,     // the last row of each sequence
    top_k,          // scores [rows, experts] -> ids and weights [rows, k]
    rotary,         // rotary position encoding, and the write of new K/V to the cache
    scale,          // shared-expert gate and the like
    sum_partials,   // Y = sum of `parts` partial results, as a reduction without a collective
    adam,           // one optimizer step over cols parameters per row
    cast,           // change of number format
    delta_rule,     // linear attention's state update
    cross_entropy,  // loss of each row: -log softmax(logits)[next token]
  };
  Fn fn = Fn::add;
  Rows rows;
  std::int64_t read_cols = 0;   // elements read per row
  std::int64_t write_cols = 0;  // elements written per row
  DType dtype = DType::bf16;
  std::int64_t flops_per_row = 0;
  Activation activation = Activation::relu;  // for activation and gated
  bool backward = false;                     // from the gradients of what it wrote to those of what it read
  friend bool operator==(const Elementwise&, const Elementwise&) = default;
};

// How the rows of a token buffer are ordered. Slots are numbered rank by rank (placement.hpp), so by_slot is at once
// the order of destinations and the order of experts.
enum class RowOrder : std::uint8_t {
  token,             // the owner's tokens, one row each
  by_slot,           // token copies sorted by (slot, source rank, token)
  by_source,         // token copies sorted by (source rank, slot, token): what an exchange delivers
  unique_by_rank,    // tokens sorted by (destination rank, token), once per rank however many of its experts they use
  unique_by_source,  // the same on arrival, sorted by (source rank, token)
};

// Moves rows from one order to another. token -> X is the dispatch gather; X -> token the combine: the sum of a token's
// copies weighted by its gate. Between copies and unique rows it duplicates, or sums with gate weights.
// routed[rank, slot]: copies that the rank sends to each slot of its group. With capacity > 0 every (source, slot) has
// exactly that many rows: later copies are dropped (in token order), missing ones are zero rows.
// With shares > 1 the ranks of an owner divide its tokens (Plan::share): copies are those of the rank's share, and a
// combine writes zero rows for the other tokens.
struct Permute {
  RowOrder from = RowOrder::token;
  RowOrder to = RowOrder::by_slot;
  int moe_layer = 0;  // whose routing
  TableId routed;
  GroupsId groups;  // the ranks that exchange; slots are those of placement
  PlacementId placement;
  std::int64_t capacity = 0;
  Rows rows_in;
  Rows rows_out;
  std::int64_t cols = 0;
  DType dtype = DType::bf16;
  Launch launch;
  int shares = 1;
  bool adjoint = false;  // of the permute that has from and to exchanged: token -> by_slot weights each copy by its
                         // gate, by_slot -> token sums without weights
  friend bool operator==(const Permute&, const Permute&) = default;
};

// A copy between a rank's device and its host memory.
struct Copy {
  enum class Direction : std::uint8_t { host_to_device, device_to_host, device_to_device };
  Direction direction = Direction::host_to_device;
  Rows rows;
  std::int64_t cols = 0;
  DType dtype = DType::bf16;
  friend bool operator==(const Copy&, const Copy&) = default;
};

// The host thread waits for the rank's earlier work, but parameters', as it needs a result (token counts) to go on.
struct HostSync {
  friend bool operator==(const HostSync&, const HostSync&) = default;
};

// ---- ops: collectives
// ------------------------------------------------------------------------------------------------

// Collectives stay logical: the simulator lowers them to flows, CUDA calls NCCL, the host copies. A group's members
// enter together and each leaves when its own data is complete. `counts` are rows of `cols` elements:
//   all_to_all_v      [ranks or 1, group size]  rows sent to each member
//   all_gather_v      [ranks or 1, 1]      rows contributed; all members end with the concatenation in group order
//   reduce_scatter_v  [ranks or 1, 1]      rows kept; the input is the concatenation of all members' rows
//   all_reduce        [ranks or 1, 1]      rows, the same in one group
//   broadcast, reduce [ranks or 1, 1]      rows, from / to the member `root`
//   send_recv         [ranks or 1, group size]  as all_to_all_v, sparse
//   sparse_all_gather, sparse_reduce_scatter: one row is one expert's chunk; `from` and `to` say who holds what
//                     (Hecate section 3, papers.md section 3); counts unused
struct Collective {
  enum class Kind : std::uint8_t {
    all_to_all_v,
    all_gather_v,
    reduce_scatter_v,
    all_reduce,
    broadcast,
    reduce,
    send_recv,
    sparse_all_gather,
    sparse_reduce_scatter,
  };
  // What the strategy asks for; `automatic` leaves it to the executor.
  enum class Algorithm : std::uint8_t {
    automatic,
    direct,
    hierarchical,
    ring,
    tree,
    in_switch,
    per_root,  // all_gather_v, reduce_scatter_v: a broadcast or reduce per member, one after the other, as PyTorch does
               // where members have different numbers of rows
  };
  Kind kind = Kind::all_reduce;
  Algorithm algorithm = Algorithm::automatic;
  GroupsId groups;
  TableId counts;
  std::int64_t cols = 0;
  DType dtype = DType::bf16;
  int root = 0;
  PlacementId from;
  PlacementId to;
  // all_to_all_v between nodes, hierarchical: rows that cross, where some of `counts` are equal (a token for several
  // GPUs of a node crosses once) or are summed first on the way back (`returns`). [ranks or 1, islands of the group]:
  // from a rank to each set of members that NVLink or PCIe joins, in the order of their first ranks; with `returns`
  // from there to the rank. Invalid: every row crosses.
  TableId island_rows = {};
  bool returns = false;
  friend bool operator==(const Collective&, const Collective&) = default;
};

// Closed: visited without a catch-all, so that a new kind fails to compile in every executor that lacks it.
using Work = std::variant<Gemm, GroupedGemm, AttentionCore, Elementwise, Permute, Copy, HostSync, Collective>;

// ---- the plan
// --------------------------------------------------------------------------------------------------------

// What an op is for, in reports.
enum class Category : std::uint8_t {
  attention,
  gate,
  dispatch,
  experts,
  combine,
  dense,
  embedding,
  optimizer,
  other,
  parameters
};
enum class Pass : std::uint8_t { forward, backward, update };

struct Op {
  std::string name;  // unique in the plan: "l3.experts.up"
  Category category = Category::other;
  Pass pass = Pass::forward;
  Layer layer;              // invalid for the parts before and after the layers
  int stream = 0;           // 0 compute, 1 communication, 2 copies, 3 parameters; ops of a stream run in plan order
  std::vector<OpId> after;  // ops that must be complete on the same rank
  std::vector<BufferId> reads;
  std::vector<BufferId> writes;
  Work work;
  friend bool operator==(const Op&, const Op&) = default;
};

using Groups = std::vector<std::vector<Rank>>;  // a partition of some or all ranks; order matters

struct Plan {
  static constexpr int format_version = 2;

  std::string strategy;  // as named in the scenario
  std::string model;
  std::string workload;                        // one line: "prefill, 1000 sequences of 120 tokens"
  std::map<std::string, std::string> options;  // the strategy's, as resolved
  int ranks = 0;
  bool routing_synthetic = true;
  std::string routing;

  // Whose tokens a rank works on. Ranks that replicate tokens share an owner.
  TokenRanges tokens;
  std::vector<int> owner_of_rank;   // [ranks]
  std::int64_t dropped_copies = 0;  // token copies over capacity, over all layers and owners (each counted once)
  std::int64_t routed_copies = 0;   // all token copies, the same way

  std::vector<Table> tables;
  std::vector<Groups> groups;
  std::vector<ExpertPlacement> placements;
  std::vector<Buffer> buffers;
  std::vector<Op> ops;

  [[nodiscard]] const Table& table(TableId id) const { return tables[id.index()]; }
  [[nodiscard]] const Op& op(OpId id) const { return ops[id.index()]; }
  [[nodiscard]] const Buffer& buffer(BufferId id) const { return buffers[id.index()]; }
  [[nodiscard]] std::int64_t rows(const Rows& r, Rank rank) const {
    return r.table.valid() ? table(r.table).row_sum(rank.value()) : r.fixed;
  }
  [[nodiscard]] Bytes bytes(const Buffer& b, Rank rank) const {
    return storage(detail::checked_mul(rows(b.rows, rank), b.cols), b.dtype);
  }
  // The rank's share of its owner's tokens, [first, last) counted from the owner's first: the i-th rank of an owner of
  // n
  // tokens has [n i / shares, n (i + 1) / shares).
  struct Share {
    std::int64_t first = 0;
    std::int64_t last = 0;
  };
  [[nodiscard]] Share share(Rank rank, int shares) const;
  friend bool operator==(const Plan&, const Plan&) = default;
};

// All faults of a plan that would make an executor go wrong: ids out of range, a dependency that does not point
// backward, counts that do not add up, ranks in two groups of a partition, duplicate op names. Empty = sound.
std::vector<std::string> faults(const Plan& plan);

// Rows and bytes that a collective moves at one rank, in the application's accounting: what leaves for other ranks and
// what arrives from them; a rank's own part does not count. A reduction receives its own result once (the accounting
// of papers.md section 1), whatever algorithm carries it.
struct Traffic {
  Bytes sent;
  Bytes received;
};
Traffic traffic(const Plan& plan, const Collective& collective, Rank rank);

// Peak memory of one rank, and what it is made of at that moment.
struct MemoryPeak {
  Bytes total;
  std::map<BufferRole, Bytes> by_role;
  OpId at;  // the op during which the peak is reached; invalid in a plan without ops
};
MemoryPeak memory_peak(const Plan& plan, Rank rank);
MemoryPeak worst_memory_peak(const Plan& plan);    // over all ranks
MemoryPeak memory_of_all_ranks(const Plan& plan);  // of ranks that share one GPU: their peaks added up; at: invalid

// The plan as a file: JSON, format_version first. write_plan writes to a temporary name and renames it.
void write_plan(const Plan& plan, const std::string& path);
Plan read_plan(const std::string& path);  // throws InputError
// For people: ops with their shapes on one rank, buffers and memory.
std::string describe(const Plan& plan, Rank rank);

std::string_view to_string(BufferRole role);
std::string_view to_string(Category category);
std::string_view to_string(Pass pass);
std::string_view to_string(Collective::Kind kind);
std::string_view to_string(const Work& work);  // "gemm", "all_to_all_v", ...

}  // namespace moesim
