// The reader of machine files and overlays. Both have the same keys; in an overlay all of them are optional.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "models/hardware/machine.hpp"
#include "support/files.hpp"
#include "support/toml_reader.hpp"

namespace moesim::hardware {
namespace {

const NamesOf<NodeFabric::Kind> fabrics{{"single", NodeFabric::Kind::single},
                                        {"nvswitch", NodeFabric::Kind::nvswitch},
                                        {"hybrid_cube_mesh", NodeFabric::Kind::hybrid_cube_mesh},
                                        {"pcie", NodeFabric::Kind::pcie}};

// Bounds beyond which a number is a slip of the unit: a petabyte per second, a second of latency.
const Range<BytesPerSecond> bandwidth = positive(BytesPerSecond(1e15));
const Range<Picoseconds> latency{Picoseconds(0), Picoseconds(1'000'000'000'000)};
const Range<double> efficiency{0, 1, true};

class Reader {
 public:
  Reader(TomlDocument& doc, MachineSpec& machine, bool overlay)
      : doc_(doc),
        m_(machine),
        need_(overlay ? Need::optional : Need::required),
        sources_(doc.root().table("sources")) {}

  void read() {
    TomlTable root = doc_.root();
    root.read("name", m_.name, need_, {});
    root.read("summary", m_.summary, need_, {});
    number(root, "gpus_per_node", m_.gpus_per_node, {1, 1024});
    gpu(root.table("gpu", need_));
    node(root.table("node", need_));
    network(root.table("network", need_));
    collectives(root.table("collectives", need_));
    TomlTable host = root.table("host", need_);
    number(host, "link", m_.host_link, bandwidth);
    doc_.throw_if_errors();
  }

 private:
  // { value = ..., source = "..." }. A source of one word stands for the text that [sources] gives it.
  template <class T>
  void number(TomlTable& table, std::string_view key, T& out, const std::type_identity_t<Range<T>>& range) {
    number(table, key, out, range, need_);
  }
  template <class T>
  void number(TomlTable& table, std::string_view key, T& out, const std::type_identity_t<Range<T>>& range, Need need) {
    if (table.has(key) && !table.is_table(key)) {
      T bare{};
      if (table.read(key, bare, need, range))
        table.error_at(key, "the number has no source",
                       fmt::format("write {} = {{ value = ..., source = \"...\" }}", key));
      return;
    }
    TomlTable entry = table.table(key, need);
    std::string source;
    entry.require("value", out, range);
    if (entry.require("source", source)) m_.sources[table.path(key)] = expanded(entry, source);
  }
  std::string expanded(TomlTable& entry, const std::string& source) {
    if (source.find(' ') != std::string::npos) return source;
    std::string text;
    if (sources_.has(source)) {
      sources_.require(source, text);
      return text;
    }
    const std::vector<std::string> names = sources_.keys();
    const std::string_view near = nearest_name(source, {names.begin(), names.end()});
    entry.error_at("source", fmt::format("'{}' is one word, and [sources] has no such key", source),
                   near.empty() ? "say where the number is from: a document, a data set, or what was assumed and why"
                                : fmt::format("did you mean '{}'?", near));
    return {};
  }

  void link(TomlTable table, LinkSpec& out) {
    number(table, "nominal", out.nominal, bandwidth);
    number(table, "efficiency", out.efficiency, efficiency);
    number(table, "latency", out.latency, latency);
  }

  void gpu(TomlTable t) {
    Gpu& g = m_.gpu;
    t.read("name", g.name, need_, {});
    number(t, "sms", g.sms, {1, 4096});
    number(t, "memory_bandwidth", g.memory_bandwidth, bandwidth);
    number(t, "memory", g.memory, positive(Bytes(std::int64_t{1} << 50)));
    number(t, "reserved", g.reserved, {Bytes(0), Bytes(std::int64_t{1} << 50)});
    number(t, "matrix_efficiency", g.matrix_efficiency, efficiency);
    number(t, "memory_efficiency", g.memory_efficiency, efficiency);
    number(t, "attention_efficiency", g.attention_efficiency, efficiency);
    number(t, "launch", g.launch, latency);
    number(t, "kernel_floor", g.kernel_floor, latency);
    number(t, "host_sync", g.host_sync, latency);
    TomlTable peaks = t.table("peak", need_);
    for (const Math math : all_maths) {
      FlopsPerSecond peak = g.peak_of(math).value_or(FlopsPerSecond(0));
      number(peaks, to_string(math), peak, positive(FlopsPerSecond(1e19)), math == Math::f32 ? need_ : Need::optional);
      if (peak.value() > 0) g.peak[static_cast<std::size_t>(math)] = peak;
    }
    if (g.memory.value() > 0 && g.reserved >= g.memory)
      t.error_at("reserved",
                 fmt::format("{} leaves nothing of the {} of memory", to_text(g.reserved), to_text(g.memory)));
  }

  void node(TomlTable t) {
    NodeFabric& n = m_.node;
    t.one_of("fabric", n.kind, fabrics, need_);
    const bool pcie = n.kind == NodeFabric::Kind::pcie;
    if (n.kind == NodeFabric::Kind::single)
      t.forbid("gpu_link", "a node of one GPU has no links inside");
    else
      link(t.table("gpu_link", need_), n.gpu_link);
    if (pcie) {
      link(t.table("host_bridge", need_), n.host_bridge);
      number(t, "gpus_per_pcie_switch", n.gpus_per_pcie_switch, {1, 64});
      number(t, "sockets", n.sockets, {1, 16});
      link(t.table("socket_link", n.sockets > 1 ? need_ : Need::optional), n.socket_link);
    } else {
      for (const std::string_view key : {"host_bridge", "socket_link", "gpus_per_pcie_switch", "sockets"})
        t.forbid(key, "only a node with fabric = \"pcie\" has it");
    }
    const int gpus = m_.gpus_per_node;
    if (n.kind == NodeFabric::Kind::single && gpus != 1)
      t.error_at("fabric", fmt::format("\"single\" is for nodes of one GPU; gpus_per_node is {}", gpus));
    if (n.kind == NodeFabric::Kind::hybrid_cube_mesh && gpus != 8)
      t.error_at("fabric", fmt::format("a hybrid cube mesh joins 8 GPUs; gpus_per_node is {}", gpus));
  }

  void network(TomlTable t) {
    NetworkFabric& n = m_.network;
    n.kind = NetworkFabric::Kind::single;
    number(t, "nics_per_node", n.nics_per_node, {1, 1024});
    number(t, "switch_latency", n.switch_latency, latency);
    link(t.table("nic", need_), n.nic);
    link(t.table("nic_pcie"), n.nic_pcie);
  }

  void collectives(TomlTable t) {
    CollectiveCosts& c = m_.collectives;
    number(t, "launch", c.launch, latency);
    number(t, "intra_message", c.intra_message, latency);
    number(t, "inter_message", c.inter_message, latency);
    number(t, "sms", c.sms, {0, 4096});
    number(t, "message_gap", c.message_gap, latency);
    number(t, "ramp", c.ramp, latency);
    number(t, "ramp_half", c.ramp_half, {Bytes(0), Bytes(std::int64_t{1} << 50)});
    const Need in_switch = t.has("in_switch") ? need_ : Need::optional;
    number(t, "in_switch", c.in_switch, efficiency, in_switch);
    number(t, "in_switch_message", c.in_switch_message, latency, in_switch);
    if (m_.gpu.sms > 0 && c.sms > m_.gpu.sms)
      t.error_at("sms", fmt::format("collectives on {} SMs of a GPU that has {}", c.sms, m_.gpu.sms));
  }

  TomlDocument& doc_;
  MachineSpec& m_;
  Need need_;
  TomlTable sources_;
};

}  // namespace

MachineSpec load_machine(std::string_view name_or_path, const SourcePlace& place) {
  std::string path(name_or_path);
  if (!path.ends_with(".toml")) {
    const std::vector<std::string> names = machine_names();
    if (std::find(names.begin(), names.end(), path) == names.end()) {
      const std::string_view near = nearest_name(path, {names.begin(), names.end()});
      throw InputError(
          place, fmt::format("no machine is called '{}'; there are: {}", path, fmt::join(names, ", ")),
          near.empty() ? "a path to a machine file ends in .toml" : fmt::format("did you mean '{}'?", near));
    }
    path = data_path(fmt::format("models/hardware/machines/{}.toml", path));
  }
  TomlDocument doc(path);
  MachineSpec machine;
  machine.id = std::filesystem::path(path).stem().string();
  Reader(doc, machine, false).read();
  return machine;
}

void apply_overlay(MachineSpec& machine, const std::string& path) {
  TomlDocument doc(path);
  TomlTable root = doc.root();
  std::string meant;
  if (root.maybe("machine", meant) && meant != machine.id)
    root.error_at("machine", fmt::format("these numbers are for '{}', not for '{}'", meant, machine.id));
  MachineSpec changed = machine;
  Reader(doc, changed, true).read();
  machine = std::move(changed);
}

}  // namespace moesim::hardware
