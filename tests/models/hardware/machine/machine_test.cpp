#include "models/hardware/machine.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>

#include "support/files.hpp"
#include "tests/bad_input/expect.hpp"
#include "tests/scratch.hpp"

namespace moesim::hardware {
namespace {

TEST_CASE("every machine that ships loads, has a source for each number and is physically sane") {
  const std::vector<std::string> names = machine_names();
  for (const char* name : {"a100_80g_sxm", "a100_40g", "v100_32g", "v100_32g_dgx1", "h100_sxm", "h200_sxm", "h800",
                           "h20", "b200_sxm", "rtx4090", "pcie_box"})
    CHECK(std::find(names.begin(), names.end(), name) != names.end());
  CHECK(std::is_sorted(names.begin(), names.end()));
  for (const std::string& name : names) {
    CAPTURE(name);
    const MachineSpec m = load_machine(name);
    CHECK(m.id == name);
    CHECK(m.gpu.sms > 0);
    CHECK(m.gpu.reserved < m.gpu.memory);
    CHECK(m.collectives.sms < m.gpu.sms);
    for (const double e : {m.gpu.matrix_efficiency, m.gpu.memory_efficiency, m.gpu.attention_efficiency,
                           m.node.gpu_link.efficiency, m.network.nic.efficiency}) {
      CHECK(e > 0);
      CHECK(e <= 1);
    }
    REQUIRE(m.gpu.peak_of(Math::f32));
    // A pipeline of fewer bits is never slower; fused attention never beats the matrix pipeline.
    const auto peak = [&](Math x) { return m.gpu.peak_of(x).value_or(FlopsPerSecond(0)); };
    if (m.gpu.peak_of(Math::tf32)) CHECK(peak(Math::tf32) >= peak(Math::f32));
    if (m.gpu.peak_of(Math::bf16)) CHECK(peak(Math::bf16) == peak(Math::f16));
    if (m.gpu.peak_of(Math::fp8)) CHECK(peak(Math::fp8) >= peak(Math::f16));
    if (m.gpu.peak_of(Math::fp4)) CHECK(peak(Math::fp4) >= peak(Math::fp8));
    CHECK(m.gpu.attention_efficiency <= m.gpu.matrix_efficiency);
    // Memory is faster than the GPU's links, those are no slower than its share of the NICs, and inside is nearer.
    CHECK(m.gpu.memory_bandwidth > m.node.gpu_link.nominal);
    CHECK(m.collectives.intra_message < m.collectives.inter_message);
    CHECK(m.gpu.kernel_floor < m.gpu.launch);
    CHECK(summary(m).find(name) == 0);
    // 23 numbers that every machine has, and its peaks.
    CHECK(m.sources.size() >= 25);
    for (const auto& [key, source] : m.sources) {
      CAPTURE(key);
      CHECK(source.find(' ') != std::string::npos);
    }
    CHECK(m.sources.contains("gpu.memory_bandwidth"));
    CHECK(m.sources.contains("gpu.peak.f32"));
    CHECK(m.sources.contains("node.gpu_link.efficiency"));
    CHECK(m.sources.contains("network.nic.nominal"));
    CHECK(m.sources.contains("collectives.intra_message"));
    CHECK(m.sources.contains("host.link"));
  }
}

// The data sheets, once more and independently of the files.
TEST_CASE("data-sheet numbers") {
  const MachineSpec a100 = load_machine("a100_80g_sxm");
  CHECK(a100.gpu.sms == 108);
  CHECK(a100.gpu.memory_bandwidth.value() == 2039e9);
  CHECK(a100.gpu.memory.value() == 81251LL * 1048576);
  CHECK(a100.gpu.peak_of(Math::f32)->value() == 19.5e12);
  CHECK(a100.gpu.peak_of(Math::tf32)->value() == 156e12);
  CHECK(a100.gpu.peak_of(Math::bf16)->value() == 312e12);
  CHECK(a100.gpu.peak_of(Math::int8)->value() == 624e12);
  CHECK_FALSE(a100.gpu.peak_of(Math::fp8));
  CHECK_FALSE(a100.gpu.peak_of(Math::fp4));
  CHECK(a100.node.kind == NodeFabric::Kind::nvswitch);
  CHECK(a100.node.gpu_link.nominal.value() == 300e9);
  CHECK(a100.network.nics_per_node == 8);
  CHECK(a100.network.nic.nominal.value() == 25e9);  // 200 Gb/s
  CHECK(a100.gpu.launch.value() == 6'000'000);
  CHECK(a100.gpu.kernel_floor.value() == 2'450'000);

  const MachineSpec a40 = load_machine("a100_40g");
  CHECK(a40.gpu.memory_bandwidth.value() == 1555e9);
  CHECK(a40.node.gpu_link.nominal.value() == 300e9);                           // 600 GB/s both ways
  CHECK(a40.network.nic.nominal.value() * a40.network.nics_per_node == 50e9);  // 400 Gb/s
  CHECK(load_machine("h100_sxm").gpu.peak_of(Math::bf16)->value() == 989.4e12);
  CHECK(load_machine("h100_sxm").node.gpu_link.nominal.value() == 450e9);
  CHECK(load_machine("h100_sxm").network.nic.nominal.value() == 50e9);
  CHECK(load_machine("h800").node.gpu_link.nominal.value() == 200e9);
  CHECK(load_machine("h200_sxm").gpu.memory_bandwidth.value() == 4.8e12);
  CHECK(load_machine("h20").gpu.peak_of(Math::bf16)->value() == 148e12);
  CHECK(load_machine("b200_sxm").gpu.peak_of(Math::fp4)->value() == 9e15);
  CHECK(load_machine("rtx4090").node.kind == NodeFabric::Kind::pcie);
  CHECK(load_machine("pcie_box").gpu.peak_of(Math::fp8)->value() == 733e12);

  const MachineSpec v100 = load_machine("v100_32g");
  CHECK(v100.node.kind == NodeFabric::Kind::hybrid_cube_mesh);
  CHECK(v100.node.gpu_link.nominal.value() * 6 * 2 == 300e9);                      // six NVLinks, both ways
  CHECK(v100.network.nic.nominal.value() * v100.network.nics_per_node == 12.5e9);  // 100 Gb/s
  CHECK_FALSE(v100.gpu.peak_of(Math::bf16));
  CHECK_FALSE(v100.gpu.peak_of(Math::tf32));
}

TEST_CASE("generations are in order") {
  const std::vector<std::string> order{"v100_32g", "a100_40g", "a100_80g_sxm", "h100_sxm", "h200_sxm", "b200_sxm"};
  for (std::size_t i = 1; i < order.size(); ++i) {
    CAPTURE(order[i]);
    const MachineSpec older = load_machine(order[i - 1]);
    const MachineSpec newer = load_machine(order[i]);
    CHECK(newer.gpu.memory_bandwidth > older.gpu.memory_bandwidth);
    CHECK(newer.gpu.memory > older.gpu.memory);
    CHECK(*newer.gpu.peak_of(Math::f16) >= *older.gpu.peak_of(Math::f16));
    CHECK(newer.gpu.peak_of(Math::f16)->value() * newer.gpu.matrix_efficiency >=
          older.gpu.peak_of(Math::f16)->value() * older.gpu.matrix_efficiency);
    CHECK(newer.network.nic.nominal.value() * newer.network.nics_per_node >=
          older.network.nic.nominal.value() * older.network.nics_per_node);
    CHECK(newer.host_link >= older.host_link);
  }
}

// t = launch + steps * intra_message against nccl-tests' figures on 8 GPUs (aiconfigurator 095f58a): all-gather of 1
// KiB has 7 steps, all-reduce 14. 15.0 and 21.8 us on A100, 10.4 and 15.6 us on H100.
TEST_CASE("latencies give back the small collectives that they were fitted on") {
  const auto time = [](const MachineSpec& m, std::int64_t steps) {
    return to_microseconds(m.collectives.launch + m.collectives.intra_message * steps);
  };
  const MachineSpec a100 = load_machine("a100_80g_sxm");
  CHECK(time(a100, 7) == doctest::Approx(15.0).epsilon(0.03));
  CHECK(time(a100, 14) == doctest::Approx(21.8).epsilon(0.03));
  const MachineSpec h100 = load_machine("h100_sxm");
  CHECK(time(h100, 7) == doctest::Approx(10.4).epsilon(0.03));
  CHECK(time(h100, 14) == doctest::Approx(15.6).epsilon(0.03));
  // Two nodes: 29.75 us for 14 steps inside and 2 between.
  CHECK(time(h100, 14) + 2 * to_microseconds(h100.collectives.inter_message) == doctest::Approx(29.75).epsilon(0.01));
}

// t = launch + steps * intra + (messages - 1) * gap + ramp * b / (b + ramp_half) + b / (efficiency * nominal), b bytes
// sent by each GPU. Figures in us as published (aiconfigurator 095f58a; SimuMax 4dcaae51 for 8 GiB), S = nccl-tests'
// size, n = 8.
TEST_CASE("collective costs give back published nccl-tests within what the files claim") {
  const auto time = [](const MachineSpec& m, double b, int steps, int messages) {
    const CollectiveCosts& c = m.collectives;
    return to_microseconds(c.launch) + steps * to_microseconds(c.intra_message) +
           (messages - 1) * to_microseconds(c.message_gap) +
           to_microseconds(c.ramp) * b / (b + static_cast<double>(c.ramp_half.value())) +
           1e6 * b / (m.node.gpu_link.efficiency * m.node.gpu_link.nominal.value());
  };
  const double mib = 1048576;
  const MachineSpec a100 = load_machine("a100_80g_sxm");
  const MachineSpec h100 = load_machine("h100_sxm");
  struct Row {
    const MachineSpec& machine;
    double size;
    int steps;
    int messages;
    double published;
  };
  // all-gather and reduce-scatter: 7 steps; all-to-all: 1 step of 7 messages.
  for (const Row& row :
       {Row{a100, 8 * mib, 7, 1, 73.51}, Row{a100, 512 * mib, 7, 1, 2288.0}, Row{a100, 32 * mib, 1, 7, 191.3},
        Row{a100, 512 * mib, 1, 7, 2313.5}, Row{h100, 32 * mib, 7, 1, 122.3}, Row{h100, 512 * mib, 7, 1, 1398.1},
        Row{h100, 8 * mib, 1, 7, 41.3}, Row{h100, 128 * mib, 1, 7, 404.0}, Row{h100, 8192 * mib, 1, 7, 21730.0}}) {
    CAPTURE(row.size);
    CHECK(time(row.machine, row.size * 7 / 8, row.steps, row.messages) == doctest::Approx(row.published).epsilon(0.1));
  }
  // In the switch: 2 steps of its own, S (1 + 1/8) through each link at in_switch of its rate. 512 MiB: 2111 us.
  const double in_switch =
      to_microseconds(h100.collectives.launch) + 2 * to_microseconds(h100.collectives.in_switch_message) +
      to_microseconds(h100.collectives.ramp) +
      1e6 * 512 * mib * 9 / 8 /
          (h100.collectives.in_switch * h100.node.gpu_link.efficiency * h100.node.gpu_link.nominal.value());
  CHECK(in_switch == doctest::Approx(2111.4).epsilon(0.03));
  CHECK(a100.collectives.in_switch == 0);  // NVSwitch of that generation cannot reduce
}

TEST_CASE("a cluster's shape") {
  const MachineSpec m = load_machine("a100_80g_sxm");
  const TopologySpec four = topology_spec(m, {4, 0, {}});
  CHECK(four.nodes == 4);
  CHECK(four.gpus_per_node == 8);
  CHECK(four.network.kind == NetworkFabric::Kind::single);
  CHECK(four.network.nics_per_node == 8);
  const TopologySpec one = topology_spec(m, {1, 4, {}});
  CHECK(one.network.kind == NetworkFabric::Kind::none);
  CHECK(one.node.kind == NodeFabric::Kind::nvswitch);
  CHECK(topology_spec(m, {1, 1, {}}).node.kind == NodeFabric::Kind::single);
  // Of a node's NICs only those beside its GPUs are used: 3 of 8 GPUs have 3 of 8 NICs, and 2 (rounded up) of 4.
  CHECK(topology_spec(m, {2, 3, {}}).network.nics_per_node == 3);
  CHECK(topology_spec(load_machine("a100_40g"), {2, 3, {}}).network.nics_per_node == 2);
  CHECK(topology_spec(load_machine("v100_32g"), {2, 1, {}}).network.nics_per_node == 1);
}

TEST_CASE("clusters of every machine") {
  for (const std::string& name : machine_names()) {
    CAPTURE(name);
    const MachineSpec m = load_machine(name);
    const Cluster c = make_cluster(m, {2, 0, {}});
    CHECK(c.ranks() == 2 * m.gpus_per_node);
    REQUIRE(c.topology);
    CHECK(c.topology->ranks() == c.ranks());
    CHECK(c.topology->nodes() == 2);
    CHECK(!c.topology->route(Rank(0), Rank(c.ranks() - 1)).empty());
    CHECK(c.sources == m.sources);
    for (const Link& link : c.topology->links()) CHECK(link.capacity <= link.nominal);
  }
  const SourcePlace place{"s.toml", 4, 2};
  CHECK_THROWS_WITH_AS(make_cluster(load_machine("h100_sxm"), {1, 16, {}}, place),
                       doctest::Contains("s.toml:4:2: error: 16 GPUs of each node are asked for; h100_sxm has 8"),
                       InputError);
  CHECK_THROWS_WITH_AS(make_cluster(load_machine("v100_32g"), {1, 4, {}}, place), doctest::Contains("s.toml:4:2"),
                       InputError);
  CHECK_THROWS_WITH_AS(make_cluster(load_machine("h100_sxm"), {2, 8, {{"no such link*", 0.5}}}, place),
                       doctest::Contains("s.toml:4:2"), InputError);
}

TEST_CASE("an overlay replaces single numbers and their sources") {
  const std::string path = test::scratch("overlay.fit.toml");
  write_file(path,
             "machine = \"a100_80g_sxm\"\n[gpu]\nlaunch = { value = \"4.5 us\", source = \"measured here\" }\n"
             "[node.gpu_link]\nefficiency = { value = 0.8, source = \"measured here\" }\n"
             "[gpu.peak]\nfp8 = { value = \"400 TFLOPS\", source = \"not on this GPU\" }\n");
  MachineSpec m = load_machine("a100_80g_sxm");
  const MachineSpec before = m;
  apply_overlay(m, path);
  CHECK(m.gpu.launch.value() == 4'500'000);
  CHECK(m.node.gpu_link.efficiency == 0.8);
  CHECK(m.gpu.peak_of(Math::fp8)->value() == 400e12);
  CHECK(m.sources.at("gpu.launch") == "measured here");
  CHECK(m.sources.at("gpu.memory") == before.sources.at("gpu.memory"));
  CHECK(m.gpu.memory_bandwidth == before.gpu.memory_bandwidth);
  CHECK(m.node.gpu_link.nominal == before.node.gpu_link.nominal);
  // A refused overlay changes nothing.
  MachineSpec h100 = load_machine("h100_sxm");
  CHECK_THROWS_AS(apply_overlay(h100, std::string(MOESIM_TESTS_DIR) + "/bad_input/machines/overlay_other_machine.toml"),
                  InputError);
  CHECK(h100.gpu.launch == load_machine("h100_sxm").gpu.launch);
}

TEST_CASE("names that are none") {
  const SourcePlace place{"s.toml", 3, 11};
  CHECK_THROWS_WITH_AS(load_machine("h100", place),
                       doctest::Contains("s.toml:3:11: error: no machine is called 'h100'"), InputError);
  CHECK_THROWS_WITH_AS(load_machine("h100"), doctest::Contains("did you mean 'h100_sxm'?"), InputError);
  CHECK_THROWS_WITH_AS(load_machine("tpu"), doctest::Contains("ends in .toml"), InputError);
  CHECK_THROWS_WITH_AS(load_machine("/nowhere/x.toml"), doctest::Contains("no such file"), InputError);
}

TEST_CASE("bad machine files") {
  const std::vector<std::string> files = test::bad_files("machines");
  CHECK(files.size() >= 15);
  for (const std::string& file : files) {
    const bool overlay = std::filesystem::path(file).filename().string().starts_with("overlay_");
    test::check_faults(file, [&](const std::string& path) {
      if (!overlay) {
        load_machine(path);
        return;
      }
      MachineSpec m = load_machine("h100_sxm");
      apply_overlay(m, path);
    });
  }
}

}  // namespace
}  // namespace moesim::hardware
