#include "study/scenario.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <random>

#include "study/resolve.hpp"
#include "support/files.hpp"
#include "tests/bad_input/expect.hpp"
#include "tests/scratch.hpp"

namespace moesim::study {
namespace {

constexpr std::string_view minimal = R"(name = "smallest"

[model]
name = "mixtral-8x7b"

[cluster]
machine = "h100_sxm"

[workload]
phase = "prefill"
sequences = 8
sequence_length = 128

[routing]
law = "uniform"

[[strategy]]
kind = "expert_parallel"
)";

Scenario read(const std::string& extra = {}, const std::vector<RawValue>& changes = {}) {
  return parse_scenario(std::string(minimal) + extra, "s.toml", changes);
}

TEST_CASE("the smallest scenario and its defaults") {
  const Scenario s = read();
  CHECK(s.name == "smallest");
  CHECK(s.model.name == "mixtral-8x7b");
  CHECK_FALSE(s.model.overrides.experts);
  CHECK(s.cluster.machine == "h100_sxm");
  CHECK(s.cluster.shape.nodes == 1);
  CHECK(s.cluster.shape.gpus_per_node == 0);
  CHECK(s.cluster.network.shape.kind == hardware::NetworkFabric::Kind::single);
  CHECK(s.workload.workload.phase == Workload::Phase::prefill);
  CHECK(s.workload.workload.sequences == 8);
  CHECK(s.workload.workload.sequence_length == 128);
  CHECK(s.workload.workload.kv_length == 0);
  CHECK(s.workload.workload.activations == DType::bf16);
  CHECK_FALSE(s.workload.workload.math);
  CHECK(s.routing.synthetic.law.name == "uniform");
  CHECK(s.routing.synthetic.seed == 0);
  REQUIRE(s.strategies.size() == 1);
  CHECK(s.strategies[0].kind == "expert_parallel");
  CHECK(s.strategies[0].name == "expert_parallel");
  CHECK(s.strategies[0].options.empty());
  CHECK_FALSE(s.simulation.exact);
  CHECK(s.simulation.network_error == 0.01);
  CHECK(s.report.baseline.empty());
  CHECK(s.place("cluster.machine").line == 7);
  CHECK(s.place("cluster.machine").column == 11);
  CHECK(s.place("cluster.network.kind").line == 6);  // absent: the nearest table that is there
  CHECK(s.place("nothing").line == 1);
}

TEST_CASE("everything that a scenario can say") {
  const Scenario s = parse_scenario(R"(name = "all"
description = "of it"
[model]
name = "mixtral-8x7b"
experts = 16
top_k = 4
layers = 2
weights = "fp8"
expert_weights = "fp4"
activations = "f16"
kv_cache = "fp8"
math = "tf32"
[cluster]
machine = "a100_80g_sxm"
nodes = 4
gpus_per_node = 4
[cluster.network]
kind = "rail"
nic = "400 Gb/s"
nics_per_node = 4
switch_latency = "0.5 us"
nodes_per_leaf = 2
spines = 3
oversubscription = 2
pxn = false
[[cluster.degraded]]
links = "n0/*"
factor = 0.5
[workload]
phase = "decode"
sequences_per_gpu = 3
kv_length = 1000
[routing]
law = "zipf"
exponent = 1.2
order = "shuffled"
sampling = "expected"
affinity = 0.25
seed = 7
[[strategy]]
kind = "expert_parallel"
name = "EP"
size = 4
padded = true
factor = 1.25
text = "a"
[[strategy]]
kind = "tensor_parallel"
[simulation]
network = "bounded"
network_error = 0.05
[report]
baseline = "EP"
sort = "moe_layer"
[[sweep]]
key = "model.experts"
values = [16, 32]
[[published]]
strategy = "EP"
metric = "moe_layer_ms"
at = { "model.experts" = 32 }
value = 12.5
unit = "ms"
use = "predict"
source = "a paper, table 3"
[[published]]
strategy = "tensor_parallel"
metric = "speedup"
value = 2
use = "fit"
source = "a paper, table 4"
)",
                                    "s.toml");
  CHECK(*s.model.overrides.experts == 16);
  CHECK(*s.model.overrides.top_k == 4);
  CHECK(*s.model.overrides.layers == 2);
  CHECK(*s.model.overrides.weights == DType::fp8);
  CHECK(*s.model.overrides.expert_weights == DType::fp4);
  const Workload& w = s.workload.workload;
  CHECK(w.activations == DType::f16);
  CHECK(w.kv_cache == DType::fp8);
  CHECK(*w.math == Math::tf32);
  CHECK(w.phase == Workload::Phase::decode);
  CHECK(w.sequences == 0);
  CHECK(*s.workload.sequences_per_gpu == 3);
  CHECK(w.kv_length == 1000);
  CHECK(s.cluster.shape.nodes == 4);
  CHECK(s.cluster.shape.gpus_per_node == 4);
  const NetworkChoice& n = s.cluster.network;
  CHECK(n.shape.kind == hardware::NetworkFabric::Kind::rail);
  CHECK(n.nic->value() == 50e9);
  CHECK(*n.nics_per_node == 4);
  CHECK(n.switch_latency->value() == 500'000);
  CHECK(n.shape.nodes_per_leaf == 2);
  CHECK(n.shape.spines == 3);
  CHECK(n.shape.oversubscription == 2.0);
  CHECK_FALSE(n.shape.pxn);
  REQUIRE(s.cluster.shape.degraded.size() == 1);
  CHECK(s.cluster.shape.degraded[0].links == "n0/*");
  CHECK(s.cluster.shape.degraded[0].factor == 0.5);
  CHECK(s.routing.synthetic.law.name == "zipf");
  CHECK(s.routing.synthetic.law.parameters.at("exponent") == 1.2);
  CHECK(s.routing.synthetic.order == load::Order::shuffled);
  CHECK(s.routing.synthetic.sampling == load::Sampling::expected);
  CHECK(s.routing.synthetic.affinity == 0.25);
  CHECK(s.routing.synthetic.seed == 7);
  REQUIRE(s.strategies.size() == 2);
  CHECK(s.strategies[0].name == "EP");
  const std::vector<OptionValue>& options = s.strategies[0].options;
  REQUIRE(options.size() == 4);
  CHECK(options[0].key == "size");
  CHECK(std::get<std::int64_t>(options[0].value) == 4);
  CHECK(std::get<bool>(options[1].value));
  CHECK(std::get<double>(options[2].value) == 1.25);
  CHECK(std::get<std::string>(options[3].value) == "a");
  CHECK(options[0].place.line == 43);
  CHECK(options[0].place.column == 8);
  CHECK(s.strategies[1].name == "tensor_parallel");
  CHECK(s.report.baseline == "EP");
  CHECK(s.report.sort == ReportChoice::Sort::moe_layer);
  REQUIRE(s.published.size() == 2);
  CHECK(s.published[0].metric == "moe_layer_ms");
  CHECK(s.published[0].unit == "ms");
  CHECK(s.published[0].value == 12.5);
  CHECK_FALSE(s.published[0].used_in_fit);
  CHECK(s.published[0].at == std::vector<std::pair<std::string, std::string>>{{"model.experts", "32"}});
  CHECK(s.published[1].unit == "x");
  CHECK(s.published[1].used_in_fit);
}

TEST_CASE("the cross product of a sweep, the last axis fastest") {
  const Scenario s = read(R"(
[[sweep]]
key = "model.experts"
values = [8, 16, 32]

[[sweep]]
key = "strategy.expert_parallel.size"
values = [4, 8]

[[sweep]]
key = "cluster.machine"
values = ["h100_sxm"]
)");
  const std::vector<ScenarioPoint> points = expand(s);
  REQUIRE(points.size() == 6);
  std::size_t i = 0;
  for (const std::int64_t experts : {8, 16, 32}) {
    for (const std::int64_t size : {4, 8}) {
      const ScenarioPoint& p = points[i++];
      CHECK(*p.scenario.model.overrides.experts == experts);
      REQUIRE(p.scenario.strategies[0].options.size() == 1);
      CHECK(std::get<std::int64_t>(p.scenario.strategies[0].options[0].value) == size);
      CHECK(p.axes ==
            std::vector<std::pair<std::string, std::string>>{{"model.experts", std::to_string(experts)},
                                                             {"strategy.expert_parallel.size", std::to_string(size)},
                                                             {"cluster.machine", "\"h100_sxm\""}});
      // Places lead to the value in the sweep.
      CHECK(p.scenario.place("model.experts").line == 22);
    }
  }
  CHECK(*s.model.overrides.experts == 8);  // as read: the first values
  CHECK(expand(read()).size() == 1);
  CHECK(expand(read())[0].axes.empty());
}

TEST_CASE("a swept key need not stand in the file") {
  std::string text(minimal);
  text.erase(text.find("sequences = 8\n"), 14);
  text += "\n[[sweep]]\nkey = \"workload.sequences\"\nvalues = [16, 32]\n";
  const std::vector<ScenarioPoint> points = expand(parse_scenario(text, "s.toml"));
  REQUIRE(points.size() == 2);
  CHECK(points[1].scenario.workload.workload.sequences == 32);
}

TEST_CASE("a sweep of too many points is refused before they are made") {
  std::string extra;
  for (const char* key : {"model.experts", "model.top_k", "cluster.nodes"}) {
    extra += std::string("\n[[sweep]]\nkey = \"") + key + "\"\nvalues = [1";
    for (int v = 2; v <= 50; ++v) extra += ", " + std::to_string(v);
    extra += "]\n";
  }
  // top_k = 2 experts = 1 is a fault of some points, but 125,000 points come first.
  CHECK_THROWS_WITH_AS(expand(read(extra)), doctest::Contains("more than 100000 points"), InputError);
}

TEST_CASE("changes from outside are faults at their own place") {
  const Scenario s = read("", {{"cluster.nodes", std::int64_t{3}, {"--set", 0, 0}}});
  CHECK(s.cluster.shape.nodes == 3);
  CHECK(expand(s)[0].scenario.cluster.shape.nodes == 3);
  CHECK_THROWS_WITH_AS(read("", {{"cluster.nodes", std::int64_t{0}, {"--set", 0, 0}}}),
                       doctest::Contains("--set: error: 'cluster.nodes': 0 must be at least 1"), InputError);
  CHECK_THROWS_WITH_AS(read("", {{"cluster.nods", std::int64_t{1}, {"--set", 0, 0}}}),
                       doctest::Contains("did you mean 'nodes'?"), InputError);
}

TEST_CASE("paths are relative to the scenario file") {
  const std::filesystem::path dir = test::scratch("scenario");
  write_file((dir / "study" / "box.toml").string(), read_file(data_path("models/hardware/machines/h800.toml")));
  write_file((dir / "fit" / "box.fit.toml").string(),
             "machine = \"box\"\n[gpu]\nlaunch = { value = \"4 us\", source = \"measured here\" }\n");
  std::string text(minimal);
  text.replace(text.find("\"h100_sxm\""), 10, "\"box.toml\"\noverlays = [\"../fit/box.fit.toml\"]");
  const std::string path = (dir / "study" / "s.toml").string();
  write_file(path, text);
  const Scenario s = read_scenario(path);
  const hardware::MachineSpec m = resolved_machine(s);
  CHECK(m.id == "box");
  CHECK(m.gpu.launch.value() == 4'000'000);
  CHECK(m.sources.at("gpu.launch") == "measured here");
  // A fault in the overlay is reported in the overlay, by resolve and together with the others.
  write_file((dir / "fit" / "box.fit.toml").string(), "[gpu]\nlaunch = { value = \"4 GB\", source = \"a slip\" }\n");
  CHECK_THROWS_WITH_AS(
      resolve(s), doctest::Contains("box.fit.toml:2:20: error: 'gpu.launch.value': '4 GB' is an amount"), InputError);
}

TEST_CASE("files that are no scenario at all") {
  CHECK_THROWS_WITH_AS(read_scenario("/nowhere/s.toml"), doctest::Contains("no such file"), InputError);
  CHECK_THROWS_WITH_AS(read_scenario("/tmp"), doctest::Contains("is a directory"), InputError);
  CHECK_THROWS_WITH_AS(parse_scenario("", "s.toml"), doctest::Contains("s.toml: error: is empty"), InputError);
  CHECK_THROWS_AS(parse_scenario(std::string("\0\x01\x02", 3), "s.toml"), InputError);
  CHECK_THROWS_AS(parse_scenario(std::string(5000, '['), "s.toml"), InputError);
}

// Whatever is in the file: it is read, or refused with a place in it.
TEST_CASE("damaged scenarios are read or refused") {
  const std::string whole =
      std::string(minimal) +
      "size = 4\nfactor = 1.25\n[cluster.network]\nkind = \"rail\"\nnic = \"400 Gb/s\"\n[report]\nbaseline = "
      "\"expert_parallel\"\n[[sweep]]\nkey = \"model.experts\"\nvalues = [8, 16]\n";
  CHECK(expand(parse_scenario(whole, "s.toml")).size() == 2);
  std::mt19937_64 random(11);
  int refused = 0;
  constexpr int tries = 3000;
  for (int i = 0; i < tries; ++i) {
    std::string text = whole;
    for (std::uint64_t edits = 1 + random() % 3; edits > 0; --edits) {
      const std::size_t at = random() % text.size();
      const std::size_t length = 1 + random() % 12;
      constexpr std::string_view letters = "\"[]={}.,-019ex\n# \\\0\xff";
      switch (random() % 4) {
        case 0:
          text.erase(at, length);
          break;
        case 1:
          text.insert(at, 1, letters[random() % letters.size()]);
          break;
        case 2:
          text[at] = static_cast<char>(random());
          break;
        default:
          text.insert(at, text.substr(random() % text.size(), length));
          break;
      }
      if (text.empty()) text = "x";
    }
    try {
      (void)expand(parse_scenario(text, "s.toml"));
    } catch (const InputError& e) {
      ++refused;
      REQUIRE(!e.diagnostics().empty());
      for (const Diagnostic& d : e.diagnostics()) {
        CHECK(d.place.file == "s.toml");
        CHECK(!d.message.empty());
      }
    }
  }
  CHECK(refused > tries / 2);
  CHECK(refused < tries);
}

TEST_CASE("bad scenario files") {
  const std::vector<std::string> files = test::bad_files("scenarios");
  CHECK(files.size() >= 40);
  for (const std::string& file : files)
    test::check_faults(file, [](const std::string& path) {
      for (const ScenarioPoint& point : expand(read_scenario(path))) resolve(point.scenario);
    });
}

}  // namespace
}  // namespace moesim::study
