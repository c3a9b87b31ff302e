#include "strategies/placement/map_file.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "moesim/error.hpp"
#include "recorded.hpp"
#include "tests/scratch.hpp"

namespace moesim::placement {
namespace {

const LayerMaps maps{map_of({{0, 1, 2}, {3, 0, 4}}), map_of({{4, 3, 1}, {2, 1, 0}})};
// MoE layers 1 and 2 of a model whose layer 0 is dense.
const MapInfo info{.model = "m",
                   .method = "local_search",
                   .experts = 5,
                   .gpus = 2,
                   .nodes = 1,
                   .hidden_layers = 3,
                   .moe_layers = {1, 2}};

std::string fault(const std::string& text, const MapInfo& expected = info) {
  try {
    (void)parse_map(text, "f.json", expected);
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}
bool names(const std::string& what, std::string_view part) { return what.find(part) != std::string::npos; }

TEST_CASE("every form is read back as it was written") {
  for (const MapFormat f : {MapFormat::moesim, MapFormat::sglang, MapFormat::vllm}) {
    CHECK(parse_map_format(to_string(f)) == f);
    CHECK(parse_map(map_text(maps, info, f), "f.json", info).maps == maps);
  }
  CHECK_FALSE(parse_map_format("vLLM").has_value());
  const std::string path = test::scratch("map.json");
  write_map(path, maps, info, MapFormat::moesim);
  CHECK(read_map(path, info).maps == maps);
  std::filesystem::remove(path);
  CHECK_THROWS_AS((void)read_map(path, info), InputError);
}

TEST_CASE("the forms that engines load") {
  // SGLang passes the object's items on as arguments: any other key is a TypeError there. It wants a row per layer.
  const auto sglang = nlohmann::json::parse(map_text(maps, info, MapFormat::sglang));
  CHECK(sglang.size() == 1);
  const auto rows = sglang.at("physical_to_logical_map").get<std::vector<std::vector<int>>>();
  CHECK(rows == std::vector<std::vector<int>>{{0, 1, 2, 3, 4, 0}, {0, 1, 2, 3, 0, 4}, {4, 3, 1, 2, 1, 0}});
  const auto vllm = nlohmann::json::parse(map_text(maps, info, MapFormat::vllm));
  CHECK(vllm.get<std::vector<std::vector<int>>>() ==
        std::vector<std::vector<int>>{{0, 1, 2, 3, 0, 4}, {4, 3, 1, 2, 1, 0}});
}

TEST_CASE("uneven GPUs: kept in our form, refused in theirs") {
  const LayerMaps uneven{map_of({{0, 1}, {2, 3, 4, 0}}), map_of({{0, 1, 2}, {2, 3, 4}})};
  CHECK(parse_map(map_text(uneven, info, MapFormat::moesim), "f", info).maps == uneven);
  CHECK_THROWS_AS((void)map_text(uneven, info, MapFormat::sglang), InputError);
  CHECK_THROWS_AS((void)map_text(uneven, info, MapFormat::vllm), InputError);
}

TEST_CASE("a single row stands for all layers") {
  const MapRead flat = parse_map("[0, 1, 2, 3, 4, 0]", "f", info);
  CHECK(flat.maps == LayerMaps(2, map_of({{0, 1, 2}, {3, 4, 0}})));
  CHECK(parse_map("[[0, 1, 2, 3, 4, 0]]", "f", info).maps == flat.maps);
}

TEST_CASE("bad files: every fault with its line and column") {
  CHECK(names(fault("[[0, 1, 2, 3, 4, 0],\n [0, 1, 9, 3, 4, 0]]"),
              "f.json:2:9: error: slot 2 holds 9; experts are numbered 0 to 4"));
  CHECK(names(fault("[[0, 1, 2, 3, 4, -1],\n [0, 1, 2, 3, \"4\", 0]]"), "f.json:1:18: error: slot 5 holds -1"));
  CHECK(names(fault("[[0, 1, 2, 3, 4, -1],\n [0, 1, 2, 3, \"4\", 0]]"), "f.json:2:15: error: slot 4 holds \"4\""));
  CHECK(names(fault("[[0, 1, 2, 3, 4, 1.5], [0, 1, 2, 3, 4, 0]]"), "slot 5 holds 1.5"));
  CHECK(names(fault("[[0, 1, 2, 3], [0, 1, 2, 3]]"), "4 slots for 5 experts"));
  CHECK(names(fault("[[0, 1, 2, 3, 4, 0, 1], [0, 1, 2, 3, 4, 0, 1]]"), "7 slots do not divide by 2 GPUs"));
  CHECK(names(fault("[[0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 4, 0]]"), "f.json:1:3: error: expert 4 has no slot"));
  CHECK(names(fault("[[0, 1, 2, 3, 4, 0], [0, 1, 2, 3, 4, 0], [0], [0]]"),
              "4 rows for a model of 2 MoE layers (3 layers in all)"));
  CHECK(names(fault("{\"map\": []}"), "there is no \"physical_to_logical_map\""));
  CHECK(names(fault("{\"physical_to_logical_map\": 3}"), "array of rows"));
  CHECK(names(fault("[]"), "array of rows"));
  CHECK(names(fault("[3, [0]]"), "slot 1 holds [0]"));
  CHECK(names(fault("[[0, 1, 2, 3, 4, 0], 3]"), "array of expert ids"));
  CHECK(names(fault("[[0, 1, 2,\n 3, 4"), "f.json:2:"));
  CHECK(names(fault("[[0, 1, 2,\n 3, 4"), "not JSON"));
  CHECK(names(fault(""), "f.json:1:1: error: not JSON"));
}

TEST_CASE("a map of another model or cluster") {
  const std::string text = map_text(maps, info, MapFormat::moesim);
  MapInfo other = info;
  other.model = "another";
  CHECK(names(fault(text, other), "the map's model is \"m\"; here it is \"another\""));
  CHECK(names(fault(text, other), "f.json:4:3"));
  other = info;
  other.experts = 8;
  CHECK(names(fault(text, other), "the map's experts is 5; here it is 8"));
  other = info;
  other.gpus = 3;
  CHECK(names(fault(text, other), "the map's gpus is 2; here it is 3"));
  other = info;
  other.model.clear();
  CHECK(fault(text, other).empty());
}

TEST_CASE("a GPU that holds an expert twice: refused, or exchanged when asked") {
  const std::string text = "[[0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 0]]";
  CHECK(names(fault(text), "rank 0 holds expert 0 twice"));
  const MapRead read = parse_map(text, "f", info, Duplicates::exchange);
  CHECK(read.exchanges == 1);
  CHECK_NOTHROW(validate(read.maps[0], 5));
  CHECK(read.maps[1] == map_of({{0, 1, 2}, {3, 4, 0}}));
}

TEST_CASE("the table: one line per slot") {
  Loads loads(2, 5);
  loads.layer(0)[0] = 10;
  const std::string table = map_table(maps, info, &loads);
  CHECK(table.starts_with("moe_layer,layer,node,gpu,slot,expert,replica,replicas,load\n0,1,0,0,0,0,0,2,5\n"));
  CHECK(names(table, "\n0,1,0,1,4,0,1,2,5\n"));
  CHECK(std::count(table.begin(), table.end(), '\n') == 13);
  CHECK(names(map_table(maps, info), "\n1,2,0,1,5,0,0,1,\n"));
}

}  // namespace
}  // namespace moesim::placement
