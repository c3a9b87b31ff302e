#include "study/resolve.hpp"

#include <doctest/doctest.h>

#include <filesystem>

#include "support/files.hpp"
#include "tests/scratch.hpp"

namespace moesim::study {
namespace {

Scenario read(const std::string& cluster, const std::string& workload, const std::string& more = {}) {
  return parse_scenario("name = \"x\"\n[model]\nname = \"mixtral-8x7b\"\n[cluster]\n" + cluster + "[workload]\n" +
                            workload +
                            "[routing]\nlaw = \"zipf\"\nexponent = 1.0\nseed = 3\n"
                            "[[strategy]]\nkind = \"expert_parallel\"\nsize = 4\n" +
                            more,
                        "s.toml");
}

const std::string prefill = "phase = \"prefill\"\nsequences = 24\nsequence_length = 100\n";

TEST_CASE("names become things") {
  const Setup setup = resolve(read("machine = \"a100_80g_sxm\"\ngpus_per_node = 4\n", prefill));
  CHECK(setup.model.moe_layers() == 32);
  CHECK(setup.cluster.ranks() == 4);
  CHECK(setup.cluster.topology->ranks() == 4);
  CHECK(setup.cluster.gpu.sms == 108);
  CHECK(setup.cluster.sources.contains("gpu.sms"));
  CHECK(setup.workload.sequences == 24);
  CHECK(setup.routing->tokens() == 2400);
  CHECK(setup.routing->experts() == 8);
  CHECK(setup.routing->top_k() == 2);
  CHECK(setup.routing->moe_layers() == 32);
  CHECK(setup.routing->synthetic());
  REQUIRE(setup.strategies.size() == 1);
  CHECK(setup.strategies[0].label == "expert_parallel");
  CHECK(setup.strategies[0].strategy->name == "expert_parallel");
  CHECK(setup.strategies[0].options.integer("size") == 4);
}

TEST_CASE("overrides reach the model and its routing") {
  Scenario s = read("machine = \"h100_sxm\"\n", prefill);
  s.model.overrides.experts = 16;
  s.model.overrides.top_k = 3;
  s.model.overrides.layers = 2;
  const Setup setup = resolve(s);
  CHECK(setup.model.moe_layers() == 2);
  CHECK(setup.routing->experts() == 16);
  CHECK(setup.routing->top_k() == 3);
  CHECK(setup.routing->moe_layers() == 2);
}

TEST_CASE("sequences per GPU count the GPUs that take part") {
  const Setup setup = resolve(read("machine = \"h100_sxm\"\nnodes = 2\ngpus_per_node = 4\n",
                                   "phase = \"decode\"\nsequences_per_gpu = 5\nkv_length = 1000\n"));
  CHECK(setup.workload.sequences == 40);
  CHECK(setup.routing->tokens() == 40);  // one new token each
  CHECK(setup.cluster.ranks() == 8);
}

TEST_CASE("what a scenario says of the network replaces the machine's, with the scenario as its source") {
  const std::string cluster =
      "machine = \"h100_sxm\"\nnodes = 4\nnetwork = { kind = \"leaf_spine\", nic = \"200 Gb/s\", nics_per_node = 4, "
      "spines = 2, "
      "nodes_per_leaf = 2, oversubscription = 2 }\n";
  const Scenario s = read(cluster, prefill);
  const hardware::MachineSpec machine = resolved_machine(s);
  const hardware::MachineSpec plain = hardware::load_machine("h100_sxm");
  CHECK(machine.network.kind == hardware::NetworkFabric::Kind::leaf_spine);
  CHECK(machine.network.nic.nominal.value() == 25e9);
  CHECK(machine.network.nic.efficiency == plain.network.nic.efficiency);
  CHECK(machine.network.nics_per_node == 4);
  CHECK(machine.network.switch_latency == plain.network.switch_latency);
  CHECK(machine.network.oversubscription == 2.0);
  CHECK(machine.sources.at("network.nic.nominal") == "the scenario, s.toml:7");
  CHECK(machine.sources.at("network.switch_latency") == plain.sources.at("network.switch_latency"));
  const Setup setup = resolve(s);
  CHECK(setup.cluster.topology->nodes() == 4);
  // A card at 200 Gb/s is the widest that leaves a node.
  for (const Link& link : setup.cluster.topology->links())
    if (link.kind == LinkKind::nic) CHECK(link.nominal.value() <= 25e9);
}

TEST_CASE("a recorded routing stands in for a law") {
  const std::filesystem::path dir = test::scratch("resolve");
  const std::string scenario = (dir / "s.toml").string();
  std::string records;
  for (const char* ids : {"[0, 1]", "[2, 3]", "[4, 5]", "[6, 7]"})
    records += std::string("{\"layer\": 0, \"topk_ids\": ") + ids + "}\n";
  write_file((dir / "routes.jsonl").string(), records);
  const auto with = [&](const std::string& routing) {
    return parse_scenario(
        "name = \"x\"\n[model]\nname = \"mixtral-8x7b\"\nlayers = 2\n[cluster]\nmachine = \"h100_sxm\"\n[workload]\n" +
            prefill + "[routing]\ntrace = \"routes.jsonl\"\n" + routing + "[[strategy]]\nkind = \"expert_parallel\"\n",
        scenario);
  };
  const Setup setup = resolve(with("repeat = true\nlayers = \"cycle\"\n"));
  CHECK_FALSE(setup.routing->synthetic());
  CHECK(setup.routing->tokens() == 2400);
  CHECK(setup.routing->moe_layers() == 2);
  std::vector<ExpertIndex> chosen(4);
  setup.routing->assign(1, 4, chosen);  // token 4 is the record's first again, layer 1 its layer 0
  CHECK(chosen == std::vector<ExpertIndex>{0, 1, 2, 3});
  setup.routing->assign(0, 2, chosen);
  CHECK(chosen == std::vector<ExpertIndex>{4, 5, 6, 7});
  const Setup part = resolve(with("repeat = true\nlayers = \"cycle\"\nwindow = { first = -2, count = 1 }\n"));
  part.routing->assign(0, 0, chosen);
  CHECK(chosen == std::vector<ExpertIndex>{4, 5, 4, 5});
  // Four tokens are not enough for 2,400, and one layer not for two.
  CHECK_THROWS_AS(resolve(with("layers = \"cycle\"\n")), InputError);
  CHECK_THROWS_AS(resolve(with("repeat = true\n")), InputError);
}

TEST_CASE("faults of model, machine, workload and strategies come together") {
  Scenario s = read("machine = \"h100_sxm\"\ngpus_per_node = 16\n", prefill, "wobble = 1\n");
  s.model.name = "mixtral";
  s.workload.workload.phase = Workload::Phase::encode;
  try {
    resolve(s);
    FAIL("nothing was wrong");
  } catch (const InputError& e) {
    const std::string text = e.what();
    CHECK(e.diagnostics().size() == 3);
    CHECK(text.find("s.toml:3:8: error:") != std::string::npos);  // the model's name
    CHECK(text.find("s.toml:6:17: error: 16 GPUs") != std::string::npos);
    CHECK(text.find("s.toml:18:10: error: expert_parallel has no option 'wobble'") != std::string::npos);
  }
}

}  // namespace
}  // namespace moesim::study
